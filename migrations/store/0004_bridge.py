"""The map from an older version's vectors into this version's space."""

from embver_pg.schema import run_file

revision = "store_0004"
down_revision = "store_0003"


def upgrade() -> None:
    run_file("schema/store/0004_bridge.sql")
