"""Schedules for single guards: two real workers, and a history in which only that guard helps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg

from embver_pg.db import Row, open_connection
from tests import servers
from tests.chaos.crew import Crew
from tests.chaos.faults import Scene
from tests.chaos.invariants import check, drain
from tests.chaos.reader import encode
from tests.chaos.record import Record
from tests.chaos.straggler import Straggler
from tests.chaos.world import DIMENSIONS, STRAGGLER, World
from tests.waiting import join, until

Script = Callable[[Scene, psycopg.Connection[Row]], None]


def run_directed(world: World, script: Script, tinker: Callable[[str], None] | None = None) -> None:
    """Play a script on a database of its own, drain, and check every invariant.

    Raises:
        AssertionError: One is broken.
    """
    database = world.new_database("active")
    owner = world.server.url(database, "embver_owner")
    record = Record()
    crew = Crew(world, database, record, world.directory / f"{database}.jsonl")
    scene = Scene(world, crew, database, record, (0.0, 0.0))
    if tinker is not None:
        tinker(owner)
    scene.heal()
    try:
        crew.start()
        with open_connection(owner) as connection:
            script(scene, connection)
        drain(scene)
        with open_connection(owner) as connection:
            rows = connection.execute("SELECT id, body FROM docs").fetchall()
        check(scene, {row["id"]: row["body"] for row in rows})
        crew.judge()
        assert not record.violations, record.violations[0]
    finally:
        crew.dismiss()
        with suppress(psycopg.Error):
            servers.drop_database(world.server, database)


def late_after_emptied(scene: Scene, owner: psycopg.Connection[Row]) -> None:
    """A worker encodes texts that are emptied meanwhile, which others have settled already."""
    straggler = _claimed(scene, owner, "UPDATE docs SET body = body || ' changed' WHERE id <= 4")
    owner.execute("UPDATE docs SET body = NULL WHERE id <= 4")
    _thaw(scene)
    until(lambda: not _count(owner, "job"), "the workers have settled what was emptied")
    until(lambda: _count(owner, "lease") == 1, "and only the late one is under way")
    assert straggler.complete()


def late_behind_newer(scene: Scene, owner: psycopg.Connection[Row]) -> None:
    """A completion looks at a text whose change is not committed, and writes after its change."""
    straggler = _claimed(scene, owner, "UPDATE docs SET body = body || ' older' WHERE id <= 4")
    newer = str(encode(DIMENSIONS[1], ["newer"])[0].tolist())
    with open_connection(scene.admin_url) as holder, open_connection(owner.info.dsn) as application:
        application.execute("BEGIN")
        application.execute("UPDATE docs SET body = 'newer' WHERE id = 4")
        with holder.transaction():
            holder.execute("SELECT pg_advisory_xact_lock(%s)", (STRAGGLER,))
            completing = threading.Thread(target=straggler.complete, name="the straggler")
            completing.start()
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            until(lambda: scene.ask(held), "it has looked, and is to write")
            application.execute("COMMIT")
            _thaw(scene)
            until(
                lambda: scene.ask(
                    "SELECT count(*) FROM embver_docs_v1.embedding"
                    " WHERE id = 4 AND embedding <-> %(v)s::vector < 1e-6",
                    {"v": newer},
                ),
                "the newer text is stored",
            )
        join(completing)


def late_after_takeover(scene: Scene, owner: psycopg.Connection[Row]) -> None:
    """A worker completes a lease that has expired, and that others have taken over."""
    straggler = _claimed(scene, owner, "UPDATE docs SET body = body || ' changed' WHERE id <= 4")
    scene.ask("UPDATE embver_docs_v1.lease SET lease_expires_at = now() RETURNING 1")
    _thaw(scene)
    until(lambda: not _count(owner, "lease") and not _count(owner, "job"), "others have done it")
    assert straggler.complete()


def deleted_under_a_snapshot(scene: Scene, owner: psycopg.Connection[Row]) -> None:
    """A document is deleted under a snapshot older than its vector, which that does not see."""
    for place in (0, 1):
        scene.crew.freeze(place)
    owner.execute("INSERT INTO docs VALUES (1000, 'a short life', 0)")
    with open_connection(owner.info.dsn) as application:
        application.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        application.execute("SELECT FROM docs")  # the snapshot is taken here
        _thaw(scene)
        stored = "SELECT count(*) FROM embver_docs_v1.embedding WHERE id = 1000"
        until(lambda: scene.ask(stored), "its vector is stored")
        application.execute("DELETE FROM docs WHERE id = 1000")
        application.execute("COMMIT")


def start_beside_a_writer(scene: Scene, owner: psycopg.Connection[Row]) -> None:
    """A rollout starts while a transaction is open that has written already."""
    with open_connection(owner.info.dsn) as application:
        application.execute("BEGIN")
        application.execute("UPDATE docs SET body = 'an older writer' WHERE id = 1")
        application.execute("INSERT INTO docs VALUES (1000, 'an older writer', 0)")
        owner.execute("SELECT embver.start_rollout('docs', 3)")
        walk = "SELECT count(*) FROM embver_docs_v3.walk WHERE walk_phase = 'done'"
        waits = "SELECT count(*) FROM embver_docs_v3.walk WHERE walk_barrier <> '{}'"
        until(lambda: scene.ask(walk) or scene.ask(waits), "the walk is over, or waits")
        application.execute("COMMIT")


def _claimed(scene: Scene, owner: psycopg.Connection[Row], change: str) -> Straggler:
    """A worker of ours that holds what changed, while the others are frozen."""
    for place in (0, 1):
        scene.crew.freeze(place)
    owner.execute(change.encode())
    url = scene.world.server.url(scene.database, "embver_w")
    straggler = Straggler(url, scene.admin_url, scene.record, loses=False)
    # A frozen worker's claim may have been on its way; then its lease has to expire first.
    until(straggler.claim, "the straggler has a lease")
    return straggler


def _thaw(scene: Scene) -> None:
    for pid in scene.crew.pids:
        scene.crew.thaw(pid)


def _count(connection: psycopg.Connection[Row], table: str) -> int:
    row = connection.execute(
        f"SELECT count(*) AS n FROM embver_docs_v1.{table}".encode()
    ).fetchone()
    assert row is not None
    return int(row["n"])
