"""Throttling of the filling: its policy, and what each worker makes of it."""

from embver_pg.schema import run_file

revision = "core_0005"
down_revision = "core_0004"


def upgrade() -> None:
    run_file("schema/core/0005_throttle.sql")
