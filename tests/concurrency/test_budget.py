"""Money under concurrency: a budget is never exceeded, a rate never passed, nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from embver_pg.client import Embver
from embver_pg.db import Row
from embver_pg.errors import BudgetExceeded
from tests.conftest import Installed
from tests.waiting import PATIENCE, until

WORKERS = 8
RESERVE = "SELECT * FROM embver_internal.reserve_spend('docs', 1, %s, %s, %s, %s, %s)"
SETTLE = "SELECT embver_internal.settle_spend(%s, %s, %s, %s, false)"
ACQUIRE = "SELECT * FROM embver_internal.acquire_encoder(%s, %s, %s, '1 h')"
GRANT = (
    "SELECT a.*, now() AS after, clock_timestamp() AS before"
    " FROM embver_internal.acquire_encoder(%s, %s, %s, '1 h') AS a"
)


def spend(connection: psycopg.Connection[Row]) -> Row:
    row = connection.execute("SELECT * FROM embver.rollouts ORDER BY rollout_id DESC").fetchone()
    assert row is not None
    return row


def at_once(installed: Installed, work: Callable[[psycopg.Connection[Row], int], Any]) -> list[Any]:
    """The same work in eight connections of workers, begun together."""
    barrier = threading.Barrier(WORKERS)

    def begin(number: int) -> Any:
        with installed.connect("worker") as connection:
            barrier.wait()
            return work(connection, number)

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(begin, range(WORKERS)))


@pytest.mark.both_versions
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", ["tokens", "requests", "cost"])
def test_eight_workers_never_exceed_a_budget(
    installed: Installed, owner: psycopg.Connection[Row], docs: Embver, limit: str, seed: int
) -> None:
    """Whatever they reserve, settle or abandon: spent stays within the budget at every moment."""
    budget = {"tokens": 5000, "requests": 60, "cost": 0.05}[limit]
    docs.collection("docs").abort_rollout()
    docs.collection("docs").start_rollout(
        1, options={"budget": {limit: budget, "price_per_million": 10}}
    )

    def work(connection: psycopg.Connection[Row], number: int) -> tuple[int, int]:
        random, me = Random(100 * seed + number), uuid4()
        used = [0, 0]
        for _ in range(40):
            tokens, requests = random.randint(1, 300), random.randint(1, 4)
            row = connection.execute(RESERVE, (me, 5, tokens, requests, False)).fetchone()
            assert row is not None
            if row["refusal"]:
                assert row["refusal"]["detail"]["exceeded"] in (limit, None)
                return used[0], used[1]
            fate = random.random()
            if fate < 0.2:  # it dies here: what it reserved stays spent
                used[0] += tokens
                used[1] += requests
                continue
            tokens = random.randint(0, tokens)
            connection.execute(SETTLE, (row["reservation"], 5, tokens, requests))
            if fate < 0.4:  # the answer was lost, and it says so again
                connection.execute(SETTLE, (row["reservation"], 5, tokens, requests))
            used[0] += tokens
            used[1] += requests
        return used[0], used[1]

    stop = threading.Event()
    broken: list[Row] = []

    def watch() -> None:
        with installed.connect() as connection:
            while not stop.is_set():
                row = spend(connection)
                if row[f"spent_{limit}"] > budget:
                    broken.append(row)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    used = at_once(installed, work)
    stop.set()
    watcher.join()
    assert broken == []
    row = spend(owner)
    assert row["spent_tokens"] == sum(tokens for tokens, _ in used)
    assert row["spent_requests"] == sum(requests for _, requests in used)
    assert float(row["spent_cost"]) == pytest.approx(10 * row["spent_tokens"] / 1e6)
    assert row["spent_" + limit] <= budget
    assert row["state"] == "paused"
    assert row["pause_reason"].startswith("budget reached")
    events = owner.execute(
        "SELECT reason FROM embver.events WHERE kind = 'pause_rollout'"
    ).fetchall()
    assert events == [{"reason": row["pause_reason"]}]  # once, however many were refused


@pytest.fixture
def budgeted(docs: Embver) -> Embver:
    """The version is filled with a budget of a thousand tokens."""
    collection = docs.collection("docs")
    collection.abort_rollout()
    collection.start_rollout(1, options={"budget": {"tokens": 1000}})
    return docs


@pytest.mark.both_versions
def test_those_who_wait_look_again(
    installed: Installed, owner: psycopg.Connection[Row], budgeted: Embver
) -> None:
    """Eight ask at the same moment, held up by a ninth: each sees what the others were granted."""

    def work(connection: psycopg.Connection[Row], number: int) -> bool:
        row = connection.execute(RESERVE, (uuid4(), 1, 300, 1, False)).fetchone()
        assert row is not None
        return row["reservation"] is not None

    with ThreadPoolExecutor(1) as pool:
        with (
            installed.connect("admin") as watch,
            installed.connect("admin") as ninth,
            ninth.transaction(),
        ):
            ninth.execute("SELECT FROM embver_internal.rollout_spend FOR UPDATE")
            granted = pool.submit(at_once, installed, work)
            waiting = (
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            until(lambda: watch.execute(waiting).rowcount == WORKERS, "all of them wait")
        assert sum(granted.result(PATIENCE)) == 3
    assert spend(owner)["spent_tokens"] == 900


@pytest.mark.both_versions
def test_a_worker_waits_for_what_others_may_give_back(
    installed: Installed, owner: psycopg.Connection[Row], budgeted: Embver
) -> None:
    first, second = uuid4(), uuid4()
    with installed.connect("worker") as worker:

        def reserve(who: Any, tokens: int, patient: bool = True) -> Row:
            row = worker.execute(RESERVE, (who, 1, tokens, 1, patient)).fetchone()
            assert row is not None
            return row

        large = reserve(first, 900)
        assert reserve(second, 200)["wait"] > 0
        assert spend(owner)["state"] == "running"
        worker.execute(SETTLE, (large["reservation"], 1, 100, 1))
        assert reserve(second, 200)["reservation"]
        assert spend(owner)["spent_tokens"] == 300
        # What cannot come back is not waited for: one's own, and a worker's that is long dead.
        reserve(first, 600)
        owner.execute("UPDATE embver_internal.reservation SET reserved_at = now() - interval '1 h'")
        assert reserve(second, 200)["refusal"]["detail"]["spent"]["tokens"] == 900
        row = spend(owner)
        assert row["pause_reason"] == (
            "budget reached: 900 of 1000 tokens are spent and the next batch needs up to 200"
        )
        # While it is paused nobody is served, however little he asks for.
        assert reserve(first, 1)["refusal"]["message"] == row["pause_reason"]


@pytest.mark.both_versions
def test_resuming_asks_whether_the_batch_fits_now(
    installed: Installed, owner: psycopg.Connection[Row], budgeted: Embver
) -> None:
    collection = budgeted.collection("docs")
    with installed.connect("worker") as worker:
        worker.execute(RESERVE, (uuid4(), 1, 900, 1, False))
        worker.execute(RESERVE, (uuid4(), 1, 200, 1, False))
    reason = spend(owner)["pause_reason"]
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match=reason) as refused:
            collection.resume_rollout()
        assert refused.value.detail["needed"]["tokens"] == 200
        assert "embver rollout budget docs --tokens" in (refused.value.hint or "")
        assert spend(owner)["pause_reason"] == reason
    collection.set_budget(tokens=1099)
    with pytest.raises(BudgetExceeded):
        collection.resume_rollout()
    collection.set_budget(tokens=1100)
    collection.resume_rollout()
    row = spend(owner)
    assert (row["state"], row["pause_reason"], row["budget"]) == ("running", None, {"tokens": 1100})
    # A pause of an operator is none of the budget's.
    collection.pause_rollout("lunch")
    collection.set_budget(tokens=1)
    collection.resume_rollout()
    assert spend(owner)["state"] == "running"
    collection.set_budget(tokens=None)
    assert spend(owner)["budget"] == {}
    kinds = owner.execute("SELECT kind FROM embver.events ORDER BY event_id").fetchall()
    assert [row["kind"] for row in kinds].count("set_budget") == 4


def test_pausing_does_not_wait_for_a_promotion_that_checks(
    installed: Installed, owner: psycopg.Connection[Row], budgeted: Embver
) -> None:
    """A reservation takes no lock that a lifecycle verb holds for long."""
    with installed.connect() as operator, installed.connect("worker") as worker:
        worker.execute("SET lock_timeout = '10s'")
        with operator.transaction():
            operator.execute(
                "SELECT embver_internal.open_rollout(c) FROM embver_internal.collection c"
            )
            row = worker.execute(RESERVE, (uuid4(), 1, 10, 1, True)).fetchone()
            assert row is not None
            worker.execute(SETTLE, (row["reservation"], 1, 10, 1))
    assert spend(owner)["spent_tokens"] == 10


def limit(owner: psycopg.Connection[Row], minute: str = "60 s", **limits: float) -> int:
    """Limits of the encoder of ``docs``, with a minute as short as a test needs."""
    owner.execute("SELECT embver.set_encoder_limits('hash:8', %s)", (Jsonb(limits),))
    row = owner.execute(
        "UPDATE embver_internal.encoder_limit SET minute_length = %s::interval RETURNING limit_id",
        (minute,),
    ).fetchone()
    assert row is not None
    return int(row["limit_id"])


@dataclass(frozen=True)
class Grant:
    """Leave for a request, between two moments of the server's clock: how busy the machine is
    stretches the time between them, and changes nothing of what is certain."""

    after: datetime
    before: datetime
    amount: int


def most_within_a_minute(grants: list[Grant]) -> int:
    """The most that was surely granted within a minute, which has a second here."""
    grants = sorted(grants, key=lambda grant: grant.before)
    return max(
        sum(
            later.amount
            for later in grants[place:]
            if (later.before - first.after).total_seconds() < 1
        )
        for place, first in enumerate(grants)
    )


@pytest.mark.both_versions
@pytest.mark.parametrize("per_minute", [3, 20, 200])
def test_no_minute_sees_more_requests_than_the_limit(
    installed: Installed, owner: psycopg.Connection[Row], docs: Embver, per_minute: int
) -> None:
    number = limit(owner, "1 s", requests_per_minute=per_minute)
    grants: list[Grant] = []
    waits: list[float] = []

    def work(connection: psycopg.Connection[Row], worker: int) -> None:
        while len(grants) < 3 * per_minute:
            row = connection.execute(GRANT, (number, uuid4(), 1)).fetchone()
            assert row is not None
            if row["wait"] == 0:
                grants.append(Grant(row["after"], row["before"], 1))
            else:
                waits.append(row["wait"])
                time.sleep(row["wait"])

    at_once(installed, work)
    assert most_within_a_minute(grants) <= per_minute
    assert max(waits, default=0) <= 1.01 / (0.9 * per_minute)  # and it is not simply slow


@pytest.mark.both_versions
def test_no_minute_sees_more_tokens_than_the_limit(
    installed: Installed, owner: psycopg.Connection[Row], docs: Embver
) -> None:
    number = limit(owner, "1 s", tokens_per_minute=10_000)
    grants: list[Grant] = []
    waits: list[float] = []

    def work(connection: psycopg.Connection[Row], worker: int) -> None:
        random = Random(worker)
        while sum(grant.amount for grant in grants) < 30_000:
            tokens = random.randint(1, 1000)  # up to a tenth of the limit
            row = connection.execute(GRANT, (number, uuid4(), tokens)).fetchone()
            assert row is not None
            if row["wait"] > 0:
                waits.append(row["wait"])
                time.sleep(row["wait"])
                continue
            used = tokens // 2 if tokens % 3 == 0 else tokens
            grants.append(Grant(row["after"], row["before"], used))
            if used < tokens:  # the provider counts less than was reserved
                connection.execute(
                    "SELECT embver_internal.release_encoder(%s, NULL, %s)", (number, tokens - used)
                )

    at_once(installed, work)
    assert most_within_a_minute(grants) <= 10_000
    assert max(waits, default=0) <= 1.01 * 1000 / 9000


@pytest.mark.both_versions
def test_slots_are_shared_and_those_of_the_dead_expire(
    installed: Installed, owner: psycopg.Connection[Row], docs: Embver
) -> None:
    number = limit(owner, concurrency=3)
    under_way = [0]
    most = [0]
    lock = threading.Lock()

    def work(connection: psycopg.Connection[Row], worker: int) -> int:
        served = 0
        while served < 10:
            row = connection.execute(ACQUIRE, (number, uuid4(), 1)).fetchone()
            assert row is not None
            if row["wait"]:
                time.sleep(0.005)
                continue
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            served += 1
            with lock:
                under_way[0] -= 1
            connection.execute(
                "SELECT embver_internal.release_encoder(%s, %s, 0)", (number, row["slot"])
            )
        return served

    assert at_once(installed, work) == [10] * WORKERS
    assert most[0] <= 3
    with installed.connect("worker") as worker:
        for _ in range(3):
            row = worker.execute(ACQUIRE, (number, uuid4(), 1)).fetchone()
            assert row is not None
            assert row["slot"]
            last = row["slot"]
        full = worker.execute(ACQUIRE, (number, uuid4(), 1)).fetchone()
        assert full is not None
        assert full["wait"] > 0
        shown = owner.execute(
            "SELECT requests_under_way AS n FROM embver.encoder_limits"
        ).fetchone()
        assert shown == {"n": 3}
        owner.execute(
            "UPDATE embver_internal.encoder_slot SET expires_at = now() - interval '1 s'"
            " WHERE slot_id = %s",
            (last,),
        )
        again = worker.execute(ACQUIRE, (number, uuid4(), 1)).fetchone()
        assert again is not None
        assert again["slot"]
