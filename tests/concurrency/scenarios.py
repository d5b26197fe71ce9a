"""The races, as plain functions: each returns where the engine holds, and fails where it does not.

``test_races`` runs them on the engine as it is; ``test_teeth`` runs them on an engine from which
one guard was taken, and wants to see them fail. Every scenario ends, where it says nothing else,
with invariant 1: drained, each live store equals encode(source) to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from psycopg import errors

from tests.concurrency.stage import Lease, Session, Stage

CHANGES: Mapping[str, str] = {
    "update": "UPDATE docs SET body = 'changed' WHERE id = 1",
    "empty": "UPDATE docs SET body = NULL WHERE id = 1",
    "delete": "DELETE FROM docs WHERE id = 1",
    "key change": "UPDATE docs SET id = 9 WHERE id = 1",
    "replace": "WITH gone AS (DELETE FROM docs WHERE id = 1 RETURNING body)"
    " INSERT INTO docs (id, body) SELECT 8, body FROM gone",
    "truncate": "TRUNCATE docs",
    "upsert": "INSERT INTO docs VALUES (1, 'upserted') ON CONFLICT (id)"
    " DO UPDATE SET body = excluded.body",
}
# A completion holds FOR KEY SHARE: only what takes the row away has to wait for its end.
WAIT_FOR_COMPLETION = ("delete", "key change", "replace", "truncate")


def _leased(stage: Stage, body: str = "encoded", key: int = 1) -> Lease:
    """A lease on one document that was changed and is being encoded."""
    stage.owner.run("UPDATE docs SET body = %s WHERE id = %s", (body, key))
    return stage.must_claim()


def _old_writer(stage: Stage, statement: str) -> Session:
    """A statement that holds its locks and has not fired its trigger.

    A backend learns of a replaced function when it takes a table lock that it has not got yet, so
    the trigger will run with the old body. :func:`_finish` lets it go on.
    """
    writer = stage.session("old writer")
    for warm_up in ("INSERT INTO docs SELECT -1 WHERE false", "DELETE FROM docs WHERE id = -1"):
        writer.run(warm_up)
    stage.watch.execute("SELECT pg_advisory_lock(7)")
    writer.begin()
    writer.start(statement)
    assert stage.blocked(writer)
    return writer


def _finish(stage: Stage, writer: Session) -> None:
    stage.watch.execute("SELECT pg_advisory_unlock(7)")
    writer.result()


def _stored_hash(stage: Stage, key: int = 1) -> bytes | None:
    rows = stage.owner.run(
        "SELECT content_hash FROM embver_docs_v1.embedding WHERE id = %s", (key,)
    )
    return rows[0]["content_hash"] if rows else None


def change_during_completion(stage: Stage, change: str, isolation: str, commits: bool) -> None:
    """SQL-NOTES 2 and 3: the completion comes first, the application's statement second.

    Proves 1 and 3: what takes the row away waits for the completion (KEY SHARE) and then finds its
    vector, or leaves a tombstone where its snapshot cannot see it; an update waits for nothing.
    """
    stage.fill()
    stage.owner.run("INSERT INTO docs VALUES (5, 'five')")
    stage.drain()
    # Also a document without a vector yet: its vector is inserted, not updated.
    stage.owner.run("DELETE FROM embver_docs_v1.embedding WHERE id = 1")
    lease = _leased(stage)
    hold = stage.hold()
    hold.start(lease)
    application = stage.session()
    application.begin(isolation)
    application.start(CHANGES[change])
    assert stage.blocked(application) == (change in WAIT_FOR_COMPLETION)
    if not stage.settled(application):
        hold.release()
        application.result()
        application.run("COMMIT" if commits else "ROLLBACK")
    else:
        application.result()
        application.run("COMMIT" if commits else "ROLLBACK")
        hold.release()
    stage.drain_and_check()


def completion_during_change(stage: Stage, change: str, isolation: str, commits: bool) -> None:
    """SQL-NOTES 1 and 2: the application's statement comes first, uncommitted; then completion.

    Proves 1 and 3: a completion skips a locked row and puts it back; beside an uncommitted update
    it may write the old content, and the job of the update repairs that. Only for TRUNCATE's
    table lock does it wait.
    """
    stage.fill()
    lease = _leased(stage)
    application = stage.session()
    application.begin(isolation)
    application.run(CHANGES[change])
    stage.start_complete(lease)
    if change == "truncate":
        assert stage.blocked(stage.worker)
        application.run("COMMIT" if commits else "ROLLBACK")
        stage.worker.result()
    else:
        assert stage.settled(stage.worker), "a completion waits for no row"
        done = stage.worker.result()[0]
        written = change in ("update", "empty", "upsert")
        assert (done["written"], done["returned"]) == ((1, 0) if written else (0, 1))
        application.run("COMMIT" if commits else "ROLLBACK")
    stage.drain_and_check()


def update_after_the_look(stage: Stage) -> None:
    """SQL-NOTES 1: the completion's look at the content precedes the commit of its change.

    Proves 3: the change's own job survives the completion, which deletes only its own lease.
    """
    stage.fill()
    lease = _leased(stage)
    application = stage.session()
    application.begin()
    application.run(CHANGES["update"])
    hold = stage.hold()
    hold.start(lease)
    application.commit()
    assert hold.release()["written"] == 1
    stage.drain_and_check()


def late_completion_of_emptied(stage: Stage) -> None:
    """The hash check: content that was emptied while its old text was being encoded.

    Proves 1: the newer job finds nothing to embed and is settled first, so that nobody would take
    away what an unchecked late completion wrote.
    """
    stage.fill()
    lease = _leased(stage)
    stage.owner.run(CHANGES["empty"])
    newer = stage.must_claim()
    assert stage.complete(newer)["returned"] == 0
    late = stage.complete(lease)
    assert late["written"] == 0, "content is checked at the write"
    stage.drain_and_check()


def stale_content_is_not_written(stage: Stage) -> None:
    """The hash check: a committed change makes the encoded text worthless.

    Proves that a store never goes back to content older than what a completion could see.
    """
    stage.fill()
    before = _stored_hash(stage)
    lease = _leased(stage)
    stage.owner.run(CHANGES["update"])
    done = stage.complete(lease)
    assert (done["written"], done["returned"]) == (0, 1)
    assert _stored_hash(stage) == before
    stage.drain_and_check()


def older_lease_never_overwrites(stage: Stage) -> None:
    """SQL-NOTES 2b: one document in two leases, the older one held between look and write.

    Proves 1: the vector of the newer lease stays, though no job is left to repair it.
    """
    stage.fill()
    older = _leased(stage, "older")
    application = stage.session()
    application.begin()
    application.run("UPDATE docs SET body = 'newer' WHERE id = 1")
    hold = stage.hold()
    hold.start(older)
    application.commit()
    newer = stage.must_claim()
    assert newer.number > older.number
    assert stage.complete(newer)["written"] == 1
    hold.release()
    stage.drain_and_check()


def unchanged_outranks_older_lease(stage: Stage) -> None:
    """Content goes back to what is stored while an older lease is writing the other text.

    Proves 1: a lease that has nothing to encode still marks the vector as its own.
    """
    stage.fill()
    older = _leased(stage, "other")
    application = stage.session()
    application.begin()
    application.run("UPDATE docs SET body = 'one' WHERE id = 1")
    hold = stage.hold()
    hold.start(older)
    application.commit()
    newer = stage.must_claim()
    assert newer.items[0][1] is None, "what is stored needs no encoding"
    assert stage.complete(newer)["returned"] == 0
    hold.release()
    stage.drain_and_check()


def emptied_during_completion(stage: Stage) -> None:
    """A's completion is about to insert old content while B finds that there is none any more.

    Proves 1: B skips the row that A has locked, and its job comes back after A's vector.
    """
    stage.fill()
    stage.owner.run("INSERT INTO docs VALUES (4, 'four')")
    older = stage.must_claim()
    application = stage.session()
    application.begin()
    application.run("UPDATE docs SET body = NULL WHERE id = 4")
    hold = stage.hold()
    hold.start(older)
    application.commit()
    newer = stage.must_claim()
    assert stage.complete(newer)["returned"] == 1
    assert hold.release()["written"] == 1
    stage.drain_and_check()


def late_completion_is_refused(stage: Stage) -> None:
    """A worker wakes up after its lease has expired and was given to another.

    Proves 7: it is told so (VM020), nothing is written twice and nothing queued twice.
    """
    stage.fill()
    lost = _leased(stage)
    stage.expire()
    taken = stage.must_claim()
    assert taken.number != lost.number
    assert [item[1] for item in taken.items] == [item[1] for item in lost.items]
    with pytest.raises(errors.DatabaseError) as failure:
        stage.complete(lost)
    assert failure.value.sqlstate == "VM020"
    given_back = stage.call(1, "give_back", lost.number)
    assert given_back == {"give_back": False}
    assert stage.complete(taken)["written"] == 1
    with pytest.raises(errors.DatabaseError) as failure:
        stage.complete(taken)
    assert failure.value.sqlstate == "VM020"
    stage.check()


def takeover_meets_completion(stage: Stage) -> None:
    """An expired lease is claimed while its own completion is under way.

    Proves 7: exactly one of the two has it; the claim does not wait for the other.
    """
    stage.fill()
    lease = _leased(stage)
    hold = stage.hold()
    hold.start(lease)
    stage.expire_free()
    assert stage.claim() is None
    assert hold.release()["written"] == 1
    stage.check()


def deleted_under_snapshot(stage: Stage, change: str, isolation: str) -> None:
    """SQL-NOTES 3: the row goes away under a snapshot older than its vector.

    Proves 1: the trigger's own DELETE cannot see the vector; the tombstone (for TRUNCATE, the
    sweep) removes it.
    """
    stage.fill()
    stage.owner.run("INSERT INTO docs VALUES (4, 'four')")
    lease = stage.must_claim()
    application = stage.session()
    application.begin(isolation)
    application.run("SELECT FROM docs")
    assert stage.complete(lease)["written"] == 1
    application.run(change)
    application.commit()
    stage.drain_and_check()


def rewritten_under_snapshot(stage: Stage, change: str, isolation: str) -> None:
    """A worker rewrites the vector after the snapshot of an application that deletes the row.

    Proves that workers give no application a serialization failure: only the application's own
    transactions conflict with one another.
    """
    stage.fill()
    stage.owner.run("SELECT embver.requeue('docs', 1, 'all')")
    stage.walk()
    application = stage.session()
    application.begin(isolation)
    application.run("SELECT FROM docs")
    stage.complete(stage.must_claim())
    application.run(change)
    application.commit()
    stage.drain_and_check()


def reinsert_meets_tombstone(stage: Stage) -> None:
    """The tombstone of one document, and an application that has its key again and removes it.

    Proves that a completion never waits for an application's row, so that it can be in no
    deadlock with one: the application goes on to a row that the completion holds.
    """
    stage.fill()
    application = stage.session()
    # The vector is inserted after the snapshot of the transaction that deletes its document.
    stage.owner.run("INSERT INTO docs VALUES (4, 'four')")
    lease = stage.must_claim()
    application.begin("repeatable read")
    application.run("SELECT FROM docs")
    stage.complete(lease)
    application.run("DELETE FROM docs WHERE id = 4")
    application.commit()
    assert _stored_hash(stage, 4) is not None
    stage.owner.run("UPDATE docs SET body = 'zwei' WHERE id = 2")
    lease = stage.must_claim()
    assert len(lease.items) == 2

    application.begin()
    application.run("INSERT INTO docs VALUES (4, 'again')")
    application.run("DELETE FROM docs WHERE id = 4")
    stage.start_complete(lease)
    assert stage.settled(stage.worker), "a completion waits for no row"
    stage.worker.result()
    application.run("DELETE FROM docs WHERE id = 2")
    application.commit()
    stage.drain_and_check()


def old_writer_is_waited_for(stage: Stage) -> None:
    """SQL-NOTES 4: a writer ran its trigger before the capture was there, and commits later.

    Proves 1 and 3: the walk begins only after the writer has ended.
    """
    writer = stage.session("old writer")
    writer.begin()
    writer.run("INSERT INTO docs VALUES (4, 'four')")
    stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    for _ in range(5):
        stage.call(1, "walk_step", 1000)
    writer.commit()
    stage.drain_and_check()


def cached_capture_is_waited_for(stage: Stage) -> None:
    """SQL-NOTES 4: a session with the table's lock and the old trigger body in its cache.

    Proves 1: what it writes after the rollout began is seen by no trigger, and found by the walk.
    """
    writer = _old_writer(
        stage,
        "INSERT INTO docs SELECT i, 'new' FROM generate_series(4, 5) AS i"
        " WHERE i = 4 OR pg_advisory_xact_lock(7) IS NOT NULL",
    )
    stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    for _ in range(6):
        stage.call(1, "walk_step", 1000)
    _finish(stage, writer)
    assert writer.run("SELECT id FROM embver_docs_v1.job WHERE id = 4") == []
    writer.commit()
    stage.drain_and_check()


def old_writer_deletes(stage: Stage) -> None:
    """A writer with the old capture, still without an xid, deletes what was written since.

    Proves 1: a first filling, too, looks for vectors without a document.
    """
    writer = _old_writer(stage, "DELETE FROM docs USING pg_advisory_xact_lock(7) WHERE id = 1")
    stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    stage.owner.run("UPDATE docs SET body = 'uno' WHERE id = 1")
    assert stage.complete(stage.must_claim())["written"] == 1
    assert stage.walk(until_phase="barrier") == "barrier"
    _finish(stage, writer)
    assert writer.run("SELECT id FROM embver_docs_v1.embedding WHERE id = 1") != []
    writer.commit()
    stage.drain_and_check()


def old_writer_prepares(stage: Stage) -> None:
    """A writer that the barrier has noted prepares its transaction: its backend is rid of it.

    Proves 1: the barrier goes on waiting for it, and says so.
    """
    writer = stage.session("old writer")
    writer.begin()
    writer.run("INSERT INTO docs VALUES (4, 'four')")
    stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    assert stage.walk(until_phase="barrier") == "barrier"
    writer.run("PREPARE TRANSACTION 'old writer'")
    assert stage.walk() == "barrier"
    waiting = stage.call(1, "walk_status")
    assert waiting is not None
    assert len(waiting["waiting_for"]) == 1
    writer.run("COMMIT PREPARED 'old writer'")
    stage.drain_and_check()


def prepared_writer_is_waited_for(stage: Stage) -> None:
    """A transaction prepared before the start holds its lock without a process.

    Proves 1, and that an operator can see what the walk waits for.
    """
    writer = stage.session("old writer")
    writer.begin()
    writer.run("INSERT INTO docs VALUES (4, 'four')")
    writer.run("PREPARE TRANSACTION 'old writer'")
    stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    assert stage.walk() == "barrier"
    waiting = stage.call(1, "walk_status")
    assert waiting is not None
    assert len(waiting["waiting_for"]) == 1
    writer.run("COMMIT PREPARED 'old writer'")
    stage.drain_and_check()


def held_completion_across_restart(stage: Stage) -> None:
    """A completion from before an abort writes after the walk of the restart has passed.

    Proves 1: changes made while nobody captured are compared with what such a completion leaves.
    """
    stage.fill()
    older = _leased(stage, "other")
    hold = stage.hold()
    hold.start(older)
    stage.owner.run("SELECT embver.abort_rollout('docs', 'to begin again')")
    stage.owner.run("UPDATE docs SET body = 'one' WHERE id = 1")
    stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    for _ in range(6):
        stage.call(1, "walk_step", 1000)
    hold.release()
    stage.drain_and_check()


def writers_never_wait_for_encoding(stage: Stage) -> None:
    """Every document is leased and being encoded; the application changes all of them.

    Proves 3: no application write waits for an encoder.
    """
    stage.fill()
    stage.owner.run("SELECT embver.requeue('docs', 1, 'all')")
    stage.walk()
    lease = stage.must_claim()
    application = stage.session()
    application.run("SET lock_timeout = '1ms'")
    for change in ("update", "empty", "upsert", "key change", "truncate"):
        application.run(CHANGES[change])
    done = stage.complete(lease)
    assert done["written"] == 0
    stage.drain_and_check()
