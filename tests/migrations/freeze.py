"""Freeze a release: ``python -m tests.migrations.freeze [VERSION]``, once, before it is tagged.

Writes the checksums of everything that a released schema must never change, and a dump of a
database that this release has installed: the start of every later upgrade test.
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from pathlib import Path

from tests import servers
from tests.conftest import new_database
from tests.migrations import dumps, scenario

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = Path(__file__).resolve().parent / "fixtures"
FROZEN = (
    "sql/schema/core/*.sql",
    "sql/schema/store/*.sql",
    "migrations/core/*.py",
    "migrations/store/*.py",
)
OLDEST = 16  # the dump of an older server restores on a newer one, not the other way round


def frozen_files() -> list[str]:
    """What a release freezes, as paths below the checkout."""
    found = [path for pattern in FROZEN for path in ROOT.glob(pattern)]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def checksum(relative: str) -> str:
    return hashlib.sha256((ROOT / relative).read_bytes()).hexdigest()


def current_release() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def main(release: str) -> None:
    FIXTURES.mkdir(exist_ok=True)
    lines = [f"{checksum(relative)}  {relative}\n" for relative in frozen_files()]
    (FIXTURES / f"{release}.sha256").write_text("".join(lines))
    with servers.private_server(OLDEST) as server:
        database = new_database(server)
        scenario.build(database)
        text = dumps.dump(database.admin, OLDEST)
    (FIXTURES / f"{release}.sql").write_text(text)
    print(f"frozen as {release}: {len(lines)} files, a dump of {len(text.splitlines())} lines")


if __name__ == "__main__":
    servers.start_run()
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else current_release())
    finally:
        servers.finish_run()
