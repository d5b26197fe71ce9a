"""A text that kills its worker, as the kernel kills who takes all memory: the fleet survives it."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

from embver_pg.client import Embver
from embver_pg.db import Row
from tests.chaos.conftest import DOCUMENTS
from tests.chaos.processes import assert_whole, encoded, worker_process
from tests.conftest import Installed
from tests.waiting import NEVER, PATIENCE

DEADLY = "body of " + "c81e728d9d4c2f636f067f89cc14862c"  # the second of them
OPTIONS = {"batch": 16, "lease": NEVER}


def expire(connection: psycopg.Connection[Row]) -> None:
    """The leases of the dead: nobody waits for it."""
    connection.execute("UPDATE embver_docs_v1.lease SET lease_expires_at = clock_timestamp()")


def test_a_deadly_text_becomes_the_only_dead_letter(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], log: Path
) -> None:
    kills = 0
    while True:
        with worker_process(
            installed.owner, options=OPTIONS, log=str(log), deadly=DEADLY, drain=True
        ) as process:
            process.popen.wait(PATIENCE)
            if process.popen.returncode == 0:
                break
            assert process.popen.returncode == -9
            kills += 1
            expire(owner)
            assert kills <= 5
    assert kills == 5
    (letter,) = owner.execute("SELECT * FROM embver.dead_letters").fetchall()
    assert letter["key"] == {"id": 2}
    assert letter["error"] == "the worker died or vanished 5 times while encoding it"
    assert letter["attempts"] == 5
    # Twice with innocents, who came through; then alone.
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    deadly = [len(texts) for texts in calls if any(DEADLY in text for text in texts)]
    assert deadly[2:] == [1, 1, 1]
    assert min(deadly[:2]) > 1
    assert len(encoded(log)) == DOCUMENTS
    collection = filling.collection("docs")
    assert collection.verify(1) == {"missing": 1, "stale": 0, "orphaned": 0}
    assert collection.version(1)["state"] == "ready"

    # After its cause is gone it is as any other.
    assert collection.requeue(1) == 1
    with worker_process(installed.owner, options=OPTIONS, log=str(log), drain=True) as process:
        assert process.finish()["written"] == 1
    assert owner.execute("SELECT FROM embver.dead_letters").fetchall() == []
    assert_whole(owner)


def test_four_kills_of_innocent_workers_bury_nobody(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], log: Path
) -> None:
    options = {"batch": DOCUMENTS, "lease": NEVER}
    for _ in range(4):
        with worker_process(
            installed.owner, options=options, log=str(log), pause=["encoding"], drain=True
        ) as process:
            process.wait_for("encoding")
            process.kill()
        expire(owner)
        assert owner.execute("SELECT FROM embver_docs_v1.dead_letter").fetchall() == []
    filling.drain()
    assert owner.execute("SELECT FROM embver_docs_v1.dead_letter").fetchall() == []
    assert_whole(owner)


def test_a_worker_killed_while_it_loads_blames_no_document(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    with worker_process(installed.owner, options=OPTIONS, fatal_load=True, drain=True) as process:
        process.wait_for("loading")
        process.popen.wait(PATIENCE)
    assert owner.execute("SELECT FROM embver_docs_v1.lease").fetchall() == []
    rows = owner.execute("SELECT DISTINCT job_attempts FROM embver_docs_v1.job").fetchall()
    assert rows == [{"job_attempts": 0}]
    filling.drain()
    assert_whole(owner)
