"""A worker in a thread, while the main thread takes signals and shows how far it is."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from embver_pg.cli.progress import Meter, progress
from embver_pg.cli.render import Output

if TYPE_CHECKING:
    from embver_pg.db import Database
    from embver_pg.worker import Worker, WorkerReport

_TICK = 0.2  # seconds
_LOOK = 0.5  # seconds between two looks into the database, at the least
_PATIENCE = 3.0  # seconds until a wait for older transactions is worth a remark
_LOG = "%(asctime)s %(process)d %(levelname)s %(message)s"


def log_to(output: Output, formatter: logging.Formatter | None = None) -> None:
    """Lines of the worker's log go to stderr, above a progress bar where there is one."""
    handler = _OutputHandler(output)
    handler.setFormatter(formatter or logging.Formatter(_LOG))
    root = logging.getLogger("embver_pg")
    root.handlers = [handler]
    silent = output.quiet or output.json_mode or output.interactive
    root.setLevel(logging.WARNING if silent else logging.INFO)
    root.propagate = False


def supervised(
    worker: Worker,
    output: Output,
    *,
    drain: bool,
    collection: str | None = None,
    show: bool = True,
) -> tuple[WorkerReport, bool]:
    """Run a worker to its end; a first SIGTERM or SIGINT stops it cleanly, a second at once.

    Args:
        worker: The worker.
        output: Where progress goes.
        drain: End when nothing waits.
        collection: The one it works for, where there is one only.
        show: Show progress.

    Returns:
        What it did, and whether a signal stopped it.

    Raises:
        KeyboardInterrupt: A second signal came.
    """
    outcome: list[WorkerReport] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(worker.run(drain=drain))
        except BaseException as error:  # raised again below, in the main thread
            failure.append(error)

    # A daemon: after a second signal nobody waits for the encoder, and the lease expires.
    thread = threading.Thread(target=work, name="embver-worker", daemon=True)
    with _stopping(worker) as stopped, _Display(worker, output, collection, show) as display:
        thread.start()
        while thread.is_alive():
            thread.join(_TICK)
            display.look()
    if failure:
        raise failure[0]
    return outcome[0], stopped.is_set()


@contextmanager
def _stopping(worker: Worker) -> Iterator[threading.Event]:
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        worker.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _OutputHandler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._console = output.errors

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            self._console.print(self.format(record), soft_wrap=True)


@dataclass(frozen=True)
class _Remaining:
    """What is left to do: documents, older transactions waited for, a build under way."""

    documents: int
    writers: int
    build: Any


class _Display:
    """Progress of a worker: documents, then the index."""

    def __init__(self, worker: Worker, output: Output, collection: str | None, show: bool) -> None:
        self._worker = worker
        self._collection = collection
        self._output = output
        self._show = show and not (output.quiet or output.json_mode)
        self._stack = ExitStack()
        self._meter: Meter | None = None
        self._building = False
        self._next = 0.0
        self._waiting_since: float | None = None
        self._remarked = False

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._show:
            if self._meter is None:
                self._open("encoding", "documents", building=False)
            if not self._building:
                self._update(self._done())
        self._stack.close()

    def look(self) -> None:
        """Ask how far the work is, not more often than is cheap."""
        import psycopg

        from embver_pg.errors import EmbverError

        began = time.monotonic()
        if not self._show or began < self._next:
            return
        with suppress(psycopg.Error, EmbverError):  # the worker itself says what is wrong
            self._render(_remaining(self._worker.database, self._collection))
        self._next = time.monotonic() + max(_LOOK, 10 * (time.monotonic() - began))

    def _render(self, left: _Remaining) -> None:
        self._remark(left.writers)
        if left.build is not None:
            if not self._building:
                self._open("building the index", "tuples", building=True)
            self._update(left.build.done, left.build.total or None)
            return
        if self._building or self._meter is None:
            self._open("encoding", "documents", building=False)
        done = self._done()
        self._update(done, done + left.documents)

    def _done(self) -> int:
        return self._worker.report.written + self._worker.report.failed

    def _open(self, label: str, unit: str, *, building: bool) -> None:
        self._stack.close()
        self._meter = self._stack.enter_context(progress(self._output, label, None, unit))
        self._building = building

    def _update(self, done: int, total: int | None = None) -> None:
        assert self._meter is not None
        self._meter.update(done, total)

    def _remark(self, writers: int) -> None:
        if not writers:
            self._waiting_since = None
            return
        self._waiting_since = self._waiting_since or time.monotonic()
        if not self._remarked and time.monotonic() - self._waiting_since > _PATIENCE:
            self._remarked = True
            self._output.note(
                f"waiting for {writers} transactions that wrote the source before the capture"
                " began; see pg_stat_activity"
            )


def _remaining(database: Database, collection: str | None) -> _Remaining:
    """Queued documents and those that the walk has not seen, by what every worker may call."""
    from psycopg import sql

    from embver_pg import indexing
    from embver_pg.db import store_function

    targets = database.rows(
        "SELECT w.store, (SELECT sum(greatest(r.reltuples, 0))::bigint FROM pg_class AS r"
        "  WHERE r.relkind = 'r' AND (r.oid = c.source"
        "  OR r.oid IN (SELECT p.relid FROM pg_partition_tree(c.source) AS p))) AS documents"
        " FROM embver_internal.writable_versions() AS w"
        " JOIN embver_internal.collection AS c ON c.name = w.collection"
        " WHERE w.collection = coalesce(%s, w.collection)",
        (collection,),
    )
    documents = writers = 0
    build = None
    for target in targets:
        query = sql.SQL("SELECT w.*, q.ready + q.waiting + q.leased AS queued FROM {}() w, {}() q")
        row = database.row(
            query.format(
                store_function(target["store"], "walk_status"),
                store_function(target["store"], "queue_status"),
            )
        )
        assert row is not None
        documents += row["queued"]
        if row["phase"] in ("pending", "barrier", "documents"):
            documents += max((target["documents"] or 0) - row["seen"], 0)
        writers += len(row["waiting_for"] or ()) if row["phase"] == "barrier" else 0
        with database.connection() as connection:
            build = build or indexing.build_progress(connection, target["store"])
    return _Remaining(documents, writers, build)
