"""Invariant 1 after any history: Hypothesis interleaves applications, workers and operators.

Two applications with open transactions at any isolation level, workers stepped through their
protocol (also at REPEATABLE READ, also dying, late, or held between look and write), and every
verb of the lifecycle. At the end, with the queue drained, each live store equals encode(source).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from psycopg import errors

from tests.concurrency.stage import Hold, Lease, Session, call, drop_stage, new_stage

KEYS = (1, 2, 3, 4)
# Few texts, so that content often goes back to what is stored, or lies in another lease.
TEXTS = ("one", "two", "a longer text", "", None)
PATIENCE = "25ms"
# What a transaction may end with, for all the machine knows; it is rolled back then.
CONFLICTS = (
    errors.LockNotAvailable,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.UniqueViolation,
)

keys = st.sampled_from(KEYS)
texts = st.sampled_from(TEXTS)
versions = st.sampled_from((1, 2))
who = st.sampled_from((0, 1))
which = st.integers(0, 7)


@dataclass(frozen=True)
class Change:
    """A statement of the application with its parameters."""

    statement: str
    parameters: tuple[Any, ...]


changes = st.one_of(
    st.builds(
        lambda key, text: Change(
            "INSERT INTO docs VALUES (%s, %s) ON CONFLICT (id) DO NOTHING", (key, text)
        ),
        keys,
        texts,
    ),
    st.builds(
        lambda key, text: Change("UPDATE docs SET body = %s WHERE id = %s", (text, key)),
        keys,
        texts,
    ),
    st.builds(lambda key: Change("UPDATE docs SET seen = seen + 1 WHERE id >= %s", (key,)), keys),
    st.builds(lambda key: Change("UPDATE docs SET body = NULL WHERE id = %s", (key,)), keys),
    st.builds(lambda key: Change("DELETE FROM docs WHERE id = %s", (key,)), keys),
    st.builds(lambda key: Change("DELETE FROM docs WHERE id >= %s", (key,)), keys),
    st.builds(
        lambda new, old: Change(
            "UPDATE docs SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM docs WHERE id = %s)",
            (new, old, new),
        ),
        keys,
        keys,
    ),
    st.builds(
        lambda key, text: Change(
            "INSERT INTO docs SELECT i, %s FROM generate_series(%s, 4) AS i"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (text, key),
        ),
        keys,
        texts,
    ),
    st.builds(
        lambda key, text: Change(
            "MERGE INTO docs USING (VALUES (%s, %s)) AS m (id, body) ON docs.id = m.id"
            " WHEN MATCHED AND m.body IS NULL THEN DELETE"
            " WHEN MATCHED THEN UPDATE SET body = m.body"
            " WHEN NOT MATCHED THEN INSERT VALUES (m.id, m.body)",
            (key, text),
        ),
        keys,
        texts,
    ),
    st.just(Change("TRUNCATE docs", ())),
)
isolations = st.sampled_from(("read committed", "repeatable read", "serializable"))
VERBS = {
    "start": "SELECT embver.start_rollout('docs', %(version)s)",
    "pause": "SELECT embver.pause_rollout('docs', 'a drill')",
    "resume": "SELECT embver.resume_rollout('docs')",
    "abort": "SELECT embver.abort_rollout('docs', 'a drill')",
    "ready": "SELECT embver_internal.mark_ready('docs', %(version)s)",
    "promote": "SELECT embver.promote('docs', true, 'a drill')",
    "rollback": "SELECT embver.rollback('docs', 'a drill')",
    "retire": "SELECT embver.retire_version('docs', %(version)s)",
    "requeue": "SELECT embver.requeue('docs', %(version)s, 'all')",
    "requeue missing": "SELECT embver.requeue('docs', %(version)s, 'missing')",
}


class History(RuleBasedStateMachine):
    """Applications, workers and operators, one statement at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = new_stage()
        self.applications = [self.stage.session(f"application {i}") for i in (1, 2)]
        self.open = [False, False]
        eager = self.stage.session("worker at repeatable read", role="worker")
        eager.run("SET default_transaction_isolation = 'repeatable read'")
        self.workers = [self.stage.worker, eager]
        self.leases: list[Lease] = []
        self.held: list[tuple[Hold, Lease]] = []
        for session in (*self.applications, *self.workers, self.stage.owner):
            session.run(f"SET lock_timeout = '{PATIENCE}'")
        for version in (1, 2):
            # One thread steps everybody: a completion must give up soon where it has to wait.
            self.stage.owner.run(
                f"ALTER FUNCTION embver_docs_v{version}.complete SET lock_timeout = '{PATIENCE}'"
            )

    @initialize(filled=st.booleans())
    def begin_filling(self, filled: bool) -> None:
        self.stage.owner.run("SELECT embver.start_rollout('docs', 1)")
        if filled:
            self.stage.drain()

    # -- applications

    @rule(i=who, isolation=isolations)
    def begin(self, i: int, isolation: str) -> None:
        if not self.open[i]:
            self.applications[i].begin(isolation)
            self.open[i] = True
            # The snapshot is taken here.
            self._application(i, Change("SELECT FROM docs", ()))

    @rule(i=who, change=changes)
    def change(self, i: int, change: Change) -> None:
        self._application(i, change)

    @precondition(lambda self: any(self.open))
    @rule(i=who, change=changes)
    def change_and_take_back(self, i: int, change: Change) -> None:
        if self.open[i]:
            self.applications[i].run("SAVEPOINT before")
            if self._application(i, change):
                self.applications[i].run("ROLLBACK TO before")

    @precondition(lambda self: any(self.open))
    @rule(i=who, commits=st.sampled_from((True, True, False)))
    def end(self, i: int, commits: bool) -> None:
        if self.open[i]:
            self.open[i] = False
            with suppress(*CONFLICTS):  # PostgreSQL has rolled it back
                self.applications[i].run("COMMIT" if commits else "ROLLBACK")

    def _application(self, i: int, change: Change) -> bool:
        try:
            self.applications[i].run(change.statement, change.parameters)
        except CONFLICTS:
            if self.open[i]:
                self.applications[i].rollback()
                self.open[i] = False
            return False
        return True

    # -- workers

    @rule(i=who, version=versions, limit=st.sampled_from((1, 2, 1000)))
    def walk(self, i: int, version: int, limit: int) -> None:
        self._work(lambda: call(self.workers[i], version, "walk_step", limit))

    @rule(i=who, version=versions, limit=st.sampled_from((1, 2, 100)))
    def claim(self, i: int, version: int, limit: int) -> None:
        if len(self.leases) < 8:
            self.stage.due(version)
            lease = self._work(lambda: self.stage.claim(version, limit, self.workers[i]))
            if lease is not None:
                self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(i=who, n=which)
    def complete(self, i: int, n: int) -> None:
        lease = self.leases.pop(n % len(self.leases))
        self.stage.start_complete(lease, self.workers[i])
        self._completed(self.workers[i], lease)

    @precondition(lambda self: self.leases and len(self.held) < 2)
    @rule(n=which)
    def complete_and_hold(self, n: int) -> None:
        lease = self.leases.pop(n % len(self.leases))
        hold = self.stage.hold()
        self.stage.start_complete(lease, hold.session)
        if self.stage.settled(hold.session):  # it had nothing to write
            self._completed(hold.session, lease)
            hold.let_go()
        else:
            self.held.append((hold, lease))

    @precondition(lambda self: self.held)
    @rule(n=which)
    def let_go(self, n: int) -> None:
        hold, lease = self.held.pop(n % len(self.held))
        hold.let_go()
        self._completed(hold.session, lease)

    @precondition(lambda self: self.leases)
    @rule(n=which)
    def give_back(self, n: int) -> None:
        lease = self.leases.pop(n % len(self.leases))
        self.stage.call(lease.version, "give_back", lease.number)

    @precondition(lambda self: self.leases)
    @rule(n=which)
    def crash(self, n: int) -> None:
        lease = self.leases.pop(n % len(self.leases))
        self.stage.expire_free(lease.version)

    @rule(version=versions)
    def be_late(self, version: int) -> None:
        """Leases expire, and their workers do not know it."""
        self.stage.expire_free(version)

    def _work(self, step: Any) -> Any:
        try:
            return step()
        except CONFLICTS:
            return None  # the transaction did nothing; a worker tries again

    def _completed(self, session: Session, lease: Lease) -> None:
        try:
            session.result()
        except CONFLICTS:
            self.leases.append(lease)
        except psycopg.DatabaseError as error:
            if error.sqlstate != "VM020":
                raise

    # -- operators

    @rule(verb=st.sampled_from(sorted(VERBS)), version=versions)
    def operate(self, verb: str, version: int) -> None:
        try:
            self.stage.owner.run(VERBS[verb], {"version": version})
        except CONFLICTS:
            pass
        except psycopg.DatabaseError as error:
            if not (error.sqlstate or "").startswith("VM"):
                raise

    @rule()
    def fill(self) -> None:
        """Workers get some rest from the applications' changes: one round over everything."""
        for version in (1, 2):
            self.walk(0, version, 1000)
            self.claim(0, version, 100)
            if self.leases and self.leases[-1].version == version:
                self.complete(0, len(self.leases) - 1)

    # -- the end

    def teardown(self) -> None:
        try:
            while self.held:
                self.let_go(0)
            for i in (0, 1):
                self.end(i, True)
            if any(
                row["state"] == "paused"
                for row in self.stage.owner.run("SELECT state FROM embver_internal.rollout")
            ):
                self.operate("resume", 1)
            self.stage.drain_and_check()
        finally:
            drop_stage(self.stage)


@pytest.mark.both_versions
@pytest.mark.slow
class TestHistory(History.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(
        max_examples=int(os.environ.get("EMBVER_TEST_HISTORIES") or 60),
        stateful_step_count=40,
        deadline=None,
        print_blob=True,
        # Shrinking runs a history hundreds of times: ask for it when there is something to shrink.
        phases=[
            phase
            for phase in Phase
            if phase is not Phase.shrink or os.environ.get("EMBVER_TEST_SHRINK")
        ],
        suppress_health_check=list(HealthCheck),
    )
