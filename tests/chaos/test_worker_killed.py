"""SIGKILL of a worker at each step: another takes over, nothing is lost and little is twice."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from embver_pg import indexing
from embver_pg.client import Embver
from embver_pg.db import Row
from tests.chaos.conftest import DOCUMENTS
from tests.chaos.processes import assert_whole, backends, encoded, worker_process
from tests.conftest import Installed
from tests.waiting import NEVER, until

pytestmark = pytest.mark.both_versions
BATCH = 8
OPTIONS = {"batch": BATCH, "lease": NEVER}


def successor(installed: Installed, log: Path) -> None:
    """When the leases of the dead have expired, another worker process drains what is left."""
    with installed.connect() as owner:
        owner.execute("UPDATE embver_docs_v1.lease SET lease_expires_at = clock_timestamp()")
    with worker_process(installed.owner, options=OPTIONS, log=str(log), drain=True) as process:
        process.finish()


@pytest.mark.parametrize(
    ("step", "again"),
    [
        ("registered", 0),
        ("walk", 0),
        ("claimed", 0),  # leased, not a text was sent
        ("encoding", BATCH),  # sent, and perhaps billed
        ("encoded", BATCH),
        ("completed", 3 * BATCH),  # those behind it: two that wait, one that is encoded
        ("indexed", 0),
    ],
)
def test_killed_between_statements(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    log: Path,
    step: str,
    again: int,
) -> None:
    with worker_process(
        installed.owner, options=OPTIONS, log=str(log), pause=[step], drain=True
    ) as process:
        process.wait_for(step)
        owner.execute("UPDATE docs SET body = 'meanwhile' WHERE id IN (1, 30)")
        owner.execute("DELETE FROM docs WHERE id IN (2, 31)")
        process.kill()
    successor(installed, log)
    assert_whole(owner)
    counts = encoded(log)
    repeated = sum(counts.values()) - len(counts)
    assert repeated <= again
    assert len(counts) <= DOCUMENTS + 2  # and the two texts that were written
    assert filling.collection("docs").version(1)["state"] == "ready"
    # The dead worker stays on the list until it is forgotten; its successor said goodbye.
    assert len(owner.execute("SELECT FROM embver.workers").fetchall()) == 1


@pytest.mark.parametrize(
    ("table", "statement"), [("embedding", "complete"), ("walk", "walk_step"), ("lease", "claim")]
)
def test_killed_while_the_server_works_for_it(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    log: Path,
    table: str,
    statement: str,
) -> None:
    with installed.connect() as blocker, ExitStack() as stack:
        with blocker.transaction():
            blocker.execute(f"LOCK TABLE embver_docs_v1.{table} IN SHARE MODE")
            process = stack.enter_context(
                worker_process(installed.owner, options=OPTIONS, log=str(log))
            )
            until(
                lambda: [
                    row
                    for row in backends(owner, rf'"{statement}"\(')
                    if row["wait_event_type"] == "Lock"
                ],
                f"{statement} waits",
            )
            process.kill()
        until(lambda: not backends(owner, rf'"{statement}"\('), "the server ends its statement")
    successor(installed, log)
    assert_whole(owner)
    counts = encoded(log)
    assert len(counts) == DOCUMENTS
    # The server finished the statement of a client that was gone: what it wrote stays. What was
    # encoded behind it is lost: in the writer's hand, before it, and in the encoder's hand.
    assert sum(counts.values()) <= DOCUMENTS + 4 * BATCH


@pytest.mark.parametrize("builder_dies", [False, True])
def test_killed_while_the_index_is_built(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    log: Path,
    builder_dies: bool,
) -> None:
    with (
        installed.connect() as writer,
        worker_process(installed.worker, options=OPTIONS, log=str(log), drain=True) as process,
    ):
        process.finish()  # filled; this role may not build
        with writer.transaction():
            writer.execute("UPDATE embver_docs_v1.embedding SET chunk = 0 WHERE false")
            with worker_process(installed.owner, options=OPTIONS) as builder:
                (backend,) = until(
                    lambda: backends(owner, "^CREATE INDEX CONCURRENTLY"), "the build has begun"
                )
                builder.kill()
            assert indexing.index_state(owner, "embver_docs_v1") == "building"
            if builder_dies:
                with installed.connect("admin") as admin:
                    admin.execute("SELECT pg_terminate_backend(%s)", (backend["pid"],))
                until(
                    lambda: indexing.index_state(owner, "embver_docs_v1") == "invalid",
                    "an invalid index is left",
                )
    # A builder that is gone holds the others up for a minute; the test does not wait for it.
    owner.execute("UPDATE embver_docs_v1.walk SET index_builder_until = clock_timestamp()")
    successor(installed, log)
    assert_whole(owner)
    assert indexing.index_state(owner, "embver_docs_v1") == "valid"
    indexes = owner.execute(
        "SELECT indexname FROM pg_indexes WHERE schemaname = 'embver_docs_v1'"
        " AND tablename = 'embedding' AND indexdef ~ 'hnsw'"
    ).fetchall()
    assert len(indexes) == 1
    assert filling.collection("docs").version(1)["state"] == "ready"
