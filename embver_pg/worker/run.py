"""The worker's loop: walk, claim, encode, complete; build the index when the bulk is done."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from embver_pg import codec, indexing
from embver_pg.db import Database, Row, store_function
from embver_pg.encoders import (
    Encoder,
    EncoderRefusedError,
    EncoderSpec,
    TransientEncoderError,
    checked,
    load,
)
from embver_pg.errors import EmbverError, LeaseLost, SpaceChanged
from embver_pg.worker.batch import Item, encode_batch, stacked

log = logging.getLogger("embver_pg.worker")
_LOST_CONNECTION = (psycopg.OperationalError, psycopg.InterfaceError)


@dataclass
class WorkerReport:
    """What a worker did.

    Attributes:
        written: Vectors written.
        failed: Documents that became dead letters.
        returned: Documents put back because they changed meanwhile or were locked.
        seconds: Time spent.
    """

    written: int = 0
    failed: int = 0
    returned: int = 0
    seconds: float = 0.0


class Worker:
    """Drains the queues of every live version, by leases.

    Any number may run at once, on any number of hosts. Fetching, encoding and writing are
    separate short transactions; none is open while the encoder runs.
    """

    def __init__(
        self,
        database: Database,
        *,
        batch: int = 256,
        lease: float = 300.0,
        poll: float = 1.0,
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
            collection: Work for this collection only.
            encoder_for: Makes an encoder of a version's specification.
            on_step: Called at each step of the protocol with its name and figures.
        """
        self.database = database
        self.worker_id = uuid4()
        self.report = WorkerReport()
        self._batch = batch
        self._lease = lease
        self._poll = poll
        self._collection = collection
        self._encoder_for = encoder_for
        self._on_step = on_step or (lambda name, figures: None)
        self._encoders: dict[str, Encoder] = {}
        self._resting: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the loop to end; a batch under way is finished or given back."""
        self._stop.set()

    def run(self, *, drain: bool = False) -> WorkerReport:
        """Work until stopped.

        Args:
            drain: End when every store is filled, indexed where this role may, and nothing waits.

        Raises:
            SpaceChanged: An encoder has another fingerprint than its version.
            EncoderRefusedError: With ``drain``, the provider refuses everything.
            TransientEncoderError: With ``drain``, the provider does not answer for long.
        """
        began = time.monotonic()
        self._register()
        heart = threading.Thread(target=self._beat, daemon=True)
        beating = threading.Event()
        self._beating = beating
        heart.start()
        try:
            while not self._stop.is_set():
                try:
                    busy, waiting = self._round(drain=drain)
                except _LOST_CONNECTION as error:
                    log.warning("connection lost, trying again: %s", str(error).strip())
                    self._stop.wait(self._poll)
                    continue
                if drain and not busy and not waiting:
                    break
                if not busy:
                    self._stop.wait(min(self._poll, 0.1) if drain else self._poll)
        finally:
            beating.set()
            heart.join()
            self._forget()
            self.report.seconds = time.monotonic() - began
        return self.report

    def _round(self, *, drain: bool) -> tuple[bool, bool]:
        """One turn over every version: whether something was done, and whether more will be."""
        busy = waiting = False
        targets = self._targets()
        # Several workers begin at different versions, and none starves the rest.
        offset = random.randrange(len(targets)) if targets else 0
        for target in targets[offset:] + targets[:offset]:
            if self._stop.is_set():
                break
            done, more = self._serve(target, drain=drain)
            busy, waiting = busy or done, waiting or more
        return busy, waiting

    def _targets(self) -> list[Row]:
        rows = self.database.rows("SELECT * FROM embver_internal.writable_versions()")
        return [row for row in rows if self._collection in (None, row["collection"])]

    def _serve(self, target: Row, *, drain: bool) -> tuple[bool, bool]:
        store = target["store"]
        queue = self._call(store, "queue_status")
        if queue is None:
            return False, False
        walk = None
        if queue["ready"] < self._batch:
            walk = self._call(store, "walk_step", max(1000, 4 * self._batch))
            self._on_step("walk", {"store": store, **(walk or {})})
        rest = self._resting.get(store, 0.0) - time.monotonic()
        done = self._work(target, drain=drain) if rest <= 0 else False
        if done:
            return True, True
        if walk is None or walk["phase"] not in ("done", "idle"):
            # The next step of the walk, or somebody else is at it.
            state = self._call(store, "walk_status")
            walking = state is not None and state["phase"] not in ("done", "idle")
            if walking:
                return state is not None and state["phase"] == "documents", True
        queue = self._call(store, "queue_status")
        if queue is None:
            return False, False
        queued = queue["ready"] + queue["waiting"] + queue["leased"]
        if target["state"] == "filling" and queued == 0:
            return self._finish(target)
        return False, queued > 0

    def _work(self, target: Row, *, drain: bool) -> bool:
        """Claim, encode and complete one batch."""
        store = target["store"]
        claim = sql.SQL("SELECT * FROM {}(%s, %s, make_interval(secs => %s))").format(
            store_function(store, "claim")
        )
        rows = self.database.rows(claim, (self.worker_id, self._batch, self._lease))
        if not rows:
            return False
        lease = rows[0]["lease"]
        items = [Item(row["item"], row["content"], row["content_hash"]) for row in rows]
        self._on_step("claimed", {"store": store, "lease": lease, "documents": len(items)})
        try:
            encoder = self._encoder(target)
            outcome = encode_batch(encoder, [item for item in items if item.content is not None])
        except TransientEncoderError as error:
            self._give_back(store, lease, self._back_off(store, error))
            if drain and self._failures[store] > 8:
                raise
            return True
        except (EncoderRefusedError, SpaceChanged):
            self._give_back(store, lease, 0.0)
            raise
        except EmbverError:
            # Not the documents' fault, and not the network's: the encoder is wrong.
            self._give_back(store, lease, 0.0)
            raise
        self._failures.pop(store, None)
        self._on_step("encoded", {"store": store, "lease": lease})
        vectors = stacked(outcome.vectors, target["dimensions"])
        settled = [*outcome.items, *(item for item, _ in outcome.failed)]
        parameters = (
            lease,
            [item.number for item in settled],
            [item.content_hash for item in settled],
            codec.vector_array(vectors, len(outcome.failed), target["element_type"]),
            [None] * len(outcome.items) + [reason for _, reason in outcome.failed],
        )
        complete = sql.SQL("SELECT * FROM {}(%s, %s::int[], %s::bytea[], %s, %s::text[])").format(
            store_function(store, "complete")
        )
        self._complete(store, lease, complete, parameters)
        return True

    def _complete(
        self, store: str, lease: int, complete: sql.Composable, parameters: tuple[Any, ...]
    ) -> None:
        """Write; a lost connection or a lock in the way is tried again until the lease is lost."""
        for attempt in range(10):
            try:
                result = self.database.row(complete, parameters)
                break
            except LeaseLost:
                # Another worker took over, or an earlier attempt was committed after all.
                log.info("lease %s of %s is lost; nothing was written", lease, store)
                return
            except (psycopg.errors.LockNotAvailable, *_LOST_CONNECTION):
                self._stop.wait(min(0.1 * 2**attempt, 5.0))
        else:
            return
        assert result is not None
        self.report.written += result["written"]
        self.report.failed += result["failed"]
        self.report.returned += result["returned"]
        self._on_step("completed", {"store": store, "lease": lease, **result})

    def _encoder(self, target: Row) -> Encoder:
        key = f"{target['fingerprint']} {target['metric']} {target['encoder']}"
        if key not in self._encoders:
            encoder = self._encoder_for(EncoderSpec.from_json(target["encoder"]))
            if encoder.fingerprint != target["fingerprint"]:
                raise SpaceChanged(
                    f"The encoder of version {target['version']} of {target['collection']!r} is"
                    " not the one it was made with.",
                    detail={
                        "version": target["version"],
                        "expected": target["fingerprint"],
                        "found": encoder.fingerprint,
                        "encoder": target["encoder"],
                    },
                    hint="Give the workers the same model files, or add a version for the new"
                    f" model: embver version add {target['collection']} ENCODER",
                )
            self._encoders[key] = checked(encoder, cosine=target["metric"] == "cosine")
        return self._encoders[key]

    def _back_off(self, store: str, error: TransientEncoderError) -> float:
        """Seconds to leave a store alone: exponential with full jitter, or what was asked for."""
        count = self._failures[store] = self._failures.get(store, 0) + 1
        delay = error.retry_after or random.uniform(0.5, 1.0) * min(0.25 * 2**count, 60.0)
        self._resting[store] = time.monotonic() + delay
        log.warning("%s; trying again in %.1f s", error.message, delay)
        return delay

    def _give_back(self, store: str, lease: int, delay: float) -> None:
        self._call(store, "give_back", lease, delay)
        self._on_step("given_back", {"store": store, "lease": lease})

    def _finish(self, target: Row) -> tuple[bool, bool]:
        """Build the index and make the version ready, where this role may."""
        store = target["store"]
        with self.database.connection() as connection:
            if not indexing.may_build(connection, store):
                return False, False
            if not indexing.build_index(connection, target, self.worker_id):
                return False, True
            self._on_step("indexed", {"store": store})
            ready = indexing.mark_ready(connection, target["collection"], target["version"])
        return ready, not ready

    def _call(self, store: str, function: str, *arguments: Any) -> Row | None:
        """Call a store's function; None where the store is gone or another worker is at it."""
        marks = sql.SQL(", ").join(
            sql.SQL("make_interval(secs => %s)") if isinstance(value, float) else sql.SQL("%s")
            for value in arguments
        )
        query = sql.SQL("SELECT * FROM {}({})").format(store_function(store, function), marks)
        try:
            return self.database.row(query, arguments)
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            return None

    def _register(self) -> None:
        self.database.rows(
            "SELECT embver_internal.register_worker(%s, %s, %s, %s)",
            (self.worker_id, socket.gethostname(), os.getpid(), package_version("embver-pg")),
        )

    def _forget(self) -> None:
        try:
            self.database.rows("SELECT embver_internal.forget_worker(%s)", (self.worker_id,))
        except (EmbverError, psycopg.Error):
            log.info("the database is away; the worker leaves without a word")

    def _beat(self) -> None:
        """Heartbeat: says that the worker lives and extends its leases, in a thread of its own."""
        counted = 0
        while not self._beating.wait(min(self._lease / 3, 20.0)):
            try:
                written = self.report.written
                self.database.rows(
                    "SELECT embver_internal.worker_seen(%s, %s)",
                    (self.worker_id, written - counted),
                )
                counted = written
                for target in self._targets():
                    self._call(target["store"], "extend_leases", self.worker_id, self._lease)
            except (EmbverError, psycopg.Error) as error:
                log.warning("heartbeat failed: %s", error)
