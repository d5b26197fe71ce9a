"""The worker's loop: claim, encode, complete; walk when the queue runs low; finish what is full."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from importlib.metadata import version as package_version
from typing import Any
from uuid import uuid4

import psycopg

from embver_pg.db import Database, Row, is_lost_connection
from embver_pg.encoders import Encoder, EncoderSpec, TransientEncoderError, load
from embver_pg.errors import (
    BudgetExceeded,
    CollectionNotFound,
    EmbverError,
    InvalidArgument,
    SpaceChanged,
)
from embver_pg.worker.breaker import Breaker, encoder_of
from embver_pg.worker.debts import Debts
from embver_pg.worker.finish import Finisher
from embver_pg.worker.lease import Leases, Limits, WorkerReport, call
from embver_pg.worker.model import Encoders
from embver_pg.worker.throttle import Throttle

log = logging.getLogger("embver_pg.worker")
_STEADY = 5.0  # seconds of a short queue after which the bulk is done
_FAILURES = 8  # in a row, after which a drain gives up


class Worker:
    """Drains the queues of every live version, by leases.

    Any number may run at once, on any number of hosts. Fetching, encoding and writing are
    separate short transactions; none is open while the encoder runs. All times are the server's.
    """

    def __init__(
        self,
        database: Database,
        *,
        batch: int = 256,
        lease: float = 300.0,
        poll: float = 1.0,
        grace: float = 5.0,
        canary: float = 900.0,
        collection: str | None = None,
        encoder_for: Callable[[EncoderSpec], Encoder] = load,
        on_step: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        """Prepare a worker; :meth:`run` starts it.

        Args:
            database: Where the queues are.
            batch: Documents a lease, at most.
            lease: Seconds after which a silent worker's documents go to another.
            poll: Seconds between looks at an empty queue.
            grace: Seconds that an encoding may go on after a stop.
            canary: Seconds after which a version's probe texts are encoded again, to see that the
                model behind its name is still the same; 0: before every write.
            collection: Work for this collection only.
            encoder_for: Makes an encoder of a version's specification.
            on_step: Called at each step of the protocol with its name and figures.

        Raises:
            InvalidArgument: A number is not positive, or ``canary`` is negative.
        """
        for name, value in (("batch", batch), ("lease", lease), ("poll", poll)):
            if not value > 0:
                raise InvalidArgument(
                    f"A worker's {name} must be positive, not {value!r}.", detail={name: value}
                )
        if not canary >= 0:
            raise InvalidArgument(
                f"A worker's canary must be 0 seconds or more, not {canary!r}.",
                detail={"canary": canary},
            )
        self.database = database
        self.worker_id = uuid4()
        self._batch = batch
        self._poll = poll
        self._collection = collection
        self._on_step = on_step or (lambda name, figures: None)
        self._breaker = Breaker()
        self._said: dict[str, str] = {}
        self._short_since: dict[str, float] = {}
        self._stop = threading.Event()
        self._unbuilt: set[str] = set()  # stores whose index is left to another role
        self._connected = True
        self._throttle = Throttle(database, self.worker_id)
        self._finisher = Finisher(database, self.worker_id, self._stop, self._on_step)
        self._leases = Leases(
            database,
            self.worker_id,
            Limits(batch, lease, grace),
            Encoders(encoder_for, database, canary),
            self._stop,
            self._on_step,
        )

    @property
    def report(self) -> WorkerReport:
        """What it did so far."""
        return self._leases.report

    def stop(self) -> None:
        """Ask the loop to end; a batch under way is finished within seconds or given back."""
        self._stop.set()

    def run(self, *, drain: bool = False) -> WorkerReport:
        """Work until stopped.

        A store whose encoder fails rests, and the others go on; with ``drain`` the error is
        raised.

        Args:
            drain: End when every store is filled, indexed where this role may, and nothing waits;
                under steady writes, some seconds after what was there at the start is done.

        Raises:
            CollectionNotFound: There is no collection of the name given.
            IncompatibleSchema: The schema is of another release.
            SpaceChanged: An encoder has another fingerprint than its version.
            EncoderRefusedError: With ``drain``, the provider refuses everything.
            TransientEncoderError: With ``drain``, the provider does not answer for long.
        """
        began = time.monotonic()
        self._check_collection()
        self._register()
        self._on_step("registered", {"worker": self.worker_id})
        try:
            with self._leases.heart:
                self._loop(drain)
        finally:
            self._leases.close()
            self._forget()
            self.report.seconds = time.monotonic() - began
        return self.report

    def _loop(self, drain: bool) -> None:
        debts = Debts(self.database) if drain else None
        while not self._stop.is_set():
            try:
                busy, waiting = self._round(drain)
                is_paid = debts is not None and debts.are_paid(self._targets, self._unbuilt)
                self._connected = True
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if not is_lost_connection(error):
                    raise
                self._connected = False
                log.warning("connection lost, trying again: %s", str(error).strip())
                self._stop.wait(self._poll)
                continue
            if is_paid or (drain and not busy and not waiting):
                return
            if not busy:
                self._stop.wait(min(self._poll, 0.1) if drain else self._poll)

    def _round(self, drain: bool) -> tuple[bool, bool]:
        """One turn over every version: whether something was done, and whether more will be."""
        targets = self._targets()
        held_back = [target for target in targets if target["state"] == "filling"]
        if held_back and self._throttle.reason() is not None:
            targets = [target for target in targets if target not in held_back]
        else:
            held_back = []
        busy, waiting = False, bool(held_back)
        # Several workers begin at different versions, and none starves the rest.
        offset = random.randrange(len(targets)) if targets else 0
        for target in targets[offset:] + targets[:offset]:
            if self._stop.is_set():
                break
            done, more = self._attend(target, drain)
            busy, waiting = busy or done, waiting or more
        return busy, waiting

    def _targets(self) -> list[Row]:
        rows = self.database.rows("SELECT * FROM embver_internal.worker_targets()")
        return [row for row in rows if self._collection in (None, row["collection"])]

    def _attend(self, target: Row, drain: bool) -> tuple[bool, bool]:
        """Serve a store unless it rests; what fails is its own trouble, and not the others'."""
        if not self._breaker.admits(target):
            return False, True
        before = self._leases.encoded
        try:
            found = self._serve(target)
        except SpaceChanged:
            self._breaker.passed(target, encoded=False)
            raise  # whoever started this worker gave it another model
        except BudgetExceeded:
            self._breaker.passed(target, encoded=False)
            return False, True  # its rollout is paused, with the reason; all else goes on
        except Exception as error:
            if is_lost_connection(error):
                self._breaker.passed(target, encoded=False)
                raise
            if all(row["store"] != target["store"] for row in self._targets()):
                self._breaker.passed(target, encoded=False)
                return False, False  # retired or dropped meanwhile
            self._rest(target, error, drain)
            return False, True
        if self._breaker.passed(target, encoded=self._leases.encoded > before):
            log.info("%s answers again", encoder_of(target))
        return found

    def _rest(self, target: Row, error: Exception, drain: bool) -> None:
        """Leave a store or its encoder alone for a while; a drain gives up after some."""
        passing = isinstance(error, TransientEncoderError | psycopg.OperationalError)
        rest = self._breaker.failed(target, error)
        is_waiting = isinstance(error, psycopg.errors.LockNotAvailable)
        if drain and not is_waiting and (not passing or rest.failures > _FAILURES):
            raise error
        level = logging.WARNING if passing else logging.ERROR
        log.log(
            level if passing or rest.is_news else logging.DEBUG,
            "%s rests for %.1f s: %s",
            rest.what,
            rest.seconds,
            " ".join(str(error).split()),
            exc_info=not isinstance(error, EmbverError | psycopg.Error),
        )
        self._on_step("resting", {"what": rest.what, "seconds": rest.seconds})

    def _serve(self, target: Row) -> tuple[bool, bool]:
        """One batch, or one step of the walk, or the end of the filling."""
        store: str = target["store"]
        claimed = self._leases.work(target)
        if claimed:
            self._said.pop(store, None)
        if claimed >= self._batch:
            return True, True
        queue = call(self.database, store, "queue_status")
        if queue is None:
            return False, False
        if queue["ready"] < self._batch:
            walk = call(self.database, store, "walk_step", max(1000, 4 * self._batch))
            self._on_step("walk", {"store": store, **(walk or {})})
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
                return bool(claimed) or walks, True
            queue = call(self.database, store, "queue_status")
            if queue is None:
                return False, False
        queued = queue["ready"] + queue["waiting"] + queue["leased"]
        if target["state"] == "filling" and (queued == 0 or self._is_settled(store, queued)):
            waiting = self._finisher.step(target)
            if not waiting:
                self._unbuilt.add(store)
                self._say(store, "its index is left to a worker of the owner of the source")
            return False, waiting
        if queue["leased"] and not queue["ready"]:
            self._say(
                store,
                f"{queue['leased']} documents are leased by other workers;"
                f" the first lease expires at {queue['next_due_at']:%H:%M:%S}",
            )
        return bool(claimed) or queue["ready"] > 0, queued > 0

    def _is_settled(self, store: str, queued: int) -> bool:
        """Whether only fresh changes are left, which under steady writes never end."""
        if queued >= self._batch:
            self._short_since.pop(store, None)
            return False
        return time.monotonic() - self._short_since.setdefault(store, time.monotonic()) > _STEADY

    def _say(self, store: str, reason: str) -> None:
        """Tell why nothing happens, once."""
        if self._said.get(store) != reason:
            self._said[store] = reason
            log.info("%s: %s", store, reason)
            self._on_step("waiting", {"store": store, "reason": reason})

    def _check_collection(self) -> None:
        query = "SELECT 1 FROM embver_internal.collection WHERE name = %s"
        if self._collection is not None and not self.database.rows(query, (self._collection,)):
            raise CollectionNotFound(
                f"There is no collection {self._collection!r}.",
                detail={"collection": self._collection},
                hint="embver collection list",
            )

    def _register(self) -> None:
        self.database.rows(
            "SELECT embver_internal.register_worker(%s, %s, %s, %s)",
            (self.worker_id, socket.gethostname(), os.getpid(), package_version("embver-pg")),
        )

    def _forget(self) -> None:
        try:
            if self._connected:
                self.database.rows("SELECT embver_internal.forget_worker(%s)", (self.worker_id,))
        except (EmbverError, psycopg.Error):
            log.info("the database is away; the worker leaves without a word")
