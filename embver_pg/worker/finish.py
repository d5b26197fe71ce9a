"""The end of a filling: the index and the state ``ready``, beside the worker's own work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any
from uuid import UUID

from embver_pg import indexing
from embver_pg.db import Database, Row
from embver_pg.worker import background

log = logging.getLogger("embver_pg.worker")
_SHORT_BUILD = 0.2  # seconds that are worth waiting for


class Finisher:
    """Builds indexes in threads, so that the queues of other stores do not wait for hours.

    A worker that stops leaves the build to the server, which goes on without its client; the
    next worker finds the index valid, or invalid and builds it anew.
    """

    def __init__(
        self,
        database: Database,
        worker_id: UUID,
        stop: threading.Event,
        on_step: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """Prepare; :meth:`step` starts the builds.

        Args:
            database: Where the stores are.
            worker_id: Who builds.
            stop: Ends the waits between attempts.
            on_step: Called with ``indexed`` and ``ready``, in the build's thread.
        """
        self._database = database
        self._worker_id = worker_id
        self._stop = stop
        self._on_step = on_step
        self._builds: dict[str, Future[None]] = {}

    def step(self, target: Row) -> bool:
        """Begin the end of a filling, or look how far it is.

        Args:
            target: A filling version whose queue is empty.

        Returns:
            Whether there is something to wait for: not where this role may not build.

        Raises:
            Exception: What the build failed with.
        """
        store: str = target["store"]
        build = self._builds.get(store)
        if build is None:
            with self._database.connection() as connection:
                if not indexing.may_build(connection, store):
                    return False
            build = background.start(partial(self._finish, target), f"embver-index-{store}")
            self._builds[store] = build
        if wait([build], _SHORT_BUILD).done:
            del self._builds[store]
            build.result()
        return True

    def _finish(self, target: Row) -> None:
        store: str = target["store"]
        with self._database.connection() as connection:
            if not indexing.build_index(connection, target, self._worker_id):
                return
            self._on_step("indexed", {"store": store})
            collection, version = target["collection"], target["version"]
            if indexing.mark_ready(connection, collection, version, sleep=self._wait):
                log.info("version %s of %r is ready", version, collection)
                self._on_step("ready", {"store": store})

    def _wait(self, seconds: float) -> None:
        self._stop.wait(seconds)
