"""The heartbeat: says that a worker lives, and extends the leases that it holds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from uuid import UUID

import psycopg
from psycopg import sql

from embver_pg.db import Database, store_function
from embver_pg.errors import EmbverError

log = logging.getLogger("embver_pg.worker")
_SLOWEST = 20.0  # seconds between beats, at most


class Heart:
    """Beats in a thread of its own, from entering the context to leaving it.

    Only leases that the worker knows of are extended: a claim whose answer was lost with the
    connection leaves a lease that must expire.
    """

    def __init__(
        self, database: Database, worker_id: UUID, lease: float, written: Callable[[], int]
    ) -> None:
        """Prepare the heart.

        Args:
            database: Where the leases are.
            worker_id: Who holds them.
            lease: Seconds that a lease lasts from each beat.
            written: Documents written so far.
        """
        self._database = database
        self._worker_id = worker_id
        self._lease = lease
        self._written = written
        self._counted = 0
        self._held: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Heart:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="embver-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def hold(self, store: str, lease: int) -> None:
        """Extend this lease from now on."""
        with self._lock:
            self._held.add((store, lease))

    def release(self, store: str, lease: int) -> None:
        """Leave this lease alone from now on."""
        with self._lock:
            self._held.discard((store, lease))

    def _run(self) -> None:
        while not self._stop.wait(min(self._lease / 3, _SLOWEST)):
            try:
                self._beat()
            except (EmbverError, psycopg.Error) as error:
                log.warning("heartbeat failed: %s", str(error).strip())

    def _beat(self) -> None:
        with self._lock:
            held = sorted(self._held)
        for store in {store for store, _ in held}:
            leases = [lease for of, lease in held if of == store]
            extend = sql.SQL("SELECT {}(%s, make_interval(secs => %s), %s::bigint[])").format(
                store_function(store, "extend_leases")
            )
            self._database.rows(extend, (self._worker_id, self._lease, leases))
        written = self._written()
        self._database.rows(
            "SELECT embver_internal.worker_seen(%s, %s)",
            (self._worker_id, written - self._counted),
        )
        self._counted = written
