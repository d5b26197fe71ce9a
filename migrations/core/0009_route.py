"""What a route says about two versions that answer together."""

from embver_pg.schema import run_file

revision = "core_0009"
down_revision = "core_0008"


def upgrade() -> None:
    run_file("schema/core/0009_route.sql")
