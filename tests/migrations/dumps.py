"""pg_dump and psql of the server's version, or of the release that a fixture is dumped with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

from embver_pg import embedded
from embver_pg.errors import InvalidArgument
from tests import servers
from tests.conftest import Installed

# A session's random key against injected meta-commands, new in the minor releases of 2025.
_RESTRICT = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)
_STAMPS = re.compile(r"^-- Dumped (from|by) .*\n", re.MULTILINE)


def empty_database() -> Installed:
    """A database with the extension and without embver-pg, on the run's server."""
    server = servers.server()
    name = f"empty_{uuid4().hex[:16]}"
    servers.create_database(server, name, owner="embver_owner")
    return Installed(*(server.url(name, role) for role in (*servers.ROLES, None)))


def dump(url: str, version: int, *options: str) -> str:
    """A database as a script for psql, ownership and privileges included.

    Args:
        url: Of the database, for a superuser.
        version: Major version of the pg_dump to use.
        options: For pg_dump.
    """
    text = _run(program("pg_dump", version), url, *options)
    return _STAMPS.sub("", _RESTRICT.sub("", text))


def restore(url: str, script: str, version: int) -> None:
    """Run a script in a database; the first error ends it.

    Args:
        url: Of the database, for the role that is to run it.
        script: For psql.
        version: Major version of the psql to use.
    """
    _run(program("psql", version), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, stdin=script)


def program(name: str, version: int) -> Path:
    """A client program of PostgreSQL, of the embedded server or of this machine."""
    try:
        return embedded.bin_dir(version) / name
    except InvalidArgument:  # the tests run on a server of another kind
        found = shutil.which(name)
        if found is None:
            raise
        return Path(found)


def _run(command: Path, *arguments: str, stdin: str | None = None) -> str:
    result = subprocess.run(
        [command, *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
    )
    assert result.returncode == 0, f"{command.name}: {result.stderr[-2000:]}"
    return result.stdout
