"""Invariant 1 after any history: Hypothesis interleaves applications, workers and operators.

Two applications with open transactions at any isolation level, workers stepped through their
protocol (also at REPEATABLE READ, also dying, late, or held between look and write), and every
verb of the lifecycle. At the end, with the queue drained, each live store equals encode(source).
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from psycopg import errors

from tests.concurrency.stage import Hold, Lease, Session, call, drop_stage, new_stage

STEPS = 250
KEYS = (1, 1, 1, 2, 3, 4)
# Few texts, so that content often goes back to what is stored, or lies in another lease.
TEXTS = ("one", "two", "three", "four", "", None)
PATIENCE = "25ms"
# What a transaction may end with, for all the machine knows; it is rolled back then.
CONFLICTS = (
    errors.LockNotAvailable,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.UniqueViolation,
)


@dataclass(frozen=True)
class Change:
    """A statement of the application with its parameters."""

    statement: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


# Statements of an application: of one document, of several, and what embver must not care about.
CHANGES = (
    *("UPDATE docs SET body = %(text)s WHERE id = %(key)s",) * 6,
    "UPDATE docs SET body = NULL WHERE id = %(key)s",
    "UPDATE docs SET seen = seen + 1 WHERE id >= %(key)s",
    *("INSERT INTO docs VALUES (%(key)s, %(text)s) ON CONFLICT (id) DO NOTHING",) * 5,
    *("DELETE FROM docs WHERE id = %(key)s",) * 2,
    "DELETE FROM docs WHERE id >= %(key)s",
    *(
        "UPDATE docs SET id = %(other)s WHERE id = %(key)s"
        " AND NOT EXISTS (SELECT FROM docs WHERE id = %(other)s)",
    )
    * 2,
    "INSERT INTO docs SELECT i, %(text)s FROM generate_series(%(key)s, 4) AS i"
    " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
    "MERGE INTO docs USING (VALUES (%(key)s, %(text)s)) AS m (id, body) ON docs.id = m.id"
    " WHEN MATCHED AND m.body IS NULL THEN DELETE"
    " WHEN MATCHED THEN UPDATE SET body = m.body"
    " WHEN NOT MATCHED THEN INSERT VALUES (m.id, m.body)",
    "TRUNCATE docs",
)
ISOLATIONS = ("read committed", "repeatable read", "serializable")
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


# How often an action is chosen.
ACTIONS = (
    *("change",) * 20,
    *("begin",) * 7,
    "undo",
    *("end",) * 7,
    *("walk",) * 3,
    *("claim",) * 9,
    *("complete",) * 5,
    *("hold",) * 6,
    *("let_go",) * 4,
    *("give_back", "crash", "expire"),
    *("operate",) * 2,
    *("rest",) * 2,
)
# A retired version is gone for good: seldom, or little is left to look at.
OPERATIONS = (
    *("start", "resume") * 10,
    *("ready", "promote") * 4,
    *("rollback", "requeue", "requeue missing", "abort") * 2,
    *("pause", "retire"),
)


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
        self.count = 0
        for session in (*self.applications, *self.workers, self.stage.owner):
            session.run(f"SET lock_timeout = '{PATIENCE}'")
        for version in (1, 2):
            # One thread steps everybody: a completion must give up soon where it has to wait.
            self.stage.owner.run(
                f"ALTER FUNCTION embver_docs_v{version}.complete SET lock_timeout = '{PATIENCE}'"
            )

    @initialize(filled=st.sampled_from((True, True, True, False)))
    def start(self, filled: bool) -> None:
        self.stage.owner.run("SELECT embver.start_rollout('docs', 1)")
        if filled:
            self.stage.drain()

    @rule(seed=st.integers(0, 2**64 - 1))
    def step(self, seed: int) -> None:
        """One action, chosen evenly by weight: Hypothesis's own draws would cling to a few."""
        self.count += 1
        chance = random.Random(f"{seed} {self.count}")
        action = chance.choice(ACTIONS)
        i, n = chance.randrange(2), chance.randrange(8)
        change = Change(
            chance.choice(CHANGES),
            {
                "key": chance.choice(KEYS),
                "other": chance.choice(KEYS),
                "text": chance.choice(TEXTS),
            },
        )
        isolation, verb = chance.choice(ISOLATIONS), chance.choice(OPERATIONS)
        match action:
            case "change":
                note(f"application {i}: {change}")
                self.change(i, change)
            case "begin":
                note(f"application {i}: begin {isolation}")
                self.begin(i, isolation)
            case "undo":
                note(f"application {i}: {change}, taken back")
                self.undo(i, change)
            case "end":
                note(f"application {i}: {'commit' if n > 1 else 'rollback'}")
                self.end(i, commits=n > 1)
            case "operate":
                note(f"operator: {verb} {1 + n % 2}")
                self.operate(verb, 1 + n % 2)
            case "rest":
                note("rest")
                self.rest()
            case "expire":
                note(f"leases of {1 + n % 2} expire")
                self.stage.expire_free(1 + n % 2)
            case _:
                note(f"worker {i}: {action} ({n})")
                self.work(action, i, n)

    # -- applications

    def begin(self, i: int, isolation: str) -> None:
        if not self.open[i]:
            self.applications[i].begin(isolation)
            self.open[i] = True
            # The snapshot is taken here.
            self.change(i, Change("SELECT FROM docs"))

    def change(self, i: int, change: Change) -> bool:
        try:
            self.applications[i].run(change.statement, change.parameters)
        except CONFLICTS:
            self.end(i, commits=False)
            return False
        return True

    def undo(self, i: int, change: Change) -> None:
        if self.open[i]:
            self.applications[i].run("SAVEPOINT before")
            if self.change(i, change):
                self.applications[i].run("ROLLBACK TO before")

    def end(self, i: int, commits: bool) -> None:
        if self.open[i]:
            self.open[i] = False
            with suppress(*CONFLICTS):  # PostgreSQL has rolled it back
                self.applications[i].run("COMMIT" if commits else "ROLLBACK")

    # -- workers

    def work(self, action: str, i: int, n: int) -> None:
        """One step of the protocol; where there is no lease to go on with, a claim."""
        if action == "walk" and (live := self.stage.live()):
            with suppress(*CONFLICTS):
                call(self.workers[i], live[n % len(live)], "walk_step", (1, 2, 1000)[n % 3])
        elif action == "let_go" and self.held:
            hold, lease = self.held.pop(n % len(self.held))
            hold.let_go()
            self.completed(hold.session, lease)
        elif action != "claim" and self.leases:
            self.end_lease(action, i, self.leases.pop(n % len(self.leases)))
        else:
            self.claim(i, n)

    def claim(self, i: int, n: int) -> None:
        live = self.stage.live()
        if not live:
            return
        version = live[n % len(live)]
        self.stage.due(version)
        with suppress(*CONFLICTS):
            lease = self.stage.claim(version, (100, 1, 100, 2)[n % 4], self.workers[i])
            if lease is not None:
                self.leases.append(lease)

    def end_lease(self, action: str, i: int, lease: Lease) -> None:
        if action == "give_back":
            self.stage.call(lease.version, "give_back", lease.number)
        elif action == "crash":
            self.stage.expire_free(lease.version)
        elif action == "hold" and len(self.held) < 2:
            hold = self.stage.hold()
            self.stage.start_complete(lease, hold.session)
            if self.stage.settled(hold.session):  # it had nothing to write
                hold.let_go()
                self.completed(hold.session, lease)
            else:
                self.held.append((hold, lease))
        else:
            self.stage.start_complete(lease, self.workers[i])
            self.completed(self.workers[i], lease)

    def completed(self, session: Session, lease: Lease) -> None:
        try:
            session.result()
        except CONFLICTS:
            self.leases.append(lease)
        except psycopg.DatabaseError as error:
            if error.sqlstate != "VM020":
                raise

    # -- operators

    def operate(self, verb: str, version: int) -> None:
        try:
            self.stage.owner.run(VERBS[verb], {"version": version})
        except CONFLICTS:
            pass
        except psycopg.DatabaseError as error:
            if not (error.sqlstate or "").startswith("VM"):
                raise

    # -- the end, and moments in between

    def rest(self) -> None:
        """Everybody finishes; the queue is drained; invariant 1."""
        while self.held:
            self.work("let_go", 0, 0)
        for i in (0, 1):
            self.end(i, commits=True)
        if self.stage.owner.run("SELECT state FROM embver_internal.rollout WHERE state = 'paused'"):
            self.operate("resume", 1)
        self.stage.drain_and_check()
        self.leases.clear()

    def teardown(self) -> None:
        try:
            self.rest()
        finally:
            drop_stage(self.stage)


@pytest.mark.both_versions
@pytest.mark.slow
class TestHistory(History.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(
        max_examples=int(os.environ.get("EMBVER_TEST_HISTORIES") or 20),
        stateful_step_count=STEPS,
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
