"""One lease after another: claim, encode in the background, complete, or give back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import tenacity
from psycopg import sql

from embver_pg import codec
from embver_pg.db import Database, Row, is_lost_connection, store_function
from embver_pg.errors import LeaseLost
from embver_pg.worker.background import AbandonedError, Background
from embver_pg.worker.batch import Encoded, Item, encode_batch, stacked
from embver_pg.worker.charge import metered
from embver_pg.worker.heart import Heart
from embver_pg.worker.meter import Meter
from embver_pg.worker.model import Encoders
from embver_pg.worker.pieces import cut, places, whole

log = logging.getLogger("embver_pg.worker")
_LOCKED = 60.0  # seconds to try writing behind a lock before the lease is given back


@dataclass(frozen=True)
class Limits:
    """How much is leased, and for how long.

    Attributes:
        batch: Documents a lease, at most.
        lease: Seconds after which a silent worker's documents go to another.
        grace: Seconds that an encoding may go on after a stop.
    """

    batch: int
    lease: float
    grace: float


@dataclass
class WorkerReport:
    """What a worker did.

    Attributes:
        written: Documents whose vectors were written.
        failed: Documents that became dead letters.
        returned: Documents put back because they changed meanwhile or were locked.
        truncated: Documents, or chunks, of which the model read the beginning only.
        seconds: Time spent.
    """

    written: int = 0
    failed: int = 0
    returned: int = 0
    truncated: int = 0
    seconds: float = 0.0


class Leases:
    """Works off queues, one lease at a time; no transaction is open while the encoder runs."""

    def __init__(
        self,
        database: Database,
        worker_id: UUID,
        limits: Limits,
        encoders: Encoders,
        stop: threading.Event,
        on_step: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """Prepare; the heart beats while the context is entered.

        Args:
            database: Where the queues are.
            worker_id: Who holds the leases.
            limits: How much is leased, and for how long.
            encoders: The encoders of the versions.
            stop: Ends every wait.
            on_step: Called at each step with its name and figures.
        """
        self.report = WorkerReport()
        self.encoded = 0
        self.heart = Heart(database, worker_id, limits.lease, lambda: self.report.written)
        self._database = database
        self._worker_id = worker_id
        self._limits = limits
        self._encoders = encoders
        self._stop = stop
        self._on_step = on_step
        self._background = Background("embver-encoder")
        self._meter = Meter(database, worker_id, limits.lease, stop)

    def close(self) -> None:
        """End the encoder's thread, and record what was spent."""
        self._background.close()
        self._meter.flush()

    def work(self, target: Row) -> int:
        """Claim, encode and complete one batch; the number of documents it had."""
        store: str = target["store"]
        claim = sql.SQL("SELECT * FROM {}(%s, %s, make_interval(secs => %s))").format(
            store_function(store, "claim")
        )
        arguments = (self._worker_id, self._limits.batch, self._limits.lease)
        rows = self._database.rows(claim, arguments)
        if not self._encoders.is_ready(target) and any(row["content"] is not None for row in rows):
            # Who dies while a model is loaded holds no lease then: no document is to blame.
            self._give_back(store, rows[0]["lease"])
            if not self._load(target):
                return 0
            rows = self._database.rows(claim, arguments)
        if not rows:
            return 0
        lease: int = rows[0]["lease"]
        items = [Item(row["item"], row["content"], row["content_hash"]) for row in rows]
        self.heart.hold(store, lease)
        try:
            self._on_step("claimed", {"store": store, "lease": lease, "documents": len(items)})
            encode = partial(self._encode, target, items)
            began = time.monotonic()
            outcome = self._background.run(encode, self._stop, self._limits.grace)
            figures = {"store": store, "lease": lease, "truncated": outcome.truncated}
            self._on_step("encoded", {**figures, "seconds": time.monotonic() - began})
            self._complete(target, lease, outcome)
        except LeaseLost:
            # Another worker took over, or an earlier attempt was committed after all.
            log.info("lease %s of %s is lost; nothing was written", lease, store)
            self._on_step("lost", {"store": store, "lease": lease})
        except BaseException as error:
            if not is_lost_connection(error):
                self._give_back(store, lease)
            if not isinstance(error, AbandonedError):
                raise
        finally:
            self.heart.release(store, lease)
        return len(items)

    def _load(self, target: Row) -> bool:
        """Load the encoder and ask its canary; False where a stop came first."""
        load = partial(self._encoders.of, target)
        try:
            self._background.run(load, self._stop, self._limits.grace)
        except AbandonedError:
            return False
        self._on_step("loaded", {"store": target["store"]})
        return True

    def _encode(self, target: Row, items: list[Item]) -> Encoded:
        chosen = [item for item in items if item.content is not None]
        if not chosen:
            return Encoded()
        encoder = self._encoders.of(target)
        pieces = cut(chosen, self._encoders.splitter(target))
        outcome = whole(encode_batch(metered(self._meter, target, encoder), pieces))
        self._encoders.verify(target)
        self.encoded += len(chosen)
        return outcome

    def _complete(self, target: Row, lease: int, outcome: Encoded) -> None:
        """Write; a lost connection or a lock in the way is tried again."""
        store: str = target["store"]
        began = time.monotonic()
        vectors = stacked(outcome.vectors, target["dimensions"])
        settled = [*outcome.items, *(item for item, _ in outcome.failed)]
        parameters = (
            lease,
            [item.number for item in settled],
            [item.content_hash for item in settled],
            codec.vector_array(vectors, len(outcome.failed), target["element_type"]),
            [None] * len(outcome.items) + [reason for _, reason in outcome.failed],
            *places(settled, target["chunker"]),
        )
        complete = sql.SQL(
            "SELECT * FROM {}(%s, %s::int[], %s::bytea[], %s, %s::text[],"
            " %s::int[], %s::int[], %s::int[])"
        ).format(store_function(store, "complete"))
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(
                (psycopg.OperationalError, psycopg.InterfaceError)
            ),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            stop=self._gives_up,
            sleep=tenacity.sleep_using_event(self._stop),
            reraise=True,
        )
        result = retrying(self._database.row, complete, parameters)
        assert result is not None
        self.report.written += result["written"]
        self.report.failed += result["failed"]
        self.report.returned += result["returned"]
        self.report.truncated += outcome.truncated
        figures = {"store": store, "lease": lease, "truncated": outcome.truncated}
        seconds = time.monotonic() - began
        self._on_step("completed", {**figures, **result, "seconds": seconds})

    def _gives_up(self, state: tenacity.RetryCallState) -> bool:
        """Whether to stop trying to write; while the server is away there is nothing better."""
        error = state.outcome.exception() if state.outcome else None
        is_away = error is not None and is_lost_connection(error)
        is_late = (state.seconds_since_start or 0.0) > _LOCKED
        return self._stop.is_set() or (is_late and not is_away)

    def _give_back(self, store: str, lease: int) -> None:
        try:
            call(self._database, store, "give_back", lease)
        except psycopg.Error as error:
            log.warning("lease %s of %s is left to expire: %s", lease, store, str(error).strip())
        else:
            self._on_step("given_back", {"store": store, "lease": lease})


def call(database: Database, store: str, function: str, *arguments: Any) -> Row | None:
    """Call a store's function; None where the store is gone or another worker is at it."""
    marks = sql.SQL(", ").join([sql.SQL("%s")] * len(arguments))
    query = sql.SQL("SELECT * FROM {}({})").format(store_function(store, function), marks)
    try:
        return database.row(query, arguments)
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
        return None
