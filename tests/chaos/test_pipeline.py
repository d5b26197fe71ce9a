"""Claiming, encoding and writing go on beside each other, bounded; and each can be interrupted."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from embver_pg.client import Embver
from embver_pg.db import Row
from tests.chaos.conftest import DOCUMENTS
from tests.chaos.processes import assert_whole, backends, worker_process
from tests.chaos.test_drain import Running, faulty, running
from tests.conftest import Installed
from tests.waiting import NEVER, PATIENCE, until

BATCH = 4


class Gate:
    """Before the encoder: who comes waits until it is opened, and is counted."""

    def __init__(self) -> None:
        self.texts: Counter[str] = Counter()
        self.calls = 0
        self.open = threading.Event()

    def __call__(self, texts: list[str]) -> None:
        self.calls += 1
        self.texts.update(texts)
        assert self.open.wait(PATIENCE)


def leases(connection: psycopg.Connection[Row]) -> list[Row]:
    return connection.execute(
        "SELECT lease_seq, lease_is_begun FROM embver_docs_v1.lease ORDER BY lease_seq"
    ).fetchall()


def held(worker: Running) -> list[int]:
    """How many leases the worker had in hand after each of its steps."""
    counts, now = [], 0
    for name, _ in list(worker.steps):
        now += {"claimed": 1, "completed": -1, "given_back": -1, "lost": -1}.get(name, 0)
        counts.append(now)
    return counts


def test_the_next_leases_are_claimed_while_the_encoder_runs(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    gate = Gate()
    with running(installed, batch=BATCH, encoder_for=faulty(gate)) as worker:
        until(lambda: len(leases(owner)) == 3, "one is encoded, and two wait")
        assert gate.calls == 1
        assert [row["lease_is_begun"] for row in leases(owner)] == [True, False, False]
        gate.open.set()
        worker.ends()
    assert_whole(owner)
    assert set(gate.texts.values()) == {1}


def test_the_encoder_goes_on_while_the_writer_waits_and_no_further_than_that(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    with installed.connect() as blocker:
        with (
            blocker.transaction(),
            running(installed, batch=BATCH) as worker,
        ):
            blocker.execute("LOCK TABLE embver_docs_v1.embedding IN SHARE MODE")
            until(lambda: backends(owner, r'"complete"\('), "it writes")
            # One is written, two wait for that, one is encoded and has no room, two wait for it.
            until(lambda: sum(name == "encoded" for name, _ in worker.steps) == 4, "four encoded")
            until(lambda: len(leases(owner)) == 6, "six in hand")
            blocker.execute("COMMIT")
            worker.ends()
            blocker.execute("BEGIN")
        assert max(held(worker)) <= 7  # a step is told after what it tells of
    assert_whole(owner)


def test_a_pause_takes_effect_within_the_batch(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    gate = Gate()
    with running(installed, batch=BATCH, encoder_for=faulty(gate)) as worker:
        until(lambda: len(leases(owner)) == 3, "one is encoded, and two wait")
        filling.collection("docs").pause_rollout("to see")
        gate.open.set()
        worker.ends()
    assert gate.calls == 1  # what waited did not go on
    assert worker.worker.report.written == BATCH
    assert leases(owner) == []
    filling.collection("docs").resume_rollout()
    filling.drain()
    assert_whole(owner)


def test_a_lease_lost_before_the_encoder_is_not_encoded(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    gate = Gate()
    with running(installed, batch=BATCH, lease=NEVER, encoder_for=faulty(gate)) as worker:
        until(lambda: len(leases(owner)) == 3, "one is encoded, and two wait")
        owner.execute(
            "UPDATE embver_docs_v1.lease SET lease_expires_at = clock_timestamp()"
            " WHERE NOT lease_is_begun"
        )
        with running(installed) as other:
            until(lambda: other.said("documents are leased by other"), "all but one are taken over")
            gate.open.set()
            worker.ends()
            other.ends()
    assert set(gate.texts.values()) == {1}
    assert worker.worker.report.written == BATCH
    assert other.worker.report.written == DOCUMENTS - BATCH
    assert_whole(owner)


def test_only_what_the_encoder_had_is_blamed_for_a_death(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], log: Path
) -> None:
    options = {"batch": BATCH, "lease": NEVER}
    with worker_process(
        installed.owner, options=options, log=str(log), pause=["encoding"], drain=True
    ) as process:
        process.wait_for("encoding")
        until(lambda: len(leases(owner)) == 3, "two wait behind it")
        process.kill()
    owner.execute("UPDATE embver_docs_v1.lease SET lease_expires_at = clock_timestamp()")
    owner.execute("SELECT count(*) FROM embver_docs_v1.claim(gen_random_uuid(), 0)")
    attempts = owner.execute(
        "SELECT job_attempts AS n, count(*) FROM embver_docs_v1.job GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert attempts == [{"n": 0, "count": DOCUMENTS - BATCH}, {"n": 1, "count": BATCH}]
    filling.drain()
    assert_whole(owner)


@pytest.mark.parametrize("function", ["queue_status()", "begin_lease(bigint)"])
def test_a_store_without_one_of_its_functions_is_not_taken_for_dropped(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    function: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner.execute(f"DROP FUNCTION embver_docs_v1.{function}".encode())
    with pytest.raises(psycopg.errors.UndefinedFunction):
        installed.new_worker("owner").run(drain=True)
    with (
        caplog.at_level(logging.ERROR, "embver_pg.worker"),
        running(installed, drain=False) as worker,
    ):
        until(lambda: worker.reached("resting"), "the store rests")
        until(lambda: "does not exist" in caplog.text, "and it is said why")
    assert leases(owner) == []
