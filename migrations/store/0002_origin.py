"""What was copied from the version's origin."""

from embver_pg.schema import run_file

revision = "store_0002"
down_revision = "store_0001"


def upgrade() -> None:
    run_file("schema/store/0002_origin.sql")
