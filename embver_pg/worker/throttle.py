"""Holding back: the conditions of ``embver.set_throttle``, watched by every worker."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from embver_pg.db import Database

log = logging.getLogger("embver_pg.worker")
_LOOK = 1.0  # seconds between two looks


class Throttle:
    """Why this worker leaves versions that are being filled alone, if it does."""

    def __init__(self, database: Database, worker_id: UUID) -> None:
        """Prepare; nothing is asked yet.

        Args:
            database: Where the policy is.
            worker_id: Whose reason is shown in ``embver.workers``.
        """
        self._database = database
        self._worker_id = worker_id
        self._next = 0.0
        self._reason: str | None = None
        self._inactive: list[str] = []
        self._sample: tuple[Any, Any] = (None, None)

    def reason(self) -> str | None:
        """Why to hold back now; asked of the database at most once a second."""
        if time.monotonic() < self._next:
            return self._reason
        row = self._database.row(
            "SELECT reason, inactive, lsn::text, at"
            " FROM embver_internal.check_throttle(%s::pg_lsn, %s)",
            self._sample,
        )
        assert row is not None
        self._sample = (row["lsn"], row["at"])
        if row["reason"] != self._reason:
            self._say(row["reason"])
        if row["inactive"] != self._inactive:
            self._inactive = row["inactive"]
            if self._inactive:
                log.warning(
                    "the throttle does not watch %s: GRANT pg_monitor to the worker's role",
                    ", ".join(self._inactive),
                )
        self._next = time.monotonic() + _LOOK
        return self._reason

    def _say(self, reason: str | None) -> None:
        if reason is None:
            log.info("the filling goes on")
        elif self._reason is None:
            log.info("the filling is held back: %s", reason)
        self._reason = reason
        self._database.rows(
            "SELECT embver_internal.worker_throttled(%s, %s)", (self._worker_id, reason)
        )
