"""Encoding and writing, behind the claims: two threads, and little that waits for either.

While a lease is encoded, the one before it is written and the next ones are claimed. No
transaction is open while the encoder runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from embver_pg.db import Row
from embver_pg.errors import LeaseLost
from embver_pg.worker.background import AbandonedError
from embver_pg.worker.charge import metered
from embver_pg.worker.hands import Hands
from embver_pg.worker.lease import Lease, Leases, OnStep
from embver_pg.worker.meter import Meter
from embver_pg.worker.model import Encoders
from embver_pg.worker.pace import Pace
from embver_pg.worker.pieces import Settled, cut, settled
from embver_pg.worker.recent import Recent

log = logging.getLogger("embver_pg.worker")
WAITING = 2  # leases before the encoder, and before the writer, at most


class Judge(Protocol):
    """Who decides what goes on, and hears how it ended; called from the stages' threads."""

    def wants(self, target: Row) -> bool:
        """Whether what was begun for a store should go on to its encoder."""
        ...

    def left(self, target: Row) -> None:
        """What was begun for a store did not go on."""
        ...

    def answered(self, target: Row) -> None:
        """The store's encoder has answered."""
        ...

    def passed(self, target: Row) -> None:
        """A lease of the store was served."""
        ...

    def failed(self, target: Row, error: BaseException) -> None:
        """Something of the store failed."""
        ...

    def end(self, error: BaseException) -> None:
        """A stage failed with what no store is to blame for."""
        ...


@dataclass(frozen=True, eq=False)
class _Load:
    """The task to load a store's encoder. Who dies of that holds no lease of the store."""

    target: Row


class Pipeline:
    """The stages of a worker behind its claims."""

    def __init__(
        self,
        leases: Leases,
        encoders: Encoders,
        meter: Meter,
        pace: Pace,
        judge: Judge,
        stop: threading.Event,
        tell: OnStep,
    ) -> None:
        """Prepare; the threads begin with the first lease.

        Args:
            leases: The worker's side of the ledger.
            encoders: The encoders of the versions.
            meter: What may be sent to providers.
            pace: Told how long the encoder takes.
            judge: Told how everything ends.
            stop: No lease goes on to the encoder once it is set.
            tell: Called at each step with its name and figures.
        """
        self._leases = leases
        self._encoders = encoders
        self._meter = meter
        self._pace = pace
        self._judge = judge
        self._stop = stop
        self._tell = tell
        self._changed = threading.Condition()
        self._events = 0
        self._loading: set[str] = set()
        self._held: dict[Lease, None] = {}
        # Of those, and of those before them, that were not written when the next was claimed.
        self._recent = Recent(WAITING + 2)
        self._encoder: Hands[Lease | _Load] = Hands(
            "embver-encoder", self._encode, WAITING, self._changed, judge.end
        )
        self._writer: Hands[tuple[Lease, Settled | None]] = Hands(
            "embver-writer", self._write, WAITING, self._changed, judge.end
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        with self._changed:
            return self._encoder.is_idle and self._writer.is_idle

    @property
    def events(self) -> int:
        """How often something ended; for :meth:`wait_for_event`."""
        return self._events

    def is_loading(self, store: str) -> bool:
        """Whether the store's encoder is being loaded."""
        with self._changed:
            return store in self._loading

    def documents_of(self, store: str) -> int:
        """How many documents of a store are in hand."""
        with self._changed:
            return sum(lease.documents for lease in self._held if lease.store == store)

    def wake(self) -> None:
        """End every wait of the claiming thread: something has changed."""
        with self._changed:
            self._events += 1
            self._changed.notify_all()

    def wait_for_event(self, since: int, seconds: float) -> None:
        """Wait until something has ended since ``events`` was ``since``, or so many seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._events != since or self._stop.is_set(), timeout=seconds
            )

    def wait_for_room(self) -> bool:
        """Wait until the encoder's queue has room; False where a stop came first."""
        with self._changed:
            self._changed.wait_for(lambda: self._encoder.has_room or self._stop.is_set())
        return not self._stop.is_set()

    def load(self, target: Row, rank: int) -> None:
        """Have a store's encoder loaded, and its canary asked."""
        with self._changed:
            self._loading.add(target["store"])
        self._encoder.hand(_Load(target), rank)

    def take(self, lease: Lease, rank: int) -> None:
        """Take over a lease.

        Args:
            lease: What was claimed.
            rank: Lower ones are encoded first.
        """
        with self._changed:
            self._held[lease] = None
        if lease.contents:
            self._encoder.hand(lease, rank)
        else:
            self._writer.hand((lease, None))

    def finish(self, grace: float) -> None:
        """Write what is encoded, and give back what is not within ``grace`` seconds."""
        for task in self._encoder.take_back():
            if isinstance(task, Lease):
                self._return(task)
        if not self._encoder.wait_idle(grace):
            current = self._encoder.current
            if isinstance(current, Lease) and current.seize():
                self._return(current)
            elif isinstance(current, Lease):
                self._encoder.wait_idle()  # it is encoded, and waits for the writer
        self._writer.wait_idle()
        with self._changed:
            self._loading.clear()
        self._encoder.close()
        self._writer.close()

    def _encode(self, task: Lease | _Load) -> None:
        if isinstance(task, _Load):
            self._load(task.target)
            return
        try:
            outcome = self._encoded(task)
        except BaseException as error:
            if task.seize():
                self._fail(task, error)
            return
        if not task.seize():
            return  # it took too long after a stop
        if outcome is None:
            self._return(task)
            self._judge.left(task.target)
        else:
            self._writer.hand((task, outcome))

    def _encoded(self, lease: Lease) -> Settled | None:
        """The vectors of a lease; None where it should not be encoded now."""
        target = lease.target
        if not self._judge.wants(target) or not self._leases.begin(lease):
            return None
        began = time.monotonic()
        encoder = metered(self._meter, target, self._encoders.of(target))
        pieces = cut(lease.contents, self._encoders.splitter(target))
        encoded = self._recent.encode(lease.store, encoder, pieces.texts)
        outcome = settled(pieces, encoded)
        seconds = time.monotonic() - began
        self._encoders.verify(target)
        self._recent.remember(lease.store, pieces.texts, encoded)
        self._pace.saw(lease.store, len(lease.contents), seconds)
        self._judge.answered(target)
        figures = {**lease.figures, "truncated": outcome.truncated, "seconds": seconds}
        self._tell("encoded", figures)
        return outcome

    def _load(self, target: Row) -> None:
        try:
            if self._judge.wants(target):
                self._encoders.of(target)
                self._pace.begin(target["store"], self._encoders.rate(target))
                self._tell("loaded", {"store": target["store"]})
                self._judge.answered(target)
                self._judge.passed(target)
            else:
                self._judge.left(target)
        except BaseException as error:
            self._judge.failed(target, error)
        finally:
            with self._changed:
                self._loading.discard(target["store"])
            self.wake()

    def _write(self, task: tuple[Lease, Settled | None]) -> None:
        lease, outcome = task
        try:
            self._leases.complete(lease, outcome)
        except LeaseLost:
            # Another worker took over, or an earlier try was committed after all.
            log.info("lease %s of %s is lost; nothing was written", lease.number, lease.store)
            self._settle(lease, lambda: self._tell("lost", lease.figures))
        except BaseException as error:
            self._fail(lease, error)
        else:
            self._settle(lease)

    def _fail(self, lease: Lease, error: BaseException) -> None:
        self._return(lease)
        if not isinstance(error, AbandonedError):
            self._judge.failed(lease.target, error)
        self.wake()

    def _settle(self, lease: Lease, last: Callable[[], None] = lambda: None) -> None:
        try:
            last()
            self._judge.passed(lease.target)
        finally:
            self._forget(lease)

    def _return(self, lease: Lease) -> None:
        try:
            self._leases.give_back(lease)
        finally:
            self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        self._leases.end(lease)
        with self._changed:
            self._held.pop(lease, None)
            if not self._held:
                self._recent.forget()
        self.wake()
