"""Encoding everything again, by the walk."""

from embver_pg.schema import run_file

revision = "store_0006"
down_revision = "store_0005"


def upgrade() -> None:
    run_file("schema/store/0006_renewal.sql")
