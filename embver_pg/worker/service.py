"""Serving one store: a lease for the pipeline, a step of the walk, or the end of the filling."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field

from embver_pg.db import Database, Row
from embver_pg.worker.finish import Finisher
from embver_pg.worker.lease import Leases, OnStep, call
from embver_pg.worker.model import Encoders
from embver_pg.worker.pace import Pace
from embver_pg.worker.pipeline import Pipeline

log = logging.getLogger("embver_pg.worker")
_STEADY = 5.0  # seconds of a short queue after which the bulk is done
_LOOK = 10.0  # seconds between looks at how far a filling is, by which searches weigh
_FULL = 1 << 23  # characters of a lease from which it is the bytes that bound it


@dataclass(frozen=True)
class Served:
    """What became of serving a store.

    Attributes:
        busy: Something was done.
        waiting: There will be more to do.
        handed: A lease or a load is with the pipeline, which tells how it ends.
    """

    busy: bool
    waiting: bool
    handed: bool = False


@dataclass
class Service:
    """Serves stores, one call at a time.

    Attributes:
        database: Where the queues are.
        leases: The worker's side of the ledger.
        encoders: The encoders of the versions.
        pace: How many documents a lease has.
        pipeline: Takes the leases.
        finisher: Ends fillings.
        batch: Documents a lease, at most; a shorter queue is filled up by the walk.
        tell: Called at each step with its name and figures.
        unbuilt: Stores whose index is left to another role.
    """

    database: Database
    leases: Leases
    encoders: Encoders
    pace: Pace
    pipeline: Pipeline
    finisher: Finisher
    batch: int
    tell: OnStep
    unbuilt: set[str] = field(default_factory=set)
    _said: dict[str, str] = field(default_factory=dict)
    _short_since: dict[str, float] = field(default_factory=dict)
    _looked: dict[str, float] = field(default_factory=dict)

    def serve(self, target: Row) -> Served:
        """Claim for a store; where little waits, walk on or finish."""
        store: str = target["store"]
        if self.pipeline.is_loading(store) or not self.pipeline.wait_for_room():
            return Served(False, True)
        if target["state"] == "filling" and self._is_time_to_look(store):
            call(self.database, store, "measure_coverage")
        # What is searched comes before what is filled.
        rank = int(target["state"] == "filling")
        size = self.pace.size(store)
        lease = self.leases.claim(target, size)
        if lease is not None:
            self._said.pop(store, None)
            if lease.contents and not self.encoders.is_ready(target):
                # Who dies while a model is loaded holds no lease then: no document is to blame.
                self.leases.give_back(lease)
                self.leases.end(lease)
                self.pipeline.load(target, rank)
                return Served(False, True, True)
            self.tell("claimed", {**lease.figures, "documents": lease.documents})
            documents = lease.documents
            if documents > len(lease.contents) and sum(map(len, lease.contents)) > _FULL:
                self.pace.filled(store, len(lease.contents))
            self.pipeline.take(lease, rank)
            if documents >= size:
                return Served(True, True, True)
        return self._go_on(target, lease is not None)

    def _go_on(self, target: Row, claimed: bool) -> Served:
        store: str = target["store"]
        ours = self.pipeline.documents_of(store)
        queue = call(self.database, store, "queue_status")
        assert queue is not None
        if queue["ready"] < self.batch:
            walk = call(self.database, store, "walk_step", max(1000, 4 * self.batch))
            self.tell("walk", {"store": store, **(walk or {})})
            # No row: another worker is at it.
            state = walk or call(self.database, store, "walk_status")
            if state is not None and state["phase"] not in ("done", "idle"):
                if state["waiting_for"]:
                    self._say(
                        store,
                        "the walk waits for transactions that wrote the source before the capture"
                        f" (pg_locks.virtualtransaction {', '.join(state['waiting_for'])})",
                    )
                walks = walk is not None and not walk["waiting_for"]
                return Served(claimed or walks, True, claimed)
            ours = self.pipeline.documents_of(store)
            queue = call(self.database, store, "queue_status")
            assert queue is not None
        queued = queue["ready"] + queue["waiting"] + queue["leased"]
        if target["state"] == "filling" and (queued == 0 or self._is_settled(store, queued)):
            waiting = self.finisher.step(target)
            if not waiting:
                self.unbuilt.add(store)
                self._say(store, "its index is left to a worker of the owner of the source")
            return Served(False, waiting, claimed)
        # Counted first: what was completed in between is not taken for another worker's.
        others = queue["leased"] - ours
        if others > 0 and not queue["ready"]:
            self._say(
                store,
                f"{others} documents are leased by other workers;"
                f" the first lease expires at {queue['next_due_at']:%H:%M:%S}",
            )
        return Served(claimed or queue["ready"] > 0, queued > 0, claimed)

    def _is_time_to_look(self, store: str) -> bool:
        is_time = time.monotonic() - self._looked.get(store, -math.inf) >= _LOOK
        if is_time:
            self._looked[store] = time.monotonic()
        return is_time

    def _is_settled(self, store: str, queued: int) -> bool:
        """Whether only fresh changes are left, which under steady writes never end."""
        if queued >= self.batch:
            self._short_since.pop(store, None)
            return False
        return time.monotonic() - self._short_since.setdefault(store, time.monotonic()) > _STEADY

    def _say(self, store: str, reason: str) -> None:
        """Tell why nothing happens, once."""
        if self._said.get(store) != reason:
            self._said[store] = reason
            log.info("%s: %s", store, reason)
            self.tell("waiting", {"store": store, "reason": reason})
