"""The canary: probe texts of each version and their vectors."""

from embver_pg.schema import run_file

revision = "core_0002"
down_revision = "core_0001"


def upgrade() -> None:
    run_file("schema/core/0002_canary.sql")
