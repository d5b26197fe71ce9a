"""Races of the copy that fills an adopted or derived version, as plain functions.

Adopted: ``docs.embedding`` holds the vectors of the texts before the rollout; a text that changes
after the capture began must never keep its old vector under its new hash. Each scenario ends with
invariant 1, to the bit.
"""

from __future__ import annotations

from psycopg import sql

from tests.concurrency.scenarios import WAIT_FOR_COMPLETION
from tests.concurrency.stage import FILLED, NO_INDEX, Stage, encode, hold_trigger, in_store
from tests.waiting import until

CHANGES = {
    "update": "UPDATE docs SET body = 'changed' WHERE id = 1",
    "both columns": "UPDATE docs SET body = 'changed', embedding = NULL WHERE id = 1",
    "empty": "UPDATE docs SET body = NULL WHERE id = 1",
    "delete": "DELETE FROM docs WHERE id = 1",
    "key change": "UPDATE docs SET id = 9 WHERE id = 1",
    "replace": "WITH gone AS (DELETE FROM docs WHERE id = 1 RETURNING body, embedding)"
    " INSERT INTO docs (id, body, embedding) SELECT 8, 'other', embedding FROM gone",
    "truncate": "TRUNCATE docs",
    "upsert": "INSERT INTO docs VALUES (1, 'upserted') ON CONFLICT (id)"
    " DO UPDATE SET body = excluded.body",
    "no change of text": "UPDATE docs SET seen = seen + 1 WHERE id = 1",
}


def adopt(stage: Stage) -> None:
    """Version 3 adopts ``docs.embedding``, made by hand of the three documents; not started."""
    stage.owner.run("ALTER TABLE docs ADD COLUMN embedding vector(32)")
    rows = stage.owner.run("SELECT id, body FROM docs")
    for row, vector in zip(rows, encode(FILLED, [row["body"] for row in rows]), strict=True):
        stage.owner.run(
            "UPDATE docs SET embedding = %s::real[]::vector WHERE id = %s",
            (vector.tolist(), row["id"]),
        )
    embver = stage.embver()
    try:
        assert embver.collection("docs").adopt_version("hash:32", index=NO_INDEX) == FILLED
    finally:
        embver.close()
    stage.owner.run(hold_trigger(FILLED))
    await_older_transactions(stage)


def await_older_transactions(stage: Stage) -> None:
    """A vector written since the oldest open transaction of the server began, in whatever database,
    counts as an old writer's: it is not copied."""
    (now,) = stage.watch.execute("SELECT pg_current_xact_id()::text::bigint AS xid").fetchall()
    oldest = "SELECT FROM pg_current_snapshot() s WHERE pg_snapshot_xmin(s)::text::bigint > %s"
    until(lambda: stage.watch.execute(oldest, (now["xid"],)).rowcount, "they have ended")


def derive(stage: Stage) -> None:
    """Version 3 is the half-precision copy of version 1, which is filled; not started."""
    stage.fill(1)
    stage.owner.run("SELECT embver_internal.mark_ready('docs', 1)")
    stage.owner.run("SELECT embver.promote('docs')")
    embver = stage.embver()
    try:
        collection = embver.collection("docs")
        assert collection.derive_version(1, element_type="halfvec", index=NO_INDEX) == FILLED
    finally:
        embver.close()
    stage.element_types[FILLED] = "halfvec"
    stage.owner.run(hold_trigger(FILLED))


def start(stage: Stage) -> None:
    """Start the rollout and stand before the first step of the copy."""
    stage.owner.run("SELECT embver.start_rollout('docs', %s)", (FILLED,))
    assert stage.walk(FILLED, until_phase="documents") == "documents"


def copied(stage: Stage) -> int:
    rows = stage.owner.run(sql.SQL("SELECT copied FROM {}").format(in_store(FILLED, "origin_copy")))
    return int(rows[0]["copied"])


def copy(stage: Stage) -> int:
    """One step of the copy, as the worker; how many vectors it brought."""
    before = copied(stage)
    assert stage.call(FILLED, "walk_step", 1000) is not None
    return copied(stage) - before


def changed_before_copy(stage: Stage, change: str) -> None:
    """A change is committed after the capture began and before the copy: its job is there."""
    start(stage)
    stage.owner.run(CHANGES[change])
    copy(stage)
    stage.drain_and_check()


def changed_around_copy(stage: Stage, change: str, isolation: str, commits: bool) -> None:
    """A change is not committed when the copy passes: the copy sees what was before, or skips."""
    start(stage)
    application = stage.session()
    application.begin(isolation)
    application.run(CHANGES[change])
    stage.worker.start(sql.SQL("SELECT * FROM {}(1000)").format(in_store(FILLED, "walk_step")))
    waits = change == "truncate"
    assert stage.settled(stage.worker) != waits, "only a lock on the whole table is waited for"
    if not waits:
        stage.worker.result()
    application.run("COMMIT" if commits else "ROLLBACK")
    if waits:
        stage.worker.result()
    stage.drain_and_check()


def changed_during_copy(stage: Stage, change: str, isolation: str, commits: bool) -> None:
    """The copy has looked and locked, and not yet written, when the application's change comes."""
    start(stage)
    hold = stage.hold()
    hold.start_walk(FILLED)
    application = stage.session()
    application.begin(isolation)
    application.start(CHANGES[change])
    waits = change in WAIT_FOR_COMPLETION
    assert stage.blocked(application) == waits
    if waits:
        hold.release()
    application.result()
    application.run("COMMIT" if commits else "ROLLBACK")
    if not waits:
        hold.release()
    stage.drain_and_check()


def changed_and_encoded_during_copy(stage: Stage) -> None:
    """The whole life of a change passes between the copy's look and its write."""
    start(stage)
    hold = stage.hold()
    hold.start_walk(FILLED)
    stage.owner.run(CHANGES["update"])
    assert stage.complete(stage.must_claim(FILLED))["written"] == 1
    hold.release()
    stage.drain_and_check()


def change_begun_before_copy_is_encoded_during_it(stage: Stage) -> None:
    """The same for a change that was under way, uncommitted, when the copy looked."""
    start(stage)
    application = stage.session()
    application.begin()
    application.run(CHANGES["update"])
    hold = stage.hold()
    hold.start_walk(FILLED)
    application.commit()
    assert stage.complete(stage.must_claim(FILLED))["written"] == 1
    hold.release()
    stage.drain_and_check()


def emptied_during_copy(stage: Stage) -> None:
    """A document loses its text, and a worker takes the job up, before the copy writes."""
    start(stage)
    hold = stage.hold()
    hold.start_walk(FILLED)
    stage.owner.run(CHANGES["empty"])
    assert stage.complete(stage.must_claim(FILLED))["returned"] == 1
    hold.release()
    stage.drain_and_check()


def leased_at_copy(stage: Stage) -> None:
    """A change is being encoded when the copy passes: it has a lease and no job."""
    start(stage)
    stage.owner.run(CHANGES["update"])
    lease = stage.must_claim(FILLED)
    assert copy(stage) == 2
    stage.complete(lease)
    stage.drain_and_check()


def claim_under_way_at_copy(stage: Stage) -> None:
    """A claim is not yet committed: its jobs are there for everybody else, its lease is not."""
    start(stage)
    stage.owner.run(CHANGES["update"])
    other = stage.session("other worker", role="worker")
    other.begin()
    lease = stage.claim(FILLED, session=other)
    assert lease is not None
    assert copy(stage) == 2
    other.commit()
    stage.complete(lease)
    stage.drain_and_check()


def completion_under_way_at_copy(stage: Stage) -> None:
    """A completion is held before its write when the copy passes: its lease is still there."""
    start(stage)
    stage.owner.run(CHANGES["update"])
    hold = stage.hold()
    hold.start(stage.must_claim(FILLED))
    assert copy(stage) == 2
    hold.release()
    stage.drain_and_check()


def dead_at_copy(stage: Stage) -> None:
    """A change could not be encoded: neither a job nor a lease tells of it any more."""
    start(stage)
    stage.owner.run(CHANGES["update"])
    lease = stage.must_claim(FILLED)
    done = stage.worker.run(
        sql.SQL(
            "SELECT * FROM {}(%s, '{{1}}', %s::bytea[], ARRAY[NULL::vector], %s::text[])"
        ).format(in_store(FILLED, "complete")),
        (lease.number, [lease.items[0][2]], ["refused"]),
    )
    assert done[0]["failed"] == 1
    assert copy(stage) == 2
    stage.drain_and_check()


def old_writer_at_start(stage: Stage) -> None:
    """A writer changed a text before the capture, and commits while the barrier waits for it."""
    writer = stage.session("old writer")
    writer.begin()
    writer.run(CHANGES["update"])
    stage.owner.run("SELECT embver.start_rollout('docs', %s)", (FILLED,))
    assert stage.walk(FILLED) == "barrier"
    writer.commit()
    stage.drain_and_check()


def old_writer_in_a_savepoint(stage: Stage) -> None:
    """The same, and the row carries the number of a subtransaction."""
    writer = stage.session("old writer")
    writer.begin()
    writer.run("SAVEPOINT here")
    writer.run(CHANGES["update"])
    writer.run("RELEASE here")
    stage.owner.run("SELECT embver.start_rollout('docs', %s)", (FILLED,))
    assert stage.walk(FILLED) == "barrier"
    writer.commit()
    stage.drain_and_check()


def cached_capture_at_start(stage: Stage) -> None:
    """A writer has its locks and the old trigger's body, which it runs after the start."""
    writer = stage.session("old writer")
    writer.run("UPDATE docs SET body = body WHERE id = -1")
    stage.watch.execute("SELECT pg_advisory_lock(7)")
    writer.begin()
    writer.start(
        "UPDATE docs SET body = 'changed'"
        " WHERE id = 1 OR (id = 2 AND pg_advisory_xact_lock(7) IS NOT NULL)"
    )
    assert stage.blocked(writer)
    stage.owner.run("SELECT embver.start_rollout('docs', %s)", (FILLED,))
    assert stage.walk(FILLED) == "barrier"
    stage.watch.execute("SELECT pg_advisory_unlock(7)")
    writer.result()
    assert writer.run("SELECT id FROM embver_docs_v3.job") == []
    writer.commit()
    stage.drain_and_check()


def changed_before_abort(stage: Stage) -> None:
    """A captured change was not encoded when the rollout was aborted; its trace outlives that."""
    start(stage)
    stage.owner.run(CHANGES["update"])
    stage.owner.run("SELECT embver.abort_rollout('docs', 'to begin again')")
    embver = stage.embver()
    try:
        embver.collection("docs").check_version(FILLED, min_share=0.5)
    finally:
        embver.close()
    start(stage)
    assert copy(stage) == 2
    stage.drain_and_check()


def parent_lags_behind(stage: Stage) -> None:
    """Derived: the parent has not encoded a change yet, so its vector is of the old text."""
    stage.owner.run(CHANGES["update"])
    start(stage)
    assert copy(stage) == 2
    stage.drain_and_check()


def parent_catches_up_during_copy(stage: Stage) -> None:
    """Derived: text, parent and child all move on between the copy's look and its write."""
    start(stage)
    hold = stage.hold()
    hold.start_walk(FILLED)
    stage.owner.run(CHANGES["update"])
    assert stage.complete(stage.must_claim(1))["written"] == 1
    assert stage.complete(stage.must_claim(FILLED))["written"] == 1
    hold.release()
    stage.drain_and_check()


def older_lease_meets_copy(stage: Stage) -> None:
    """Derived: a lease from before the copy wants to write an older text after it."""
    start(stage)
    stage.owner.run("UPDATE docs SET body = 'older' WHERE id = 1")
    older = stage.must_claim(FILLED)
    application = stage.session()
    application.begin()
    application.run(CHANGES["update"])
    hold = stage.hold()
    hold.start(older)
    application.commit()
    assert stage.complete(stage.must_claim(1))["written"] == 1
    assert copy(stage) == 3
    hold.release()
    stage.drain_and_check()
