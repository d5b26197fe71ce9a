"""What a drain owes: it ends although others go on writing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import psycopg

from embver_pg.db import Database, Row
from embver_pg.worker.lease import call

_LOOK = 1.0  # seconds between two looks
_STEADY = 5.0  # seconds without a debt until a drain ends that others keep busy


class Debts:
    """Jobs enqueued before the drain began, the backfill, and versions that are not filled yet."""

    def __init__(self, database: Database) -> None:
        """Begin; what is enqueued from now on is owed to nobody.

        Args:
            database: Where the queues are.
        """
        self._database = database
        self._since: Any = database.value("SELECT clock_timestamp()")
        self._paid_since: float | None = None
        self._next = 0.0

    def are_paid(self, targets: Callable[[], Sequence[Row]], unbuilt: Collection[str]) -> bool:
        """Whether nothing has been owed for some seconds.

        Args:
            targets: Asks for the versions that this worker writes.
            unbuilt: Stores whose index is left to another role.
        """
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _LOOK
        try:
            is_owed = any(self._owes(target, unbuilt) for target in targets())
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            is_owed = True  # a store was dropped meanwhile: look again
        if is_owed:
            self._paid_since = None
            return False
        self._paid_since = self._paid_since or now
        return now - self._paid_since >= _STEADY

    def _owes(self, target: Row, unbuilt: Collection[str]) -> bool:
        store: str = target["store"]
        if target["state"] == "filling" and store not in unbuilt:
            return True
        walk = call(self._database, store, "walk_status")
        if walk is not None and walk["phase"] not in ("done", "idle"):
            return True
        found = call(self._database, store, "is_owed", self._since)
        return bool(found and found["is_owed"])
