"""One cluster of the embedded PostgreSQL: made, started, asked whether it answers."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from embver_pg.errors import InvalidArgument
from embver_pg.pgprograms import Account, EmbeddedServerError, run, socket_dir

DATABASE = "embver"
PORT = 5432  # of the socket's name only; no network is listened on
_NO_PID = (1 << 22) + 1  # Linux numbers processes up to 1 << 22
_START_TIMEOUT = 120  # seconds; a recovery after a crash is part of it
_BACKENDS_TIMEOUT = 30  # seconds; how long those of a killed server may take to notice

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "maintenance_work_mem": "512MB",  # an HNSW graph takes about 2.25 kB a vector
    "work_mem": "16MB",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "jit": "off",
    "log_checkpoints": "off",
}


def create_cluster(
    target: Path, programs: Path, account: Account, version: int, settings: Mapping[str, str]
) -> None:
    """Make a cluster beside its place and move it there, so that none is ever half made.

    Raises:
        InvalidArgument: The place is not empty.
        EmbeddedServerError: ``initdb`` failed.
    """
    if target.exists() and any(target.iterdir()):
        raise InvalidArgument(
            f"{target} holds files, but no PostgreSQL data",
            detail={"data_dir": str(target)},
            hint="name an empty or a new directory in EMBVER_DATA_HOME",
        )
    partial = target.with_name(f".{target.name}.new")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died here
    partial.mkdir(mode=0o700)
    os.chown(partial, account.uid, account.gid)
    if version >= 17:
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    else:
        locale = ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]
    options = [f"--set={name}={value}" for name, value in {**settings, **_memory()}.items()]
    run(
        programs / "initdb",
        *("-D", str(partial), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"),
        *(*locale, *options),
        account=account,
    )
    partial.rename(target)


def start_cluster(target: Path, programs: Path, account: Account) -> str:
    """Start the server of a data directory, or wait for one that starts already.

    Returns:
        The URL of :func:`answering_url`.

    Raises:
        EmbeddedServerError: It does not start; detail: the end of its log.
    """
    directory = socket_dir(target, account, PORT)
    pid_file = target / "postmaster.pid"
    deadline = time.monotonic() + _START_TIMEOUT
    while _is_held(pid_file) and time.monotonic() < deadline:
        if found := answering_url(target):
            return found
        time.sleep(0.02)
    _is_held(directory / f".s.PGSQL.{PORT}.lock")

    log = target / "server.log"
    read_from = log.stat().st_size if log.exists() else 0
    sockets = shlex.quote(f'"{directory}"')  # read by a shell, then as a list of names
    command = ("start", "-w", "-t", str(_START_TIMEOUT), "-D", str(target), "-l", str(log))
    deadline = time.monotonic() + _BACKENDS_TIMEOUT
    while (found := answering_url(target)) is None:
        try:
            run(programs / "pg_ctl", *command, "-o", f"-k {sockets}", account=account)
        except EmbeddedServerError as error:
            said = _read_from(log, read_from)
            if "still in use" in said[-1000:] and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            fatal = [line for line in said.splitlines() if "FATAL" in line][-1:]
            raise EmbeddedServerError(
                f"the embedded server did not start: {' '.join(fatal) or error.message}",
                detail={**error.detail, "log": said[-4000:], "log_file": str(log)},
                hint=f"read {log}, or name another server in EMBVER_DATABASE_URL",
            ) from error
    return found


def _read_from(log: Path, offset: int) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as handle:
        handle.seek(offset)
        return handle.read().decode(errors="replace")


def _is_held(lock_file: Path) -> bool:
    """Whether a lock file of PostgreSQL names a PostgreSQL that lives.

    PostgreSQL itself only asks whether the number is taken, and then refuses to start. In
    containers that is common: numbers recur after a restart, and nobody reaps a killed server.
    A file that names a zombie or another program is made to name nobody; the rest of it stays,
    by which PostgreSQL knows whether backends still use the shared memory.
    """
    try:
        pid, rest = lock_file.read_text().split("\n", 1)
        status = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError):  # no such file or process; elsewhere than on Linux, no answer
        return False
    program, _, state = status.partition("(")[2].rpartition(")")
    if program == "postgres" and state.split()[0] not in "ZX":
        return True
    lock_file.write_text(f"{_NO_PID}\n{rest}")
    return False


def answering_url(target: Path) -> str | None:
    """The URL of the database of the server that runs on a data directory, if one answers."""
    try:
        lines = (target / "postmaster.pid").read_text().splitlines()
    except OSError:
        return None
    if len(lines) < 8 or lines[7].strip() != "ready" or not lines[4]:
        return None
    port, directory = lines[3], lines[4]
    # After kill -9 the file stays, and its process number may be somebody else's by now: ask
    # the socket, which only a server that lives accepts on.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(f"{directory}/.s.PGSQL.{port}")
        except OSError:
            return None
    return f"postgresql://postgres@/{DATABASE}?host={quote(directory, safe='/')}&port={port}"


def _memory() -> Mapping[str, str]:
    """Where containers keep /dev/shm small, parallel index builds need another kind of memory."""
    try:
        shm = os.statvfs("/dev/shm")
    except OSError:
        return {}
    small = shm.f_frsize * shm.f_blocks < 1 << 30
    return {"dynamic_shared_memory_type": "mmap"} if small else {}
