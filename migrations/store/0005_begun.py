"""Which leases have gone on to an encoder."""

from embver_pg.schema import run_file

revision = "store_0005"
down_revision = "store_0004"


def upgrade() -> None:
    run_file("schema/store/0005_begun.sql")
