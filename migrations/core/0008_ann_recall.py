"""The recall of indexes against exact search, as measured."""

from embver_pg.schema import run_file

revision = "core_0008"
down_revision = "core_0007"


def upgrade() -> None:
    run_file("schema/core/0008_ann_recall.sql")
