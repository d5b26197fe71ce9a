"""A lease and what is done with it in the database: claim, begin, complete, give back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
import psycopg
import tenacity
from psycopg import sql

from embver_pg import codec
from embver_pg.db import Database, Row, is_lost_connection, store_function
from embver_pg.errors import EmbverError
from embver_pg.worker.heart import Heart
from embver_pg.worker.pieces import Settled

log = logging.getLogger("embver_pg.worker")
_LOCKED = 60.0  # seconds to try writing behind a lock before the lease is given back
_CLAIM = sql.SQL(
    "SELECT lease, item, content, content_hash FROM {}(%s, %s, make_interval(secs => %s))"
)
_COMPLETE = sql.SQL(
    "SELECT * FROM {}(%s, %s::int[], %s::bytea[], %s, %s::text[], %s::int[], %s::int[], %s::int[])"
)
T = TypeVar("T")
OnStep = Callable[[str, dict[str, Any]], None]


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


@dataclass(eq=False)
class Lease:
    """Documents that this worker has to itself until the lease ends.

    Attributes:
        target: The store's row of ``embver_internal.worker_targets()``.
        number: Of the lease.
        documents: How many it has.
        items: The numbers, within the lease, of those with something to encode.
        contents: Their texts.
        hashes: The hashes of these.
    """

    target: Row
    number: int
    documents: int
    items: tuple[int, ...]
    contents: tuple[str, ...]
    hashes: tuple[bytes, ...]
    _taken: threading.Lock = field(default_factory=threading.Lock)

    @property
    def store(self) -> str:
        """The schema of its store."""
        found: str = self.target["store"]
        return found

    @property
    def figures(self) -> dict[str, Any]:
        """What every step says of it."""
        return {"store": self.store, "lease": self.number}

    def seize(self) -> bool:
        """Whether the caller decides what becomes of it now that it is, or should be, encoded.

        True once: an encoding that outlasts a stop finds its lease given back.
        """
        return self._taken.acquire(blocking=False)


class Leases:
    """The worker's side of the ledger; safe to use from several threads."""

    def __init__(
        self, database: Database, worker_id: UUID, lease: float, stop: threading.Event, tell: OnStep
    ) -> None:
        """Prepare; the heart beats while its context is entered.

        Args:
            database: Where the queues are.
            worker_id: Who holds the leases.
            lease: Seconds after which a silent worker's documents go to another.
            stop: Ends the tries to write.
            tell: Called at each step with its name and figures.
        """
        self.report = WorkerReport()
        self.heart = Heart(database, worker_id, lease, lambda: self.report.written)
        self._database = database
        self._worker_id = worker_id
        self._seconds = lease
        self._stop = stop
        self._tell = tell

    def claim(self, target: Row, size: int) -> Lease | None:
        """Lease documents; the heartbeat keeps them until :meth:`end`."""
        claim = _CLAIM.format(store_function(target["store"], "claim"))
        rows = self._database.tuples(claim, (self._worker_id, size, self._seconds))
        if not rows:
            return None
        chosen = [row for row in rows if row[2] is not None]
        _, items, contents, hashes = zip(*chosen, strict=True) if chosen else ((), (), (), ())
        lease = Lease(target, rows[0][0], len(rows), items, contents, hashes)
        self.heart.hold(lease.store, lease.number)
        return lease

    def begin(self, lease: Lease) -> bool:
        """Note that the encoder gets the documents now: who dies after that may have died of them.

        Returns:
            Whether to go on: not where the lease is lost, or the rollout is paused.
        """
        begin = partial(call, self._database, lease.store, "begin_lease", lease.number)
        found = self._while_away(begin)
        return bool(found and found["begin_lease"])

    def complete(self, lease: Lease, outcome: Settled | None) -> None:
        """Write; a lost connection or a lock in the way is tried again.

        Raises:
            LeaseLost: Nothing was written, or an earlier try was committed after all.
        """
        began = time.monotonic()
        complete = _COMPLETE.format(store_function(lease.store, "complete"))
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(
                (psycopg.OperationalError, psycopg.InterfaceError)
            ),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            stop=self._gives_up,
            sleep=tenacity.sleep_using_event(self._stop),
            reraise=True,
        )
        result = retrying(self._database.row, complete, _written(lease, outcome))
        assert result is not None
        truncated = outcome.truncated if outcome else 0
        self.report.written += result["written"]
        self.report.failed += result["failed"]
        self.report.returned += result["returned"]
        self.report.truncated += truncated
        seconds = time.monotonic() - began
        self._tell(
            "completed", {**lease.figures, "truncated": truncated, **result, "seconds": seconds}
        )

    def give_back(self, lease: Lease) -> None:
        """Return its documents to the queue, due at once."""
        give_back = partial(call, self._database, lease.store, "give_back", lease.number)
        try:
            self._while_away(give_back)
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            log.info("lease %s of %s is gone with its store", lease.number, lease.store)
        except (EmbverError, psycopg.Error) as error:
            log.warning(
                "lease %s of %s is left to expire: %s", lease.number, lease.store, _line(error)
            )
        else:
            self._tell("given_back", lease.figures)

    def end(self, lease: Lease) -> None:
        """Forget it: it is completed, given back or lost."""
        self.heart.release(lease.store, lease.number)

    def _while_away(self, function: Callable[[], T]) -> T:
        """Call what may be called twice; tried again while the server is away, until a stop."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_lost_connection),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            stop=lambda state: self._stop.is_set(),
            sleep=tenacity.sleep_using_event(self._stop),
            reraise=True,
        )
        return retrying(function)

    def _gives_up(self, state: tenacity.RetryCallState) -> bool:
        """Whether to stop trying to write; while the server is away there is nothing better."""
        error = state.outcome.exception() if state.outcome else None
        is_away = error is not None and is_lost_connection(error)
        is_late = (state.seconds_since_start or 0.0) > _LOCKED
        return self._stop.is_set() or (is_late and not is_away)


def _written(lease: Lease, outcome: Settled | None) -> tuple[Any, ...]:
    """The parameters of ``complete``: vectors first, then what failed."""
    element_type = lease.target["element_type"]
    if outcome is None:
        nothing = codec.vector_array(codec.no_vectors(lease.target["dimensions"]), 0, element_type)
        return lease.number, codec.IntArray(()), codec.ByteaArray(()), nothing, *[None] * 4
    order = outcome.documents.tolist()
    reasons = [None] * len(outcome.vectors) + outcome.reasons if outcome.reasons else None
    places = [None] * 3 if outcome.places is None else map(list, zip(*outcome.places, strict=True))
    return (
        lease.number,
        codec.IntArray(np.asarray(lease.items)[outcome.documents]),
        codec.ByteaArray([lease.hashes[position] for position in order]),
        codec.vector_array(outcome.vectors, len(outcome.reasons), element_type),
        reasons,
        *places,
    )


def call(database: Database, store: str, function: str, *arguments: Any) -> Row | None:
    """Call a store's function; None where it returns no row: another worker is at it."""
    marks = sql.SQL(", ").join([sql.SQL("%s")] * len(arguments))
    query = sql.SQL("SELECT * FROM {}({})").format(store_function(store, function), marks)
    return database.row(query, arguments)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
