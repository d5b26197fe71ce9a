"""The test database: a template with embver-pg installed, cloned for each test.

Tests act as three ordinary roles: ``owner`` (owns the source, administers embver), ``worker`` and
``reader``. Nothing but the creation of the database is done by a superuser.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from embver_pg import schema
from embver_pg.client import Embver
from embver_pg.db import Database, Row, open_connection
from embver_pg.worker import Worker
from tests import servers
from tests.waiting import NEVER

TEMPLATE = "embver_template"
GROUPS = {
    "embver_admin": "embver_owner",
    "embver_worker": "embver_w",
    "embver_reader": "embver_r",
}


# Drawn once and for all: a defect found by luck must not throw away a day's work. Another draw:
# --hypothesis-profile=drawn, or EMBVER_TEST_HISTORIES for the histories. A busy machine is slow.
settings.register_profile(
    "drawn", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
)
settings.register_profile("fixed", settings.get_profile("drawn"), derandomize=True)
settings.load_profile("fixed")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's `&` starts a run so, and every command that the tests interrupt inherits it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    servers.start_run()


def pytest_unconfigure(config: pytest.Config) -> None:
    servers.finish_run()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have recorded, also where they passed on another process."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", ()):
            if name == "figures" and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid}: {value}")


@dataclass(frozen=True)
class Installed:
    """A database of its own for one test.

    Attributes:
        owner: URL for the owner of the source, who administers embver too.
        worker: URL for a role that may only work.
        reader: URL for a role that may only search.
        stranger: URL for a role without any right.
        admin: URL for the superuser.
    """

    owner: str
    worker: str
    reader: str
    stranger: str
    admin: str

    def connect(self, role: str = "owner") -> psycopg.Connection[Row]:
        """A connection in autocommit, as one of the roles."""
        return open_connection(getattr(self, role))

    def embver(self, role: str = "owner") -> Embver:
        return Embver(Database(getattr(self, role)))

    def new_worker(self, role: str = "worker", **options: Any) -> Worker:
        """A worker's object; ``owner`` may build indexes too. Its leases do not depend on speed."""
        given = {"poll": 0.02, "batch_seconds": NEVER, **options}
        return Worker(Database(getattr(self, role)), **given)


def install(server: servers.Server, admin_url: str) -> None:
    """Roles, grants and the schema, installed by the ordinary role ``embver_owner``."""
    servers.create_roles(server)
    name = urlsplit(admin_url).path.removeprefix("/")
    with psycopg.connect(admin_url, autocommit=True) as connection:
        for group, member in GROUPS.items():
            known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (group,))
            if known.fetchone() is None:
                connection.execute(f'CREATE ROLE "{group}" NOLOGIN')
            connection.execute(f'GRANT "{group}" TO "{member}"')
        connection.execute(f'GRANT CREATE, TEMPORARY ON DATABASE "{name}" TO embver_owner')
        connection.execute("GRANT CREATE ON SCHEMA public TO embver_owner")
    schema.init(server.url(name, "embver_owner"))


def new_database(server: servers.Server) -> Installed:
    """A clone of the template."""
    template = servers.build_template(server, TEMPLATE, lambda url: install(server, url))
    admin = servers.clone_database(server, template, owner="embver_owner")
    name = urlsplit(admin).path.removeprefix("/")
    return Installed(*(server.url(name, role) for role in (*servers.ROLES, None)))


@pytest.fixture
def installed() -> Iterator[Installed]:
    """A database with embver-pg installed and nothing registered."""
    server = servers.server()
    database = new_database(server)
    yield database
    servers.drop_database(server, database.admin)


@pytest.fixture
def owner(installed: Installed) -> Iterator[psycopg.Connection[Row]]:
    """A connection of the source's owner."""
    with installed.connect() as connection:
        yield connection


@pytest.fixture
def docs(installed: Installed, owner: psycopg.Connection[Row]) -> Iterator[Embver]:
    """``public.docs`` with three rows, registered as ``docs``, version 1 (hash:8) filling."""
    owner.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, tenant int)")
    owner.execute(
        "INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i, i % 2"
        " FROM generate_series(1, 3) AS i"
    )
    owner.execute("GRANT SELECT ON docs TO embver_r")
    with installed.embver() as embver:
        collection = embver.create_collection("docs", "public.docs", "title || E'\\n' || body")
        collection.add_version("hash:8")
        collection.start_rollout(1)
        yield embver


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real collections; the test is skipped where they are not."""
    root = Path(__file__).resolve().parent.parent
    found = Path(os.environ.get("EMBVER_DATA_DIR") or root.parent / "shared" / "data")
    if not found.is_dir():
        pytest.skip(f"no data in {found}: set EMBVER_DATA_DIR")
    return found
