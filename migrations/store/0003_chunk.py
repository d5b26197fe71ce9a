"""The place of a chunk in its document."""

from embver_pg.schema import run_file

revision = "store_0003"
down_revision = "store_0002"


def upgrade() -> None:
    run_file("schema/store/0003_chunk.sql")
