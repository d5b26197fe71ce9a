"""The two workers of the demo, and the end of one of them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from embver_pg.db import Database
from embver_pg.demo.processes import Process
from embver_pg.demo.site import DemoFailedError, Site

LEASE_SECONDS = 10
_COMMAND = ("-m", "embver_pg.cli", "worker", "--lease", str(LEASE_SECONDS))
_KILL_SECONDS = 60.0


def start_worker(site: Site, number: int, *, batch: int) -> Process:
    """Start ``embver worker`` with a short lease.

    Args:
        site: Where.
        number: To tell them apart.
        batch: Documents a lease.
    """
    return Process(f"worker {number}", site, [*_COMMAND, "--batch", str(batch)])


@dataclass(frozen=True)
class Kill:
    """A worker killed with a batch in its hands.

    Attributes:
        at: On the machine's monotonic clock, in seconds.
        pid: Its process number.
        leases: Numbers of its leases.
        keys: The documents it held.
    """

    at: float
    pid: int
    leases: tuple[int, ...]
    keys: tuple[Any, ...]


def kill_at_work(worker: Process, database: Database, store: str, key: str) -> Kill:
    """Kill a worker with SIGKILL at a moment when it holds a lease.

    It is frozen first, so that it cannot finish between the look and the kill.

    Raises:
        DemoFailedError: It died before, or holds no lease for long.
    """
    query = sql.SQL(
        "SELECT l.lease_seq, l.{key} AS keys FROM {store}.lease AS l"
        " JOIN embver_internal.worker AS w ON w.worker_id = l.lease_worker WHERE w.pid = %s"
    ).format(key=sql.Identifier(key), store=sql.Identifier(store))
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        worker.check()
        os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(0.2)  # the server ends what it was told before
        if held := database.rows(query, (worker.pid,)):
            os.kill(worker.pid, signal.SIGKILL)
            worker.popen.wait()
            return Kill(
                time.monotonic(),
                worker.pid,
                tuple(row["lease_seq"] for row in held),
                tuple(name for row in held for name in row["keys"]),
            )
        os.kill(worker.pid, signal.SIGCONT)
        time.sleep(0.1)
    raise DemoFailedError("The worker to be killed takes no work.", detail={"log": worker.said()})


def is_taken_over(kill: Kill, database: Database, store: str) -> bool:
    """Whether the leases of the killed worker are gone: another worker has requeued them."""
    query = sql.SQL("SELECT count(*) FROM {}.lease WHERE lease_seq = ANY(%s)").format(
        sql.Identifier(store)
    )
    return bool(database.value(query, (list(kill.leases),)) == 0)


def settled(kill: Kill, database: Database, store: str, table: str, key: str) -> int:
    """How many documents of the killed worker have a vector now, or are deleted."""
    query = sql.SQL(
        "SELECT count(*) FROM unnest(%s::text[]) AS k (name)"
        " WHERE EXISTS (SELECT FROM {store}.embedding AS e WHERE e.{key} = k.name)"
        " OR NOT EXISTS (SELECT FROM {table} AS d WHERE d.{key} = k.name)"
    ).format(store=sql.Identifier(store), key=sql.Identifier(key), table=sql.Identifier(table))
    return int(database.value(query, (list(kill.keys),)))
