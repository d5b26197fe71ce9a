"""The throttle: its conditions, one by one, and what a role may not see."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Installed
from tests.sql.support import Connection, run, value
from tests.waiting import until

pytestmark = pytest.mark.both_versions


def set_policy(owner: Connection, **policy: Any) -> None:
    run(owner, "SELECT embver.set_throttle(%s, 'a test')", (Jsonb(policy),))


def reason(connection: Connection) -> Any:
    return value(connection, "SELECT reason FROM embver_internal.check_throttle()")


@pytest.fixture
def worker(installed: Installed) -> Iterator[Connection]:
    with installed.connect("worker") as connection:
        yield connection


def test_nothing_is_set_at_first(worker: Connection) -> None:
    assert run(worker, "SELECT * FROM embver_internal.check_throttle()") == [
        {"reason": None, "inactive": [], "lsn": None, "at": None}
    ]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(True, "it was told to stop"), ("nightly load", "nightly load"), (False, None)],
)
def test_stop(owner: Connection, worker: Connection, stop: Any, expected: str | None) -> None:
    set_policy(owner, stop=stop)
    assert reason(worker) == expected
    set_policy(owner)
    assert reason(worker) is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("true", "the throttle's query says so"),
        ("false", None),
        ("NULL", None),
        ("SELECT 'batch jobs run' WHERE 1 = 1", "batch jobs run"),
        ("SELECT 'batch jobs run' WHERE 1 = 2", None),
        ("1 / 0", "the throttle's query failed: division by zero"),
    ],
)
def test_query(owner: Connection, worker: Connection, query: str, expected: str | None) -> None:
    set_policy(owner, query=query)
    assert reason(worker) == expected


def test_what_only_a_monitor_can_watch(
    installed: Installed, owner: Connection, worker: Connection
) -> None:
    """One test, because membership in pg_monitor is the whole server's."""
    check = "SELECT reason, inactive FROM embver_internal.check_throttle()"
    set_policy(owner, active_backends=1, replica_lag="5 s", stop=True)
    assert run(worker, check) == [
        {"reason": "it was told to stop", "inactive": ["replica_lag", "active_backends"]}
    ]
    with installed.connect("admin") as admin, installed.connect() as busy:
        admin.execute("GRANT pg_monitor TO embver_w")
        try:
            set_policy(owner, active_backends=1000)
            assert run(worker, check) == [{"reason": None, "inactive": []}]
            set_policy(owner, active_backends=1)
            with installed.connect() as other, ThreadPoolExecutor(2) as pool:
                for connection in (busy, other):
                    pool.submit(connection.execute, "SELECT pg_sleep(3600)")
                found = until(lambda: reason(worker), "two backends are active")
                assert "backends are active (active_backends 1)" in found
                for connection in (busy, other):
                    connection.cancel_safe()
        finally:
            admin.execute("REVOKE pg_monitor FROM embver_w")


def test_wal_rate(owner: Connection, worker: Connection) -> None:
    check = "SELECT reason, lsn::text, at FROM embver_internal.check_throttle(%s::pg_lsn, %s)"
    set_policy(owner, wal_rate="1 kB")
    (first,) = run(worker, check, (None, None))
    assert first["reason"] is None
    run(owner, "CREATE TABLE noise AS SELECT md5(i::text) FROM generate_series(1, 20000) AS i")
    (second,) = run(worker, check, (first["lsn"], first["at"]))
    assert "of WAL a second are written (wal_rate 1 kB)" in second["reason"]
    set_policy(owner, wal_rate="100 TB")
    assert run(worker, check, (first["lsn"], first["at"]))[0]["reason"] is None


def test_the_view_and_the_events(owner: Connection) -> None:
    set_policy(owner, stop="for the view")
    (row,) = run(owner, "SELECT policy, reason, inactive, changed_by FROM embver.throttle")
    assert row == {
        "policy": {"stop": "for the view"},
        "reason": "for the view",
        "inactive": [],
        "changed_by": "embver_owner",
    }
    (event,) = run(
        owner, "SELECT reason, before, after FROM embver.events WHERE kind = 'set_throttle'"
    )
    assert event == {
        "reason": "a test",
        "before": {"policy": {}},
        "after": {"policy": {"stop": "for the view"}},
    }


@pytest.mark.parametrize(
    "policy",
    [
        None,
        [],
        {"speed": 1},
        {"stop": 1},
        {"replica_lag": "soon"},
        {"replica_lag": "-1 s"},
        {"wal_rate": "much"},
        {"active_backends": 0},
        {"active_backends": 1.5},
        {"query": ""},
        {"query": 1},
    ],
    ids=str,
)
def test_bad_policies(owner: Connection, policy: Any) -> None:
    with pytest.raises(psycopg.DatabaseError) as failure:
        run(owner, "SELECT embver.set_throttle(%s)", (None if policy is None else Jsonb(policy),))
    assert failure.value.sqlstate == "VM006"
    assert failure.value.diag.message_hint
    assert value(owner, "SELECT policy FROM embver.throttle") == {}


def test_who_may_set_it(worker: Connection) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(worker, "SELECT embver.set_throttle('{}')")
