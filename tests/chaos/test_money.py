"""Budgets and rates end to end: workers, an endpoint that counts, and what is left at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from embver_pg.client import Collection, Embver
from embver_pg.db import Database, Row
from embver_pg.errors import BudgetExceeded
from tests.chaos.conftest import make_docs
from tests.chaos.processes import assert_whole, worker_process
from tests.chaos.test_drain import running
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint
from tests.waiting import NEVER, PATIENCE, until

DOCUMENTS = 60
TOKENS_EACH = 5  # words of "title 7\nbody of <hash>"


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(dimensions=16) as found:
        found.reports_usage = True
        found.counts_canaries = False  # outside of budgets and limits
        yield found


@pytest.fixture
def remote(
    installed: Installed, owner: psycopg.Connection[Row], endpoint: FakeEndpoint
) -> Iterator[Embver]:
    """Sixty documents; version 1 of ``hash:16`` is active, version 2 is the endpoint's."""
    make_docs(owner, DOCUMENTS)
    with installed.embver() as embver:
        collection = embver.create_collection("docs", "public.docs", "title || E'\\n' || body")
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(1)
        embver.drain()
        collection.promote()
        collection.add_version(
            "openai:fake",
            index={"type": "none"},
            base_url=endpoint.base_url,
            dimensions=16,
            timeout=PATIENCE,
            max_attempts=2,
            max_wait=0.2,
            alias="fake",
        )
        endpoint.forget()
        yield embver


def newest(collection: Collection) -> Row:
    return collection.rollouts()[0]


def expire(connection: psycopg.Connection[Row]) -> None:
    """The leases of the dead: nobody waits for it."""
    connection.execute("UPDATE embver_docs_v2.lease SET lease_expires_at = clock_timestamp()")


def leased(connection: psycopg.Connection[Row]) -> int:
    return len(connection.execute("SELECT FROM embver_docs_v2.lease").fetchall())


def begun(connection: psycopg.Connection[Row]) -> int:
    rows = connection.execute("SELECT FROM embver_docs_v2.lease WHERE lease_is_begun")
    return len(rows.fetchall())


@pytest.mark.both_versions
@pytest.mark.parametrize("reports_usage", [True, False])
def test_a_budget_stops_the_rollout_and_nothing_else(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    reports_usage: bool,
) -> None:
    endpoint.reports_usage = reports_usage
    collection = remote.collection("docs")
    # Without a tokenizer a batch reserves its bytes, about 400; what is left of it comes back
    # where the endpoint says what it used.
    budget = 550 if reports_usage else 1500
    collection.start_rollout(2, options={"budget": {"tokens": budget, "price_per_million": 4}})
    options = {"batch": 8, "poll": 0.02}
    with (
        worker_process(installed.owner, options=options) as first,
        worker_process(installed.owner, options=options) as second,
    ):
        paused = until(lambda: newest(collection)["state"] == "paused", "the budget is reached")
        assert paused
        until(lambda: leased(owner) == 0, "leases went back")
        row = newest(collection)
        assert endpoint.tokens <= row["spent_tokens"] <= budget
        assert endpoint.calls <= row["spent_requests"]
        assert 0 < endpoint.texts < DOCUMENTS
        assert row["pause_reason"].startswith("budget reached: ")
        reason = owner.execute(
            "SELECT reason FROM embver.events WHERE kind = 'pause_rollout'"
        ).fetchall()
        assert reason == [{"reason": row["pause_reason"]}]
        # The active version is served as before.
        owner.execute("UPDATE docs SET body = 'changed ' || id WHERE id <= 10")
        until(
            lambda: collection.verify(1) == {"missing": 0, "stale": 0, "orphaned": 0},
            "the active version goes on",
        )
        billed = endpoint.tokens
        with pytest.raises(BudgetExceeded, match="budget reached"):
            collection.resume_rollout()
        assert newest(collection)["state"] == "paused"
        collection.set_budget(tokens=60_000)
        assert newest(collection)["state"] == "paused"
        assert endpoint.tokens == billed
        collection.resume_rollout()
        until(
            lambda: (
                collection.verify(2) == {"missing": 0, "stale": 0, "orphaned": 0}
                and leased(owner) == 0
            ),
            "the rollout goes on to its end",
        )
        until(lambda: collection.version(2)["state"] == "ready", "and is ready")
        for process in (first, second):
            process.terminate()
            process.finish()
    assert_whole(owner, version=1)
    assert_whole(owner, version=2)
    row = newest(collection)
    assert row["spent_tokens"] >= endpoint.tokens
    assert row["spent_requests"] == endpoint.calls
    assert row["spent_documents"] == endpoint.texts
    assert float(row["spent_cost"]) == pytest.approx(4 * row["spent_tokens"] / 1e6)
    if reports_usage:
        assert row["spent_tokens"] == endpoint.tokens  # exactly, in the end
    assert row["spent_is_estimate"] is not reports_usage
    collection.promote(force=True, reason="only the money is tested")


def test_requests_sent_again_are_paid_for(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    collection = remote.collection("docs")
    collection.start_rollout(2, options={"budget": {"requests": 100}})
    endpoint.fail_next(503, times=1)
    endpoint.fail_next(429, times=1, retry_after=0.05)
    endpoint.faults.reject_containing = "title 7\n"
    report = installed.new_worker("owner", batch=20).run(drain=True)
    assert (report.written, report.failed) == (DOCUMENTS - 1, 1)
    row = newest(collection)
    assert row["spent_requests"] == endpoint.calls
    assert row["spent_tokens"] == endpoint.tokens
    assert endpoint.calls > DOCUMENTS / 20 + 2


@pytest.mark.parametrize("budget", [{"tokens": 10**6}, {}])
def test_a_worker_that_dies_leaves_its_spend(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    budget: dict[str, Any],
) -> None:
    """Killed after the endpoint has answered: what was billed is counted, once and again."""
    collection = remote.collection("docs")
    collection.start_rollout(2, options={"budget": budget} if budget else None)
    with worker_process(
        installed.owner, options={"batch": 20, "lease": NEVER}, pause=["encoded"]
    ) as process:
        process.wait_for("encoded")
        process.kill()
    billed = endpoint.tokens
    assert billed > 0
    if budget:
        assert newest(collection)["spent_tokens"] >= billed
    expire(owner)
    report = installed.new_worker("owner", batch=20).run(drain=True)
    assert report.written == DOCUMENTS
    assert_whole(owner, version=2)
    row = newest(collection)
    assert endpoint.tokens > DOCUMENTS * TOKENS_EACH  # the batch was paid for twice
    if budget:
        assert row["spent_tokens"] >= endpoint.tokens
        assert row["spent_requests"] >= endpoint.calls


def test_a_kill_in_the_middle_of_a_request(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    collection = remote.collection("docs")
    collection.start_rollout(2, options={"budget": {"tokens": 10**6}})
    answered = endpoint.faults.held = threading.Event()
    with worker_process(installed.owner, options={"batch": 20, "lease": NEVER}) as process:
        until(lambda: endpoint.calls, "the request is there")
        process.kill()
    endpoint.heal()
    answered.set()
    held = newest(collection)
    assert held["spent_tokens"] >= endpoint.tokens > 0
    expire(owner)
    installed.new_worker("owner", batch=20).run(drain=True)
    row = newest(collection)
    assert row["spent_tokens"] == held["spent_tokens"] + DOCUMENTS * TOKENS_EACH
    assert row["spent_tokens"] >= endpoint.tokens
    assert row["spent_requests"] == endpoint.calls
    assert_whole(owner, version=2)


@pytest.mark.slow
def test_two_processes_keep_to_requests_a_minute(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    collection = remote.collection("docs")
    # A minute of six seconds. What counts is when the limit let a request go, by the server's
    # clock; when it arrives depends on how busy the machine is.
    remote.set_encoder_limits("openai:fake", requests_per_minute=30)
    owner.execute("UPDATE embver_internal.encoder_limit SET minute_length = '6 s'")
    watch_grants(installed)
    collection.start_rollout(2)
    options = {"batch": 1, "poll": 0.02}
    with (
        worker_process(installed.owner, options=options, drain=True),
        worker_process(installed.owner, options=options, drain=True),
    ):
        until(lambda: endpoint.texts >= DOCUMENTS, "all are encoded")
        until(lambda: leased(owner) == 0, "and written")
    grants = owner.execute("SELECT * FROM granted ORDER BY before").fetchall()
    assert len(grants) >= endpoint.calls >= DOCUMENTS
    for first, later in zip(grants, grants[30:], strict=False):
        assert (later["before"] - first["after"]).total_seconds() >= 6
    assert_whole(owner, version=2)


def watch_grants(installed: Installed) -> None:
    """Note in ``granted`` after and before which moment each request was let go."""
    with installed.connect("admin") as admin:
        admin.execute("CREATE TABLE granted (after timestamptz, before timestamptz)")
        admin.execute("GRANT SELECT ON granted TO embver_owner")
        # The bucket of one request more is full so much later than it would have been.
        admin.execute(
            "CREATE FUNCTION note_grant() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            " $$ BEGIN INSERT INTO granted VALUES (now(), clock_timestamp()); RETURN NULL; END $$"
        )
        admin.execute(
            "CREATE TRIGGER note_grant AFTER UPDATE ON embver_internal.encoder_limit FOR EACH ROW"
            " WHEN (new.requests_full_at > old.requests_full_at) EXECUTE FUNCTION note_grant()"
        )


def test_concurrency_is_shared_by_processes(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    remote.set_encoder_limits("openai:fake", concurrency=1)
    remote.collection("docs").start_rollout(2)
    endpoint.faults.delay = 0.05
    options = {"batch": 5, "poll": 0.02}
    with (
        worker_process(installed.owner, options=options),
        worker_process(installed.owner, options=options),
    ):
        until(lambda: endpoint.texts >= DOCUMENTS, "all are encoded")
        until(lambda: leased(owner) == 0, "and written")
    assert endpoint.in_flight_max == 1
    assert_whole(owner, version=2)
    until(
        lambda: owner.execute("SELECT FROM embver_internal.encoder_slot").fetchall() == [],
        "slots went back",
    )


def test_a_wait_for_the_rate_can_be_stopped(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    remote.set_encoder_limits("openai:fake", requests_per_minute=1)
    owner.execute("UPDATE embver_internal.encoder_limit SET minute_length = '1 h'")
    collection = remote.collection("docs")
    collection.start_rollout(2, options={"budget": {"tokens": 10**6}})
    with running(installed, drain=False, batch=20) as worker:
        until(
            lambda: worker.worker.report.written == 20 and begun(owner) == 1,
            "the second request waits",
        )
        # No transaction is open meanwhile; the heart's are short.
        open_ones = (
            "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
        )
        until(lambda: not owner.execute(open_ones).fetchall(), "no transaction is open")
        worker.worker.stop()
        worker.ends()  # long before the minute is over
    assert endpoint.calls == 1
    assert leased(owner) == 0
    row = newest(collection)
    assert (row["spent_requests"], row["spent_tokens"]) == (1, endpoint.tokens)


def test_nothing_is_asked_where_nothing_is_to_be_paid(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a budget, a price and a limit no batch costs another round trip."""
    asked: list[str] = []
    rows = Database.rows

    def counted(self: Database, query: Any, parameters: Any = ()) -> list[Row]:
        asked.append(query if isinstance(query, str) else "")
        return rows(self, query, parameters)

    monkeypatch.setattr(Database, "rows", counted)
    monkeypatch.setattr("embver_pg.worker.meter._FLUSH", NEVER)
    collection = remote.collection("docs")
    collection.start_rollout(2)
    installed.new_worker("owner", batch=2).run(drain=True)
    money = ("reserve_spend", "settle_spend", "acquire_encoder", "release_encoder")
    assert [query for query in asked if any(name in query for name in money)] == []
    assert sum("record_spend" in query for query in asked) == 1
    row = newest(collection)
    assert (row["spent_documents"], row["spent_requests"]) == (DOCUMENTS, DOCUMENTS / 2)
    assert row["spent_tokens"] == DOCUMENTS * TOKENS_EACH
