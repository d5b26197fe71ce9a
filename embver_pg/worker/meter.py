"""One worker's door to budgets and limits: short calls, waits that end, spend to record."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
import tenacity

from embver_pg.db import Database, Row
from embver_pg.errors import EmbverError
from embver_pg.worker.background import AbandonedError

log = logging.getLogger("embver_pg.worker")
_FLUSH = 5.0  # seconds between records of what no budget and no price asks for


class Meter:
    """What one worker may send to providers, and what it has to account for."""

    def __init__(
        self, database: Database, worker_id: UUID, lease: float, stop: threading.Event
    ) -> None:
        """Prepare; nothing is asked of the database before there is something to pay for.

        Args:
            database: Where budgets and limits are.
            worker_id: Who spends.
            lease: Seconds after which a slot of a dead worker is free again.
            stop: Ends every wait.
        """
        self.database = database
        self.worker_id = worker_id
        self.lease = lease
        self.stop = stop
        self._unpaid: dict[tuple[str, int], list[int]] = {}
        self._flushed = time.monotonic()
        self._lock = threading.Lock()

    def call(self, query: str, parameters: Sequence[Any]) -> Row | None:
        """One short transaction, tried again while the server is away.

        Raises:
            AbandonedError: The worker is to stop.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(
                (psycopg.OperationalError, psycopg.InterfaceError)
            ),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            stop=lambda state: self.stop.is_set(),
            sleep=tenacity.sleep_using_event(self.stop),
            reraise=True,
        )
        return retrying(self.database.row, query, parameters)

    def pause(self, seconds: float) -> None:
        """Wait, a little longer than asked for, so that not all come back at once.

        Raises:
            AbandonedError: The worker is to stop.
        """
        if self.stop.wait(seconds * random.uniform(1.0, 1.2)):
            raise AbandonedError

    def record(self, target: Row, *figures: int) -> None:
        """Remember what was spent without a reservation; written at most every few seconds.

        Args:
            target: For which version.
            *figures: Documents, tokens, requests, and how many calls guessed their tokens.
        """
        self._add((target["collection"], target["version"]), figures)
        if time.monotonic() - self._flushed > _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is remembered; what cannot be written is kept."""
        with self._lock:
            taken, self._unpaid = self._unpaid, {}
            self._flushed = time.monotonic()
        for version, sums in taken.items():
            try:
                self.database.rows(
                    "SELECT embver_internal.record_spend(%s, %s, %s, %s, %s, %s > 0)",
                    (*version, *sums),
                )
            except (EmbverError, psycopg.Error) as error:
                log.info("the spend of %r, version %s, is not recorded yet: %s", *version, error)
                self._add(version, sums)

    def _add(self, version: tuple[str, int], figures: Sequence[int]) -> None:
        with self._lock:
            sums = self._unpaid.setdefault(version, [0] * len(figures))
            for position, number in enumerate(figures):
                sums[position] += number
