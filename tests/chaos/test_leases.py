"""Leases: given back at a stop, kept alive by the heartbeat, lost for good when they are lost."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embver_pg.client import Embver
from embver_pg.db import Row
from embver_pg.worker import Worker
from tests.chaos.conftest import DOCUMENTS
from tests.chaos.processes import assert_whole, encoded, worker_process
from tests.chaos.test_drain import running
from tests.conftest import Installed
from tests.waiting import NEVER, until


def leases(connection: psycopg.Connection[Row]) -> list[Row]:
    return connection.execute("SELECT * FROM embver_docs_v1.lease").fetchall()


@pytest.mark.both_versions
@pytest.mark.parametrize(
    ("config", "grace", "written"),
    [({"pause": ["encoding"]}, NEVER, 8), ({"slow": NEVER}, 0.5, 0)],
    ids=["finished", "given-back"],
)
def test_sigterm_while_encoding(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    log: Path,
    config: dict[str, Any],
    grace: float,
    written: int,
) -> None:
    options = {"batch": 8, "lease": NEVER, "grace": grace}
    with worker_process(installed.owner, options=options, log=str(log), **config) as process:
        process.wait_for("encoding")
        until(lambda: len(leases(owner)) == 3, "two leases wait behind it")
        process.terminate()
        process.wait_for("given_back")  # of those that wait: it has heard of the stop
        process.go_for_good()
        assert process.finish()["written"] == written
        assert process.popen.returncode == 0
    assert leases(owner) == []
    assert owner.execute("SELECT FROM embver.workers").fetchall() == []
    status = owner.execute("SELECT * FROM embver_docs_v1.queue_status()").fetchone()
    assert status is not None
    assert status["ready"] == DOCUMENTS - written  # due at once
    filling.drain()
    assert_whole(owner)


@pytest.mark.both_versions
def test_two_processes_drain(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], log: Path
) -> None:
    config: dict[str, Any] = {
        "options": {"batch": 4, "lease": NEVER},
        "log": str(log),
        "pause": ["claimed"],
        "drain": True,
    }
    with (
        worker_process(installed.owner, **config) as one,
        worker_process(installed.worker, **config) as other,
    ):
        for process in (one, other):
            process.wait_for("claimed")  # neither is late for it
        for process in (one, other):
            process.go_for_good()
        reports = [one.finish(), other.finish()]
    assert sum(report["written"] for report in reports) == DOCUMENTS
    assert all(report["written"] > 0 for report in reports)
    assert sum(encoded(log).values()) == DOCUMENTS
    assert filling.collection("docs").version(1)["state"] == "ready"
    assert_whole(owner)


def test_the_heartbeat_keeps_a_lease(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], log: Path
) -> None:
    options = {"lease": 20.0, "batch": DOCUMENTS}
    config: dict[str, Any] = {"options": options, "log": str(log), "drain": True}
    with worker_process(installed.owner, pause=["encoding"], **config) as slow:
        slow.wait_for("encoding")
        (lease,) = leases(owner)
        until(
            lambda: leases(owner)[0]["lease_expires_at"] > lease["lease_expires_at"],
            "the heart beats",
        )
        with worker_process(installed.owner, **config) as other:
            other.wait_for("waiting")
            slow.go_for_good()
            assert slow.finish()["written"] == DOCUMENTS
            assert other.finish()["written"] == 0
    assert sum(encoded(log).values()) == DOCUMENTS
    assert_whole(owner)


@pytest.mark.both_versions
def test_a_worker_that_lost_its_lease_writes_nothing(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], log: Path
) -> None:
    options = {"lease": 0.5, "batch": DOCUMENTS}
    with worker_process(
        installed.owner, options=options, log=str(log), pause=["encoded"], drain=True
    ) as frozen:
        lease = frozen.wait_for("encoded")["lease"]
        frozen.popen.send_signal(signal.SIGSTOP)  # its heart stands still too
        owner.execute("UPDATE docs SET body = 'newer' WHERE id <= 10")
        assert filling.drain().written == DOCUMENTS
        frozen.popen.send_signal(signal.SIGCONT)
        frozen.go()
        assert frozen.finish()["written"] == 0
        assert f"lease {lease} of embver_docs_v1 is lost" in "".join(frozen.stderr)
    assert_whole(owner)


def test_a_claim_whose_answer_was_lost_expires(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    """The heartbeat must not keep a lease that the worker does not know of."""
    until(lambda: walked(owner), "the source is walked")

    def claim(worker: Worker) -> None:
        owner.execute(
            "SELECT embver_docs_v1.claim(%s, 20, make_interval(secs => %s))",
            (worker.worker_id, NEVER),
        )

    with running(installed, lease=3.0, before=claim) as drain:
        until(lambda: drain.said("leased by other workers"), "it waits for it")
        (lease,) = leases(owner)
        seen = "SELECT seen_at FROM embver.workers"
        before = owner.execute(seen).fetchall()
        until(lambda: owner.execute(seen).fetchall() != before, "the heart beats")
        assert leases(owner) == [lease]
        owner.execute("UPDATE embver_docs_v1.lease SET lease_expires_at = clock_timestamp()")
        drain.ends()
        assert drain.worker.report.written == DOCUMENTS
    assert_whole(owner)


def walked(connection: psycopg.Connection[Row]) -> bool:
    row = connection.execute("SELECT * FROM embver_docs_v1.walk_step()").fetchone()
    return row is not None and row["phase"] == "done"


def test_the_clock_of_the_worker_does_not_matter(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.0 * 365 * 90)
    ahead = installed.new_worker("owner", batch=8, lease=5.0)
    report = ahead.run(drain=True)
    monkeypatch.undo()
    assert report.written == DOCUMENTS
    row = owner.execute(
        "SELECT max(encoded_at) <= now() AS fine FROM embver_docs_v1.embedding"
    ).fetchone()
    assert row == {"fine": True}
    assert_whole(owner)


def test_a_connection_lost_after_the_commit_writes_once(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer of ``complete`` is lost, not its work: the second try finds the lease gone."""
    worker = installed.new_worker("owner", batch=DOCUMENTS)
    real = worker.database.row
    lost = threading.Event()

    def row(query: Any, parameters: Any = ()) -> Row | None:
        found = real(query, parameters)
        if "::bytea[]" in str(query) and not lost.is_set():
            lost.set()
            raise psycopg.OperationalError("the connection is lost")
        return found

    monkeypatch.setattr(worker.database, "row", row)
    worker.run(drain=True)
    assert lost.is_set()
    assert_whole(owner)
    leases_used = owner.execute(
        "SELECT count(DISTINCT encoded_lease) AS n FROM embver_docs_v1.embedding"
    ).fetchone()
    assert leases_used == {"n": 1}
