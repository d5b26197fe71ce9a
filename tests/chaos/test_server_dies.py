"""The server dies, restarts, or throws a worker out: workers come back by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embver_pg import embedded
from embver_pg.client import Embver
from embver_pg.db import Database, Row, open_connection
from tests import servers
from tests.chaos.conftest import DOCUMENTS, begin, make_docs
from tests.chaos.processes import assert_whole, backends, encoded, worker_process
from tests.conftest import Installed, install
from tests.waiting import NEVER, join, until

pytestmark = pytest.mark.both_versions
BATCH = 8
OPTIONS = {"batch": BATCH, "lease": 20.0}
PATIENT = {"batch": BATCH, "lease": NEVER}  # where nobody's lease has to expire


@pytest.fixture(scope="module")
def private() -> Iterator[servers.Server]:
    with servers.private_server() as server:
        yield server


@pytest.fixture
def alone(private: servers.Server) -> Iterator[str]:
    """The owner's URL of a database on a server of our own."""
    admin = servers.create_database(private, "alone")
    install(private, admin)
    yield private.url("alone", "embver_owner")
    servers.drop_database(private, admin)


class Application(threading.Thread):
    """Writes and deletes documents; remembers what was committed for certain."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._done = threading.Event()
        self.writes = 0
        self.committed: dict[int, str] = {}
        self.unsure: set[int] = set()

    def run(self) -> None:
        while not self._done.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True) as connection:
                    while not self._done.wait(0.01):
                        self._write(connection, 1000 + self.writes % 50, f"write {self.writes}")
            except psycopg.OperationalError:
                time.sleep(0.05)

    def _write(self, connection: psycopg.Connection[Any], key: int, body: str) -> None:
        self.unsure.add(key)
        connection.execute(
            "INSERT INTO docs VALUES (%s, 'application', %s)"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (key, body),
        )
        self.committed[key] = body
        self.unsure.discard(key)
        self.writes += 1

    def go_on(self, writes: int) -> None:
        """Return when it has made so many writes more."""
        aim = self.writes + writes
        until(lambda: self.writes >= aim, "the application writes again")

    def stop(self) -> None:
        self._done.set()
        join(self)


def kill_and_restart(server: servers.Server) -> None:
    server.kill()
    time.sleep(0.5)  # for the workers to feel it
    server.restart()


def stop_and_restart(server: servers.Server) -> None:
    assert server.data_dir is not None
    embedded.stop(server.data_dir)
    server.restart()


@pytest.mark.parametrize("die", [kill_and_restart, stop_and_restart])
def test_backfill_survives_the_server(
    private: servers.Server,
    alone: str,
    log: Path,
    die: Callable[[servers.Server], None],
) -> None:
    with open_connection(alone) as connection:
        make_docs(connection, 400)
    with Embver(Database(alone)) as embver:
        begin(embver)
    application = Application(alone)
    application.start()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(worker_process(alone, options=OPTIONS, log=str(log), slow=0.05))
            for _ in range(2)
        ]
        for _ in range(2):
            for worker in workers:
                worker.wait_for("completed")
            die(private)
            application.go_on(20)
        application.stop()
        with open_connection(alone) as connection:
            # Nobody else encodes: the workers have come back by themselves.
            until(lambda: is_idle(connection), "the workers finish")
            for worker in workers:
                worker.terminate()
            assert all(worker.finish()["written"] > 0 for worker in workers)
            assert_whole(connection)
            rows = connection.execute("SELECT id, body FROM docs WHERE id >= 1000").fetchall()
    found = {row["id"]: row["body"] for row in rows}
    for key, body in application.committed.items():
        assert key in application.unsure or found[key] == body
    # Each death may cost each worker what it has encoded and not written: in the encoder's hand,
    # before the writer, and in the writer's hand.
    backfill = {text: n for text, n in encoded(log).items() if not text.startswith("application")}
    assert len(backfill) == 400
    assert sum(backfill.values()) - len(backfill) <= 2 * 2 * 4 * BATCH


def is_idle(connection: psycopg.Connection[Row]) -> bool:
    row = connection.execute(
        "SELECT q.ready + q.waiting + q.leased = 0 AND w.phase = 'done' AND EXISTS ("
        "   SELECT FROM embver.versions v WHERE v.version = 1 AND v.state = 'ready') AS idle"
        " FROM embver_docs_v1.queue_status() q, embver_docs_v1.walk_status() w"
    ).fetchone()
    return bool(row and row["idle"])


@pytest.mark.parametrize(
    "step", ["registered", "walk", "claimed", "encoding", "encoded", "completed"]
)
def test_connections_terminated_between_statements(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], log: Path, step: str
) -> None:
    with worker_process(
        f"{installed.owner}&application_name=chaos",
        options=PATIENT,
        log=str(log),
        pause=[step],
        drain=True,
    ) as process:
        terminated = 0
        while process.wait_for(step, "ended")["step"] == step:
            if terminated < 4:
                terminated += terminate(installed)
            process.go()
        assert terminated
        assert process.steps[-1]["written"] == DOCUMENTS
    assert_whole(owner)
    counts = encoded(log)
    assert len(counts) == DOCUMENTS
    assert sum(counts.values()) == DOCUMENTS  # the leases were kept: nothing is encoded again


@pytest.mark.parametrize(
    ("table", "statement"), [("embedding", "complete"), ("walk", "walk_step"), ("lease", "claim")]
)
def test_connection_terminated_within_a_statement(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    log: Path,
    table: str,
    statement: str,
) -> None:
    url = f"{installed.owner}&application_name=chaos"
    with installed.connect() as blocker, ExitStack() as stack:
        with blocker.transaction():
            blocker.execute(f"LOCK TABLE embver_docs_v1.{table} IN SHARE MODE")
            process = stack.enter_context(
                worker_process(url, options=PATIENT, log=str(log), drain=True)
            )
            until(lambda: waits(owner, statement), f"{statement} waits")
            assert terminate(installed)
        assert process.finish()["written"] == DOCUMENTS
        if statement != "complete":  # that one is tried again in silence
            assert "connection lost" in "".join(process.stderr)
    assert_whole(owner)
    assert sum(encoded(log).values()) == DOCUMENTS


def waits(connection: psycopg.Connection[Row], statement: str) -> bool:
    found = backends(connection, rf'"{statement}"\(')
    return any(row["wait_event_type"] == "Lock" for row in found)


def terminate(installed: Installed) -> int:
    """Throw the worker's connections out; how many there were."""
    with installed.connect("admin") as admin:
        row = admin.execute(
            "SELECT count(pg_terminate_backend(pid)) AS n FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'chaos'"
        ).fetchone()
    assert row is not None
    return int(row["n"])
