"""The tables of one model version: vectors, queue, leases, dead letters, walk."""

from embver_pg.schema import run_file

revision = "store_0001"
down_revision = None


def upgrade() -> None:
    run_file("schema/store/0001_store.sql")
