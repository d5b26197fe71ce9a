"""The worker: its turns over the stores, from its registration to its end."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from importlib.metadata import version as package_version
from typing import Any
from uuid import uuid4

import psycopg

from embver_pg.db import Database, Row, is_lost_connection
from embver_pg.encoders import Encoder, EncoderSpec, load
from embver_pg.errors import CollectionNotFound, EmbverError, InvalidArgument
from embver_pg.worker.debts import Debts
from embver_pg.worker.finish import Finisher
from embver_pg.worker.judge import Judge
from embver_pg.worker.lease import Leases, WorkerReport
from embver_pg.worker.meter import Meter
from embver_pg.worker.model import Encoders
from embver_pg.worker.pace import Pace
from embver_pg.worker.pipeline import Pipeline
from embver_pg.worker.service import Service
from embver_pg.worker.throttle import Throttle
from embver_pg.worker.turns import Turns

log = logging.getLogger("embver_pg.worker")
_DRAINING = 0.1  # seconds between looks of a drain that waits, at most


class Worker:
    """Drains the queues of every live version, by leases.

    Any number may run at once, on any number of hosts. Fetching, encoding and writing are
    separate short transactions, and go on beside each other; none is open while the encoder runs.
    All times are the server's.
    """

    def __init__(
        self,
        database: Database,
        *,
        batch: int = 1024,
        batch_seconds: float = 2.0,
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
            batch_seconds: How long the encoder should be busy with a lease; fewer documents are
                leased where it is slow.
            lease: Seconds after which a silent worker's documents go to another.
            poll: Seconds between looks at an empty queue.
            grace: Seconds that an encoding may go on after a stop.
            canary: Seconds after which a version's probe texts are encoded again, to see that the
                model behind its name is still the same; 0: before every write.
            collection: Work for this collection only.
            encoder_for: Makes an encoder of a version's specification.
            on_step: Called at each step of the protocol with its name and figures, by the thread
                that takes it: that of :meth:`run`, the encoder's, or the writer's.

        Raises:
            InvalidArgument: A number is not positive, or ``canary`` is negative.
        """
        numbers = {"batch": batch, "batch_seconds": batch_seconds, "lease": lease, "poll": poll}
        for name, value in numbers.items():
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
        self._poll = poll
        self._grace = grace
        self._collection = collection
        self._on_step = on_step or (lambda name, figures: None)
        self._stop = threading.Event()
        self._connected = True
        self._throttle = Throttle(database, self.worker_id)
        self._turns = Turns(poll)
        self._pace = Pace(batch, batch_seconds)
        self._meter = Meter(database, self.worker_id, lease, self._stop)
        self._encoders = Encoders(encoder_for, database, canary)
        self._leases = Leases(database, self.worker_id, lease, self._stop, self._on_step)
        self._finisher = Finisher(database, self.worker_id, self._stop, self._on_step)
        self._batch = batch
        self._begin(drain=False)

    @property
    def report(self) -> WorkerReport:
        """What it did so far."""
        return self._leases.report

    def stop(self) -> None:
        """Ask the loop to end; what is in hand is finished within seconds or given back."""
        self._stop.set()
        self._pipeline.wake()

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
        self._begin(drain)
        self._check_collection()
        self._register()
        self._on_step("registered", {"worker": self.worker_id})
        try:
            with self._leases.heart:
                try:
                    self._loop(drain)
                finally:
                    self._pipeline.finish(self._grace)
        finally:
            self._meter.flush()
            self._forget()
            self.report.seconds = time.monotonic() - began
        if self._judge.fatal is not None:
            raise self._judge.fatal
        return self.report

    def _begin(self, drain: bool) -> None:
        self._judge = Judge(self._targets, self._stop, drain, self._on_step)
        self._pipeline = Pipeline(
            self._leases,
            self._encoders,
            self._meter,
            self._pace,
            self._judge,
            self._stop,
            self._on_step,
        )
        self._service = Service(
            self.database,
            self._leases,
            self._encoders,
            self._pace,
            self._pipeline,
            self._finisher,
            self._batch,
            self._on_step,
        )

    def _loop(self, drain: bool) -> None:
        debts = Debts(self.database) if drain else None
        while not self._stop.is_set():
            events = self._pipeline.events
            try:
                busy, waiting = self._round()
                is_paid = debts is not None and debts.are_paid(self._targets, self._service.unbuilt)
                self._connected = True
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if not is_lost_connection(error):
                    raise
                self._connected = False
                log.warning("connection lost, trying again: %s", str(error).strip())
                self._stop.wait(self._poll)
                continue
            if is_paid or (drain and not busy and not waiting and self._pipeline.is_idle):
                return
            if not busy:
                wait = min(self._poll, _DRAINING) if drain else self._poll
                self._pipeline.wait_for_event(events, wait)

    def _round(self) -> tuple[bool, bool]:
        """One turn of every version: whether something was done, and whether more will be."""
        busy = waiting = False
        for target in self._turns.order(self._targets()):
            if self._stop.is_set():
                break
            if target["state"] == "filling" and self._is_held_back():
                waiting = True
                continue
            done, more = self._attend(target)
            busy, waiting = busy or done, waiting or more
        return busy, waiting

    def _is_held_back(self) -> bool:
        """Whether the throttle says so; what waits for the encoder hears of it too."""
        self._judge.is_held_back = self._throttle.reason() is not None
        return self._judge.is_held_back

    def _targets(self) -> list[Row]:
        rows = self.database.rows("SELECT * FROM embver_internal.worker_targets()")
        return [row for row in rows if self._collection in (None, row["collection"])]

    def _attend(self, target: Row) -> tuple[bool, bool]:
        """Serve a store unless it rests; what fails is its own trouble, and not the others'."""
        if not self._judge.admits(target):
            return False, True
        try:
            served = self._service.serve(target)
        except Exception as error:
            if is_lost_connection(error):
                self._judge.left(target)
                raise
            self._judge.failed(target, error)
            return False, True
        if not served.handed:
            self._judge.passed(target)
        return served.busy, served.waiting

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
