"""Budgets and spend of rollouts, and the limits that all workers of one encoder share."""

from embver_pg.schema import run_file

revision = "core_0003"
down_revision = "core_0002"


def upgrade() -> None:
    run_file("schema/core/0003_budget.sql")
