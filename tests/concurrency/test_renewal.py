"""``requeue(…, 'all')``: every document is encoded again, beside whatever else goes on.

The vectors are spoiled while their hashes stay, so that only an encoding makes them right; that
they are, to the bit, is invariant 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from psycopg import sql

from tests.concurrency import origin_scenarios
from tests.concurrency.stage import FILLED, Lease, Stage, in_store

pytestmark = pytest.mark.both_versions
RENEW = "SELECT embver.requeue('docs', %s, 'all') AS documents"


def spoil(stage: Stage, version: int = 1) -> None:
    """Other vectors under the same hashes."""
    stage.watch.execute(
        sql.SQL("UPDATE {} SET embedding = array_fill(0.5::real, ARRAY[32])::vector").format(
            in_store(version, "embedding")
        )
    )


def renew(stage: Stage, version: int = 1) -> None:
    assert stage.owner.run(RENEW, (version,)) == [{"documents": 3}]


def test_every_document_is_encoded_again_and_only_once(stage: Stage) -> None:
    stage.fill()
    spoil(stage)
    renew(stage)
    stage.drain_and_check()
    # Other walks do not begin it anew.
    stage.owner.run("SELECT embver_docs_v1.request_rewalk()")
    assert stage.walk() == "done"
    assert stage.claim() is None


def test_it_waits_for_no_application_and_holds_none_up(stage: Stage) -> None:
    """One that deletes has locked vectors and goes on to others."""
    stage.fill()
    spoil(stage)
    application = stage.session()
    application.begin()
    application.run("DELETE FROM docs WHERE id = 2")
    for session in (stage.owner, stage.worker):
        session.run("SET lock_timeout = '10s'")
    renew(stage)
    assert stage.walk() == "barrier"  # it has written before the walk began
    application.run("DELETE FROM docs WHERE id = 1")
    application.commit()
    stage.drain_and_check()


def test_an_application_deletes_between_two_steps(stage: Stage) -> None:
    stage.fill()
    spoil(stage)
    renew(stage)
    assert stage.walk(until_phase="documents") == "documents"
    application = stage.session()
    application.run("SET lock_timeout = '10s'")
    application.begin()
    application.run("DELETE FROM docs WHERE id IN (1, 3)")
    for _ in range(2):
        stage.call(1, "walk_step", 1)
    application.run("DELETE FROM docs WHERE id = 2")
    application.commit()
    stage.drain_and_check()


def test_a_step_that_died_is_taken_again(stage: Stage) -> None:
    stage.fill()
    spoil(stage)
    renew(stage)
    for limit in (1000, 1000, 1):
        dying = stage.session("dying", role="worker")
        dying.begin()
        dying.run("SELECT * FROM embver_docs_v1.walk_step(%s)", (limit,))
        dying.rollback()
        stage.call(1, "walk_step", limit)
    renew(stage)  # an operator who is in doubt
    stage.drain_and_check()


def settled_under_an_older_lease(stage: Stage) -> None:
    """A lease for a document whose content had changed back has nothing to encode, and ends after
    the renewal began: it must not take the old vector for a new one."""
    stage.fill()
    for body in ("changed", "one"):
        stage.owner.run("UPDATE docs SET body = %s WHERE id = 1", (body,))
    lease = stage.must_claim()
    assert [content for _, content, _ in lease.items] == [None]
    spoil(stage)
    renew(stage)
    stage.call(1, "walk_step", 1000)
    assert stage.complete(lease)["written"] == 0
    stage.drain_and_check()


def settled_before_the_barrier(stage: Stage) -> None:
    """The same, by a completion that is over its look at the renewal when that begins."""
    stage.fill()
    stage.owner.run("UPDATE docs SET body = 'changed' WHERE id = 2")
    for body in ("changed", "one"):
        stage.owner.run("UPDATE docs SET body = %s WHERE id = 1", (body,))
    lease = stage.must_claim()
    spoil(stage)
    hold = stage.hold()
    hold.start(lease)
    renew(stage)
    stage.call(1, "walk_step", 1000)
    stage.call(1, "walk_step", 1000)
    hold.release()
    stage.drain_and_check()


def more_than_a_worker_holds(stage: Stage) -> None:
    """Items beyond a lease's bytes come without content, and are not to be settled by that."""
    stage.fill()
    spoil(stage)
    renew(stage)
    assert stage.walk() == "done"
    rows = stage.worker.run(
        "SELECT * FROM embver_docs_v1.claim(gen_random_uuid(), 100, '5 min', 1)"
    )
    lease = Lease(
        1,
        rows[0]["lease"],
        tuple((row["item"], row["content"], row["content_hash"]) for row in rows),
    )
    assert [content is None for _, content, _ in lease.items] == [False, True, True]
    done = stage.complete(lease)
    assert (done["written"], done["returned"]) == (1, 2)
    stage.drain_and_check()


SETTLED = (more_than_a_worker_holds, settled_under_an_older_lease, settled_before_the_barrier)


@pytest.mark.parametrize("scenario", SETTLED, ids=lambda scenario: scenario.__name__)
def test_a_lease_under_way(stage: Stage, scenario: Callable[[Stage], None]) -> None:
    scenario(stage)


def test_an_adopted_version_is_encoded_and_not_copied_once_more(stage: Stage) -> None:
    origin_scenarios.adopt(stage)
    stage.fill(FILLED)
    spoil(stage, FILLED)
    stage.watch.execute("UPDATE docs SET embedding = array_fill(0.5::real, ARRAY[32])::vector")
    renew(stage, FILLED)
    stage.drain_and_check()


def test_what_killed_workers_is_tried_again(stage: Stage) -> None:
    stage.fill()
    stage.watch.execute(
        "INSERT INTO embver_docs_v1.dead_letter (id, dead_error) VALUES (2, 'it killed five')"
    )
    stage.watch.execute("DELETE FROM embver_docs_v1.embedding WHERE id = 2")
    renew(stage)
    stage.drain_and_check()
    assert stage.owner.run("SELECT FROM embver_docs_v1.dead_letter") == []


def test_goes_red_without_the_guard_of_completions(stage: Stage) -> None:
    rows = stage.owner.run(
        "SELECT oid::regprocedure AS name, pg_get_functiondef(oid) AS body FROM pg_proc"
        " WHERE proname = 'complete' AND pronamespace = 'embver_docs_v1'::regnamespace"
    )
    body, count = re.subn(
        r"AND e\.encoded_lease >= coalesce\(.*?/\* not to be renewed \*/",
        "",
        rows[0]["body"],
        flags=re.DOTALL,
    )
    assert count == 1
    stage.owner.connection.execute(body.encode())
    with pytest.raises(AssertionError):
        more_than_a_worker_holds(stage)
