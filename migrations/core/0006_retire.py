"""The former signature of retire_version goes; the routines bring the new one."""

from embver_pg.schema import run_file

revision = "core_0006"
down_revision = "core_0005"


def upgrade() -> None:
    run_file("schema/core/0006_retire.sql")
