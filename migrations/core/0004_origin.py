"""Origins: the existing vectors that a version is filled with."""

from embver_pg.schema import run_file

revision = "core_0004"
down_revision = "core_0003"


def upgrade() -> None:
    run_file("schema/core/0004_origin.sql")
