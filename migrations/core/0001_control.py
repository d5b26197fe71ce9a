"""The control schema: collections, versions, rollouts, routes, evaluations, events."""

from embver_pg.schema import run_file

revision = "core_0001"
down_revision = None


def upgrade() -> None:
    run_file("schema/core/0001_control.sql")
