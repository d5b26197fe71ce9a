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
from tests.chaos.conftest import DOCUMENTS
from tests.chaos.processes import assert_whole, encoded, until, worker_process
from tests.conftest import Installed

LONG = 300.0  # seconds; no test waits for it


def leases(connection: psycopg.Connection[Row]) -> list[Row]:
    return connection.execute("SELECT * FROM embver_docs_v1.lease").fetchall()


@pytest.mark.both_versions
@pytest.mark.parametrize(("slow", "written"), [(0.5, 8), (60.0, 0)], ids=["finished", "given-back"])
def test_sigterm_while_encoding(
    installed: Installed,
    filling: Embver,
    owner: psycopg.Connection[Row],
    log: Path,
    slow: float,
    written: int,
) -> None:
    options = {"batch": 8, "lease": LONG, "grace": 1.5}
    with worker_process(installed.owner, options=options, log=str(log), slow=slow) as process:
        process.wait_for("encoding")
        began = time.monotonic()
        process.terminate()
        assert process.finish()["written"] == written
        assert process.popen.wait(10) == 0
        assert time.monotonic() - began < 8
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
    config: dict[str, Any] = {"options": {"batch": 4}, "log": str(log), "slow": 0.05, "drain": True}
    with (
        worker_process(installed.owner, **config) as one,
        worker_process(installed.worker, **config) as other,
    ):
        reports = [one.finish(), other.finish()]
    assert sum(report["written"] for report in reports) == DOCUMENTS
    assert all(report["written"] > 0 for report in reports)
    assert sum(encoded(log).values()) == DOCUMENTS
    assert filling.collection("docs").version(1)["state"] == "ready"
    assert_whole(owner)


def test_the_heartbeat_keeps_a_lease(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], log: Path
) -> None:
    options = {"lease": 1.0, "batch": DOCUMENTS}
    config: dict[str, Any] = {"options": options, "log": str(log), "drain": True}
    with worker_process(installed.owner, slow=3.0, **config) as slow:
        slow.wait_for("encoding")
        with worker_process(installed.owner, **config) as other:
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
    reasons: list[str] = []
    worker = installed.new_worker(
        "owner",
        lease=0.6,
        on_step=lambda name, figures: reasons.append(figures.get("reason", "")),
    )
    until(lambda: walked(owner), "the source is walked")
    owner.execute(
        "SELECT embver_docs_v1.claim(%s, 20, make_interval(secs => 0.6))", (worker.worker_id,)
    )
    assert worker.run(drain=True).written == DOCUMENTS
    assert any("leased by other workers" in reason for reason in reasons)
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
