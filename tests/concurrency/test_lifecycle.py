"""Two operators, forty workers, readers and old writers at once: nobody comes to harm."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors

from embver_pg import indexing, schema
from embver_pg.errors import EmbverError, InvalidTransition, NotReady
from tests import servers
from tests.concurrency.stage import ENCODERS, Session, Stage, call, encode, new_stage
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.both_versions


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Results, or exceptions, of calls that begin at the same moment."""
    gate = threading.Barrier(len(calls))

    def run(function: Callable[[], Any]) -> Any:
        gate.wait()
        try:
            return function()
        except (psycopg.Error, EmbverError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def failures(results: list[Any]) -> list[Exception]:
    return [result for result in results if isinstance(result, Exception)]


def test_two_versions_added_at_once(stage: Stage) -> None:
    """Each gets a number and a store of its own (7)."""
    with stage.embver() as embver:
        collection = embver.collection("docs")
        added = at_once(*[lambda: collection.add_version("hash:8")] * 3)
        assert sorted(added) == [3, 4, 5]
        assert [row["version"] for row in collection.versions()] == [1, 2, 3, 4, 5]


def test_promoted_twice_at_once(stage: Stage) -> None:
    """The second operator waits for the first and is told that there is nothing to promote (7)."""
    stage.fill()
    stage.owner.run("SELECT embver_internal.mark_ready('docs', 1)")
    first, second = stage.session("first"), stage.session("second")
    first.begin()
    first.run("SELECT embver.promote('docs')")
    second.start("SELECT embver.promote('docs')")
    assert stage.blocked(second)
    first.commit()
    with pytest.raises(psycopg.DatabaseError) as failure:
        second.result()
    assert failure.value.sqlstate == "VM010"
    assert stage.owner.run("SELECT active FROM embver_internal.route") == [{"active": 1}]
    promotions = "SELECT version FROM embver_internal.event WHERE kind = 'promote'"
    assert stage.owner.run(promotions) == [{"version": 1}]


@pytest.mark.parametrize(
    ("before", "verb"),
    [
        ((), "SELECT embver.start_rollout('docs', 1)"),
        (("SELECT embver.start_rollout('docs', 1)",), "SELECT embver.abort_rollout('docs')"),
    ],
    ids=["start", "abort"],
)
def test_verb_twice_at_once(stage: Stage, before: tuple[str, ...], verb: str) -> None:
    """One does it; the others get VM010, and no internal error of the server (7)."""
    for statement in before:
        stage.owner.run(statement)
    sessions = [stage.session(f"operator {i}") for i in range(4)]
    failed = failures(at_once(*[lambda s=s: s.run(verb) for s in sessions]))
    assert [error.sqlstate for error in failed] == ["VM010"] * 3  # type: ignore[attr-defined]
    stage.drain_and_check()


def test_refresh_while_a_rollout_starts(stage: Stage) -> None:
    """Both write the capture functions: the later one must know the earlier one's version (3)."""
    starting, refreshing = stage.session("starting"), stage.session("refreshing")
    starting.begin()
    starting.run("SELECT embver.start_rollout('docs', 1)")
    refreshing.start("SELECT embver.refresh_collection('docs')")
    assert stage.blocked(refreshing), "one after the other"
    starting.commit()
    refreshing.result()
    stage.owner.run("INSERT INTO docs VALUES (4, 'four')")
    assert len(stage.must_claim().items) == 1
    stage.drain_and_check()


def test_start_while_a_refresh_runs(stage: Stage) -> None:
    """The other order: what was rendered before the start must not be installed after it (3)."""
    starting, refreshing = stage.session("starting"), stage.session("refreshing")
    refreshing.begin()
    refreshing.run("SELECT embver.refresh_collection('docs')")
    starting.start("SELECT embver.start_rollout('docs', 1)")
    assert stage.blocked(starting)
    refreshing.commit()
    starting.result()
    stage.owner.run("INSERT INTO docs VALUES (4, 'four')")
    stage.drain_and_check()


def test_refresh_locks_in_the_order_of_readers_and_writers(stage: Stage) -> None:
    """Views before stores, and the source before both: no search, and no TRUNCATE, that holds the
    former and goes on to the latter becomes the victim of a deadlock (4)."""
    stage.fill()
    refreshing = stage.session("refreshing")
    for statement, waits_for in (
        ("SELECT FROM embver_docs.versions", "embver_docs.versions"),
        ("TRUNCATE docs", "docs"),
    ):
        other = stage.session("reader or writer")
        other.begin()
        other.run(statement)
        refreshing.start("SELECT embver.refresh_collection('docs')")
        assert stage.blocked(refreshing)
        locks = stage.watch.execute(
            "SELECT relation::regclass::text AS relation, granted, mode FROM pg_locks"
            " WHERE pid = %s AND relation IS NOT NULL",
            (refreshing.pid,),
        ).fetchall()
        assert [lock["relation"] for lock in locks if not lock["granted"]] == [waits_for]
        assert not [
            lock
            for lock in locks
            if lock["mode"] == "AccessExclusiveLock"
            and lock["relation"].startswith("embver_docs_v")
        ]
        other.commit()
        refreshing.result()
    stage.drain_and_check()


def test_collection_dropped_while_a_version_is_added(stage: Stage) -> None:
    """Dropping waits, and then refuses: no store is left behind without its collection."""
    for version in ENCODERS:
        stage.owner.run("SELECT embver_internal.drop_store('docs', %s)", (version,))
    adding, dropping = stage.session("adding"), stage.session("dropping")
    adding.begin()
    adding.run(
        "SELECT embver_internal.register_version('docs', '{}', 'a space', 8, 'cosine', 'vector',"
        ' \'{"type": "none"}\')'
    )
    dropping.start("SELECT embver.drop_collection('docs')")
    assert stage.blocked(dropping)
    adding.commit()
    with pytest.raises(psycopg.DatabaseError) as failure:
        dropping.result()
    assert failure.value.sqlstate == "VM010"


def test_installed_by_several_at_once() -> None:
    """`embver init` from several hosts: the first installs, the others find it done (7)."""
    server = servers.server()
    servers.create_roles(server)
    name = f"init_{uuid4().hex[:8]}"
    admin = servers.create_database(server, name, owner="embver_owner")
    try:
        url = server.url(name, "embver_owner")
        assert failures(at_once(*[lambda: schema.init(url)] * 3)) == []
    finally:
        servers.drop_database(server, admin)


def test_upgraded_by_several_at_once(stage: Stage) -> None:
    """`embver upgrade` beside itself and beside a rollout that starts: no "tuple concurrently
    updated", no lost capture (3, 7)."""
    url = stage.urls.owner
    start = stage.session("operator")
    results = at_once(
        lambda: schema.init(url),
        lambda: schema.init(url),
        lambda: start.run("SELECT embver.start_rollout('docs', 1)"),
    )
    assert failures(results) == []
    stage.owner.run("INSERT INTO docs VALUES (4, 'four')")
    assert len(stage.must_claim().items) == 1
    stage.drain_and_check()


def test_upgrade_meets_a_start_in_any_order(stage: Stage) -> None:
    """An upgrade locks the collections before their stores, as a start does: no deadlock (7)."""
    starting = stage.session("starting")
    starting.begin()
    starting.run("SELECT FROM embver_internal.collection FOR NO KEY UPDATE")
    with ThreadPoolExecutor(1) as pool:
        upgrade = pool.submit(schema.init, stage.urls.owner)
        until(
            lambda: (
                stage.watch.execute(
                    "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                    " AND %s = ANY (pg_blocking_pids(pid))",
                    (starting.pid,),
                ).rowcount
                == 1
            ),
            "the upgrade waits for the start",
        )
        starting.run("SELECT embver.start_rollout('docs', 1)")
        starting.commit()
        upgrade.result(PATIENCE)
    stage.drain_and_check()


def test_collections_created_at_once(stage: Stage) -> None:
    """GRANTs on the same objects are made one after the other (7)."""
    for number in range(12):
        stage.owner.run(f"CREATE TABLE t{number} (id int PRIMARY KEY, body text)")

    def create(start: int) -> None:
        with stage.embver() as embver:
            for number in range(start, start + 3):
                embver.create_collection(f"t{number}", f"public.t{number}", "body")

    assert failures(at_once(*[lambda s=s: create(s) for s in (0, 3, 6, 9)])) == []


def test_refresh_disturbs_nobody(stage: Stage) -> None:
    """Readers of the views, searches and writers meet a refresh again and again (4)."""
    for version in (1, 2):
        stage.fill(version)
        stage.owner.run("SELECT embver_internal.mark_ready('docs', %s)", (version,))
        if version == 1:
            stage.owner.run("SELECT embver.promote('docs')")
    vector = str(encode(1, ["one"])[0].tolist())
    statements = {
        "reader": "SELECT id FROM embver_docs.current LIMIT 5",
        "other reader": "SELECT id FROM embver_docs.versions WHERE version = 2 LIMIT 5",
        "searcher": "SELECT id FROM embver_docs.search(ARRAY[embver.query('docs', 1, %s)])",
        "writer": "UPDATE docs SET body = md5(random()::text) WHERE id = 2",
    }
    over = threading.Event()
    counts = dict.fromkeys(statements, 0)

    def repeat(name: str, session: Session) -> None:
        statement = statements[name]
        try:
            while not over.is_set():
                session.run(statement, (vector,) if "%s" in statement else ())
                counts[name] += 1
        finally:
            over.set()

    def refresh() -> None:
        try:
            with stage.embver() as embver:
                rounds = 0
                while not over.is_set() and (rounds < 12 or min(counts.values()) <= 10):
                    rounds += 1
                    # Make every kind of change that a refresh can have to make.
                    stage.owner.run(
                        "DROP POLICY embedding_follows_source ON embver_docs_v1.embedding"
                    )
                    stage.owner.run("ALTER TABLE docs RENAME COLUMN seen TO views")
                    embver.collection("docs").refresh()
                    stage.owner.run("ALTER TABLE docs RENAME COLUMN views TO seen")
                    embver.collection("docs").refresh()
        finally:
            over.set()

    sessions = {name: stage.session(name) for name in statements}
    results = at_once(refresh, *[lambda n=name: repeat(n, sessions[n]) for name in statements])
    assert failures(results) == []
    assert min(counts.values()) > 10
    stage.drain_and_check()


def test_many_workers_claim_at_once(stage: Stage) -> None:
    """Every job goes to exactly one worker (7)."""
    stage.owner.run("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(10, 209) AS i")
    stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    stage.walk()
    workers = [stage.session(f"worker {i}", role="worker") for i in range(6)]

    def claim_all(session: Any) -> int:
        leases = 0
        while stage.claim(1, 7, session) is not None:
            leases += 1
        return leases

    results = at_once(*[lambda s=s: claim_all(s) for s in workers])
    assert failures(results) == []
    rows = stage.owner.run("SELECT unnest(id) AS id FROM embver_docs_v1.lease")
    assert Counter(row["id"] for row in rows) == Counter([1, 2, 3, *range(10, 210)])
    stage.drain_and_check()


def test_two_index_builders(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One builds; the other leaves it alone, and both find it valid (7)."""
    with stage.embver() as embver:
        collection = embver.collection("docs")
        version = collection.add_version("hash:32")
        collection.start_rollout(version)
        monkeypatch.setitem(ENCODERS, version, "hash:32")
        stage.drain()
        target = embver.database.row(
            "SELECT * FROM embver_internal.writable_versions() WHERE version = %s", (version,)
        )
        assert target is not None
    sessions = [stage.session(f"builder {i}").connection for i in range(3)]
    # The index is built twice over by nobody: a writer holds the build up until all have begun.
    writer = stage.session("writer")
    writer.begin()
    writer.run("LOCK TABLE docs IN ROW EXCLUSIVE MODE")
    writer.connection.execute("LOCK TABLE embver_docs_v3.embedding IN ROW EXCLUSIVE MODE")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(indexing.build_index, sessions[0], target, uuid4())
        until(
            lambda: indexing.build_progress(stage.owner.connection, target["store"]) is not None,
            "the first builder does not begin",
        )
        others = [
            pool.submit(indexing.build_index, connection, target, uuid4())
            for connection in sessions[1:]
        ]
        assert [other.result(30) for other in others] == [False, False]
        writer.commit()
        assert first.result(30) is True
    assert indexing.build_index(sessions[1], target, uuid4()) is True
    indexes = stage.owner.run(
        "SELECT indexrelid FROM pg_index WHERE indrelid = 'embver_docs_v3.embedding'::regclass"
    )
    assert len(indexes) == 2  # the primary key's and the vectors'


def test_reader_does_not_hold_up_a_promotion(stage: Stage) -> None:
    """A long transaction on the views delays no promotion and no rollback (4, 5)."""
    for version in (1, 2):
        stage.fill(version)
        stage.owner.run("SELECT embver_internal.mark_ready('docs', %s)", (version,))
        if version == 1:
            stage.owner.run("SELECT embver.promote('docs')")
    reader = stage.session("reader", role="reader")
    reader.begin("repeatable read")
    counted = "SELECT (SELECT count(*) FROM embver_docs.current) AS current, count(*) AS all_live"
    counted += " FROM embver_docs.versions"
    assert reader.run(counted) == [{"current": 3, "all_live": 6}]
    stage.owner.run("SET lock_timeout = '1ms'")
    stage.owner.run("SELECT embver.promote('docs', true, 'beside a reader')")
    stage.owner.run("SELECT embver.rollback('docs', 'beside a reader')")
    assert reader.run(counted) == [{"current": 3, "all_live": 6}]
    reader.commit()


def test_ready_waits_for_readers_and_gives_up(stage: Stage) -> None:
    """The views change only when a version becomes ready: behind a reader it fails, changing
    nothing, and succeeds later; new readers are not stalled for longer than lock_timeout (4, 5)."""
    stage.fill()
    reader = stage.session("reader", role="reader")
    reader.begin()
    reader.run("SELECT id FROM embver_docs.current")
    with pytest.raises(errors.LockNotAvailable):
        stage.owner.run("SELECT embver_internal.mark_ready('docs', 1)")
    assert stage.owner.run("SELECT state FROM embver_internal.version WHERE version = 1") == [
        {"state": "filling"}
    ]
    reader.commit()
    assert stage.owner.run("SELECT embver_internal.mark_ready('docs', 1) AS ready") == [
        {"ready": True}
    ]


def _retired(stage: Stage) -> None:
    """Version 1 promoted, then left for version 2 and retired."""
    for version in (1, 2):
        stage.fill(version)
        stage.owner.run("SELECT embver_internal.mark_ready('docs', %s)", (version,))
        stage.owner.run("SELECT embver.promote('docs', true, 'for a test')")


@pytest.mark.parametrize("prepared", [False, True])
def test_drop_waits_for_an_older_writer(stage: Stage, prepared: bool) -> None:
    """A writer whose trigger still names the retired store does not fail; dropping waits (3, 4)."""
    _retired(stage)
    writer = stage.session("old writer")
    writer.begin()
    writer.run("UPDATE docs SET body = 'written' WHERE id = 1")
    stage.owner.run("SELECT embver.retire_version('docs', 1)")
    with stage.embver() as embver:
        collection = embver.collection("docs")
        if prepared:
            writer.run("PREPARE TRANSACTION 'old writer'")
        with pytest.raises(NotReady) as failure:
            collection.drop_version(1, timeout=0.2)
        assert failure.value.detail["waiting_for"]
        if prepared:
            writer.run("COMMIT PREPARED 'old writer'")
        else:
            writer.run("UPDATE docs SET body = 'again' WHERE id = 2")
            writer.commit()
        collection.drop_version(1, timeout=PATIENCE)
        assert [row["version"] for row in collection.versions()] == [2]
    stage.drain_and_check()


def test_writer_in_the_middle_of_its_statement_when_a_version_retires(stage: Stage) -> None:
    """The old trigger body fires after the retirement and finds its store (4)."""
    _retired(stage)
    writer = stage.session("old writer")
    writer.run("DELETE FROM docs WHERE id = -1")
    stage.watch.execute("SELECT pg_advisory_lock(7)")
    writer.begin()
    writer.start("DELETE FROM docs USING pg_advisory_xact_lock(7) WHERE id = 1")
    assert stage.blocked(writer)
    stage.owner.run("SELECT embver.retire_version('docs', 1)")
    with stage.embver() as embver:
        with pytest.raises(NotReady):
            embver.collection("docs").drop_version(1, timeout=0.1)
        stage.watch.execute("SELECT pg_advisory_unlock(7)")
        writer.result()
        writer.commit()
        embver.collection("docs").drop_version(1, timeout=PATIENCE)
    stage.drain_and_check()


def test_retired_under_the_worker(stage: Stage) -> None:
    """A completion that comes after the retirement, or after the drop, harms nothing (7)."""
    _retired(stage)
    stage.owner.run("UPDATE docs SET body = 'leased'")
    early, late = stage.claim(1, 1), stage.claim(1, 2)
    assert early is not None
    assert late is not None
    stage.owner.run("SELECT embver.retire_version('docs', 1)")
    stage.complete(early)
    assert stage.claim(1) is None
    with stage.embver() as embver:
        embver.collection("docs").drop_version(1)
        with pytest.raises(InvalidTransition):
            embver.collection("docs").retire_version(2)
    with pytest.raises((errors.UndefinedFunction, errors.InvalidSchemaName)):
        stage.complete(late)
    stage.drain_and_check()


def test_deadlock_load(stage: Stage) -> None:
    """SQL-NOTES 2: applications and workers on the same few rows; no deadlock, nothing lost (3).

    Each application locks its rows in key order, as it must among its like; the workers' batches
    come in any order.
    """
    stage.fill()
    keys = range(1, 25)
    workers = [stage.session(f"worker {i}", role="worker") for i in range(2)]
    applications = [stage.session(f"application {i}") for i in range(3)]
    done = threading.Event()

    def write(session: Any, seed: int) -> int:
        chosen = random.Random(seed)
        for _ in range(120):
            session.begin(chosen.choice(["read committed", "read committed", "repeatable read"]))
            try:
                for key in sorted(chosen.sample(keys, 4)):
                    text = f"text {chosen.randrange(3)}"
                    session.run(
                        chosen.choice(
                            [
                                "INSERT INTO docs VALUES (%(key)s, %(text)s) ON CONFLICT (id)"
                                " DO UPDATE SET body = excluded.body",
                                "UPDATE docs SET body = %(text)s WHERE id = %(key)s",
                                "UPDATE docs SET body = NULL WHERE id = %(key)s",
                                "DELETE FROM docs WHERE id = %(key)s",
                            ]
                        ),
                        {"key": key, "text": text},
                    )
                session.run(chosen.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
            except errors.SerializationFailure:
                session.rollback()
        return 0

    def work(session: Any) -> int:
        completed = 0
        while not done.is_set():
            call(session, 1, "walk_step", 1000)
            lease = stage.claim(1, 8, session)
            if lease is not None:
                stage.complete(lease, session)
                completed += 1
        return completed

    def write_all() -> list[Any]:
        try:
            return at_once(*[lambda s=s, i=i: write(s, i) for i, s in enumerate(applications)])
        finally:
            done.set()

    results = at_once(write_all, *[lambda s=s: work(s) for s in workers])
    assert failures(results[0]) == []
    assert failures(results[1:]) == []
    assert sum(results[1:]) > 10
    stage.watch.execute("SELECT pg_stat_force_next_flush()")
    deadlocks = stage.watch.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert deadlocks == {"deadlocks": 0}
    stage.drain_and_check()


@pytest.fixture
def private_stage() -> Iterator[tuple[Stage, servers.Server]]:
    """A stage on a server that may be killed."""
    with servers.private_server() as server:
        stage = new_stage(server)
        yield stage, server
        stage.close()


@pytest.mark.slow
def test_prepared_writer_survives_a_restart(private_stage: tuple[Stage, servers.Server]) -> None:
    """A writer noted by the barrier prepares, and the server dies: it comes back under another
    name, and the walk still waits for it (3)."""
    stage, server = private_stage
    writer = stage.session("old writer")
    writer.begin()
    writer.run("INSERT INTO docs VALUES (4, 'four')")
    stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    assert stage.walk(until_phase="barrier") == "barrier"
    writer.run("PREPARE TRANSACTION 'old writer'")
    server.kill()
    server.restart()
    again = Stage(stage.urls)
    try:
        assert again.walk() == "barrier"
        again.owner.run("COMMIT PREPARED 'old writer'")
        again.drain_and_check()
    finally:
        again.close()
