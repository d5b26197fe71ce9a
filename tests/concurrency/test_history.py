"""Invariant 1 after any history: Hypothesis interleaves applications, workers and operators.

Applications with open transactions at any isolation level, workers stepped through their protocol
(also at REPEATABLE READ, also dying, late, or held between look and write), and operators with
every verb of the lifecycle. Whenever all have finished and the queue is drained, each live store
equals encode(source).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from psycopg import errors
from psycopg.pq import TransactionStatus

from tests.concurrency.stage import Lease, Session, call, drop_stage, new_stage

STEPS = 150
KEYS = (1, 2, 3)
# Few texts, so that content often goes back to what is stored, or lies in another lease.
TEXTS = ("one", "two", "three", "", None)
ISOLATIONS = ("read committed", "repeatable read", "serializable")
PATIENCE = "25ms"
# What a transaction may end with, for all the machine knows; it is rolled back then.
CONFLICTS = (
    errors.LockNotAvailable,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.UniqueViolation,
)
UPSERT = (
    "INSERT INTO docs VALUES (%(key)s, %(text)s)"
    " ON CONFLICT (id) DO UPDATE SET body = excluded.body"
)
# Statements of an application: of one document, of several, and what embver must not care about.
CHANGES = (
    *("UPDATE docs SET body = %(text)s WHERE id = %(key)s",) * 6,
    *("UPDATE docs SET body = NULL WHERE id = %(key)s",) * 2,
    "UPDATE docs SET seen = seen + 1 WHERE id >= %(key)s",
    *("INSERT INTO docs VALUES (%(key)s, %(text)s) ON CONFLICT (id) DO NOTHING",),
    *(UPSERT,) * 4,
    *("DELETE FROM docs WHERE id = %(key)s",) * 5,
    "DELETE FROM docs WHERE id >= %(key)s",
    "UPDATE docs SET id = %(other)s WHERE id = %(key)s"
    " AND NOT EXISTS (SELECT FROM docs WHERE id = %(other)s)",
    "MERGE INTO docs USING (VALUES (%(key)s, %(text)s)) AS m (id, body) ON docs.id = m.id"
    " WHEN MATCHED AND m.body IS NULL THEN DELETE"
    " WHEN MATCHED THEN UPDATE SET body = m.body"
    " WHEN NOT MATCHED THEN INSERT VALUES (m.id, m.body)",
    "TRUNCATE docs",
)
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
# What operators do in one go. A retired version is gone for good: seldom, or little is left.
PLANS = (
    *(("abort", "start", "walk", "walk", "walk"),) * 6,
    *(("start", "walk", "walk", "ready", "promote"),) * 4,
    *(("pause", "resume"), ("rollback", "promote"), ("ready", "promote")) * 2,
    *(("requeue",), ("requeue missing",)) * 2,
    ("retire",),
)
KINDS = (*("application",) * 5, *("worker",) * 5, "operator")
# How a worker goes on with its lease.
ENDINGS = (
    *("complete",) * 5,
    *("hold",) * 6,
    *("be late", "crash", "give back"),
)

Thread = Iterator[None]


class History(RuleBasedStateMachine):
    """Threads of applications, workers and operators, advanced one statement at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = new_stage()
        self.sessions: dict[str, list[Session]] = {"application": [], "worker": []}
        self.threads: list[tuple[str, Thread]] = []
        self.count = 0
        self.hot = 1
        self.stage.owner.run(f"SET lock_timeout = '{PATIENCE}'")
        for version in (1, 2):
            # One thread steps everybody: a worker must give up soon where it has to wait.
            for function in ("claim", "complete", "walk_step"):
                self.stage.owner.run(
                    f"ALTER FUNCTION embver_docs_v{version}.{function}"
                    f" SET lock_timeout = '{PATIENCE}'"
                )

    @initialize(filled=st.booleans())
    def start(self, filled: bool) -> None:
        self.stage.owner.run("SELECT embver.start_rollout('docs', 1)")
        if filled:
            self.stage.drain()

    @rule(seed=st.integers(0, 2**64 - 1))
    def step(self, seed: int) -> None:
        """One statement of somebody. Chosen by weight: even draws would hardly ever race."""
        self.count += 1
        chance = random.Random(f"{seed} {self.count}")
        if not self.threads:
            self.rest(chance)
            self.meet(chance)
        else:
            self.advance(chance)

    def meet(self, chance: random.Random) -> None:
        """Several arrive at once, around one document: the shorter the story, the more of them."""
        self.hot = chance.choice(KEYS)
        # Most races need a document, and often one that has no vector yet.
        if chance.random() < 0.8:
            self.change(self.stage.owner, chance, UPSERT)
        if chance.random() < 0.4:
            self.stage.drain()
        for number in range(chance.choice((2, 3, 3, 4, 5))):
            kind = chance.choice(KINDS)
            name = f"{kind} {number}"
            thread = getattr(self, kind)(name, random.Random(chance.random()))
            self.threads.append((name, thread))

    def advance(self, chance: random.Random) -> None:
        place = chance.randrange(len(self.threads))
        if next(self.threads[place][1], self) is self:
            self.threads.pop(place)

    # -- who there is: generators, which yield between their statements

    def application(self, name: str, chance: random.Random) -> Thread:
        session = self.session("application")
        isolation = chance.choice(ISOLATIONS)
        try:
            if chance.random() < 0.2:
                self.change(session, chance)
                return
            note(f"{name}: begin {isolation}")
            session.begin(isolation)
            session.run("SELECT FROM docs")  # the snapshot is taken here
            yield
            for _ in range(chance.choice((1, 1, 2))):
                taken_back = chance.random() < 0.1
                if taken_back:
                    session.run("SAVEPOINT before")
                if not self.change(session, chance, name=name):
                    break
                if taken_back:
                    session.run("ROLLBACK TO before")
                yield
            end = "COMMIT" if chance.random() < 0.85 else "ROLLBACK"
            note(f"{name}: {end}")
            with suppress(*CONFLICTS):  # PostgreSQL has rolled it back
                session.run(end)
        except CONFLICTS:
            session.rollback()
        finally:
            self.sessions["application"].append(session)

    def worker(self, name: str, chance: random.Random) -> Thread:
        session = self.session("worker")
        isolation = chance.choice(ISOLATIONS[:2])
        session.run(f"SET default_transaction_isolation = '{isolation}'")
        live = self.stage.live()
        lease = None
        if live:
            version = chance.choice(live)
            self.stage.due(version)
            with suppress(*CONFLICTS):
                call(session, version, "walk_step", chance.choice((1, 2, 1000)))
            with suppress(*CONFLICTS):
                lease = self.stage.claim(version, chance.choice((1, 100, 100)), session)
        ending = chance.choice(ENDINGS)
        note(f"{name}: {lease}, to {ending}")
        if lease is not None:
            yield
            yield from self.finish(name, session, lease, ending)
        self.sessions["worker"].append(session)

    def finish(self, name: str, session: Session, lease: Lease, ending: str) -> Thread:
        if ending == "give back":
            call(session, lease.version, "give_back", lease.number)
            return
        if ending in ("be late", "crash"):
            note(f"{name}: lease {lease.number} expires")
            self.stage.expire_free(lease.version)
            yield
        if ending == "crash":
            return
        for _ in range(5):
            hold = self.stage.hold() if ending == "hold" else None
            self.stage.start_complete(lease, hold.session if hold else session)
            if hold is not None:
                if not self.stage.settled(hold.session):  # there is something to write
                    note(f"{name}: holds lease {lease.number} at its first write")
                    yield
                hold.let_go()
            note(f"{name}: completes lease {lease.number}")
            try:
                (hold.session if hold else session).result()
                return
            except CONFLICTS:
                yield  # a worker tries again
            except psycopg.DatabaseError as error:
                if error.sqlstate != "VM020":
                    raise
                return

    def operator(self, name: str, chance: random.Random) -> Thread:
        version = chance.choice((1, 1, 2))
        for verb in chance.choice(PLANS):
            note(f"{name}: {verb} {version}")
            try:
                if verb == "walk":
                    self.stage.call(version, "walk_step", 1000)
                else:
                    self.stage.owner.run(VERBS[verb], {"version": version})
            except CONFLICTS:
                pass
            except psycopg.DatabaseError as error:
                if not (error.sqlstate or "").startswith("VM"):
                    raise
            yield

    def change(
        self,
        session: Session,
        chance: random.Random,
        statement: str | None = None,
        name: str = "somebody",
    ) -> bool:
        """One statement on the hot document, mostly; False where it was in conflict."""
        chosen = statement or chance.choice(CHANGES)
        key = self.hot if chance.random() < 0.9 else chance.choice(KEYS)
        values = {"key": key, "other": chance.choice(KEYS), "text": chance.choice(TEXTS)}
        note(f"{name}: {chosen} {values}")
        try:
            session.run(chosen, values)
        except CONFLICTS:
            if session.connection.info.transaction_status is not TransactionStatus.IDLE:
                session.rollback()
            return False
        return True

    def session(self, kind: str) -> Session:
        """A session that nobody uses."""
        if self.sessions[kind]:
            return self.sessions[kind].pop()
        session = self.stage.session(kind, role="worker" if kind == "worker" else "owner")
        session.run(f"SET lock_timeout = '{PATIENCE}'")
        return session

    # -- rests, also the last one

    def rest(self, chance: random.Random) -> None:
        """All finish, in any order; the queue is drained; invariant 1."""
        while self.threads:
            self.advance(chance)
        note("rest")
        with suppress(psycopg.DatabaseError):  # VM010: nothing is paused
            self.stage.owner.run(VERBS["resume"])
        self.stage.drain_and_check()

    def teardown(self) -> None:
        try:
            self.rest(random.Random(0))
        finally:
            drop_stage(self.stage)


@pytest.mark.both_versions
@pytest.mark.slow
class TestHistory(History.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(
        max_examples=int(os.environ.get("EMBVER_TEST_HISTORIES") or 60),
        stateful_step_count=STEPS,
        deadline=None,
        # The same histories each time, unless a number of them is asked for.
        derandomize=not os.environ.get("EMBVER_TEST_HISTORIES"),
        print_blob=True,
        # Shrinking runs a history hundreds of times: ask for it when there is something to shrink.
        phases=[
            phase
            for phase in Phase
            if phase is not Phase.shrink or os.environ.get("EMBVER_TEST_SHRINK")
        ],
        suppress_health_check=list(HealthCheck),
    )
