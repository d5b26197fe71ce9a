"""Documents whose workers die: leased alone, then a dead letter; innocents go through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from embver_pg.client import Embver
from tests.conftest import Installed
from tests.sql.support import Connection, drain, jobs, register, run, value

pytestmark = pytest.mark.both_versions

DOCUMENTS = 4
GONE = "the worker died or vanished 5 times while encoding it"


@pytest.fixture
def walked(installed: Installed, owner: Connection) -> Iterator[Embver]:
    """Four documents in the queue of version 1."""
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    run(
        owner,
        "INSERT INTO docs SELECT i, 'title ' || i, 'body' FROM generate_series(1, %s) AS i",
        (DOCUMENTS,),
    )
    with installed.embver() as embver:
        register(embver)
        walk(owner)
        yield embver


def walk(connection: Connection) -> None:
    while value(connection, "SELECT phase FROM embver_docs_v1.walk_step()") != "done":
        pass


def vanish(connection: Connection, limit: int = 100) -> int:
    """A worker encodes, and is never heard of again: how many documents it took along."""
    rows = claim(connection, limit)
    if rows:
        begin = "SELECT embver_docs_v1.begin_lease(%s)"
        assert value(connection, begin, (rows[0]["lease"],)) is True
        expire(connection)
    return len(rows)


def expire(connection: Connection) -> None:
    run(connection, "UPDATE embver_docs_v1.lease SET lease_expires_at = now() - interval '1 s'")


def claim(connection: Connection, limit: int = 100) -> list[dict[str, Any]]:
    return run(connection, "SELECT * FROM embver_docs_v1.claim(gen_random_uuid(), %s)", (limit,))


def attempts(connection: Connection) -> dict[int, int]:
    rows = run(connection, "SELECT id, max(job_attempts) AS n FROM embver_docs_v1.job GROUP BY id")
    return {row["id"]: row["n"] for row in rows}


def dead(connection: Connection) -> list[dict[str, Any]]:
    return run(connection, "SELECT * FROM embver_docs_v1.dead_letter ORDER BY id")


def test_suspects_are_leased_alone_and_buried_at_the_fifth(
    owner: Connection, walked: Embver
) -> None:
    assert [vanish(owner) for _ in range(2)] == [DOCUMENTS] * 2
    # From now on one at a time, each of them three times more.
    assert [vanish(owner) for _ in range(3 * DOCUMENTS)] == [1] * (3 * DOCUMENTS)
    assert vanish(owner) == 0
    assert (jobs(owner), value(owner, "SELECT count(*) FROM embver_docs_v1.lease")) == (0, 0)
    letters = dead(owner)
    assert [row["id"] for row in letters] == [1, 2, 3, 4]
    assert {row["dead_error"] for row in letters} == {GONE}
    assert {(row["dead_attempts"], row["dead_hash"]) for row in letters} == {(5, None)}


def test_four_deaths_bury_nobody(installed: Installed, owner: Connection, walked: Embver) -> None:
    run(owner, "DELETE FROM docs WHERE id > 1")
    run(owner, "DELETE FROM embver_docs_v1.job WHERE id > 1")
    for _ in range(4):
        assert vanish(owner, 1) == 1
    claim(owner, 1)  # the sweep of the fourth
    run(owner, "UPDATE embver_docs_v1.lease SET lease_expires_at = clock_timestamp() + '1 h'")
    assert dead(owner) == []
    assert value(owner, "SELECT job_attempts[1] FROM embver_docs_v1.lease") == 4
    run(owner, "SELECT embver_docs_v1.give_back(lease_seq) FROM embver_docs_v1.lease")
    assert attempts(owner)[1] == 4  # neither an encoder that is away nor a stop clears it
    drain(installed)
    assert dead(owner) == []


def test_the_others_go_in_batches_meanwhile(owner: Connection, walked: Embver) -> None:
    run(owner, "UPDATE embver_docs_v1.job SET job_attempts = 2 WHERE id IN (1, 3)")
    first, second, third = claim(owner), claim(owner), claim(owner)
    assert [len(rows) for rows in (first, second, third)] == [1, 2, 1]
    keys = run(owner, "SELECT id FROM embver_docs_v1.lease ORDER BY lease_seq")
    assert [row["id"] for row in keys] == [[1], [2, 4], [3]]


def test_what_a_worker_encoded_is_innocent_again(owner: Connection, walked: Embver) -> None:
    run(owner, "UPDATE embver_docs_v1.job SET job_attempts = 1 WHERE id <= 2")
    rows = claim(owner)
    run(owner, "UPDATE docs SET body = 'changed meanwhile' WHERE id = 1")
    run(
        owner,
        "SELECT * FROM embver_docs_v1.complete(%s, ARRAY[1, 3, 4], %s::bytea[],"
        " ARRAY[%s, %s, %s]::vector[])",
        (
            rows[0]["lease"],
            [rows[0]["content_hash"], rows[2]["content_hash"], rows[3]["content_hash"]],
            *["[1,0,0,0,0,0,0,0]"] * 3,
        ),
    )
    # The first was encoded, of other content; of the second nothing is known.
    assert attempts(owner) == {1: 0, 2: 1}


def test_a_dead_letter_is_handed_out_after_an_edit_or_a_requeue_only(
    installed: Installed, owner: Connection, walked: Embver
) -> None:
    run(owner, "UPDATE embver_docs_v1.job SET job_attempts = 4 WHERE id <= 2")
    for _ in range(3):
        vanish(owner)
    run(owner, "UPDATE embver_docs_v1.lease SET lease_expires_at = now() - interval '1 s'")
    assert {row["id"] for row in run(owner, "SELECT id FROM embver_docs_v1.dead_letter")} == {1, 2}
    drain_but(installed, 2)
    run(owner, "SELECT embver_docs_v1.request_rewalk()")
    walk(owner)
    drain_but(installed, 2)
    assert len(dead(owner)) == 2
    run(owner, "UPDATE docs SET body = 'harmless now' WHERE id = 1")
    drain_but(installed, 1)
    assert [row["id"] for row in dead(owner)] == [2]
    assert value(owner, "SELECT embver.requeue('docs', 1)") == 1
    assert attempts(owner) == {2: 0}
    drain(installed)
    assert dead(owner) == []


def drain_but(installed: Installed, missing: int) -> None:
    """Work until nothing waits; so many documents stay dead letters."""
    worker = installed.new_worker("owner")
    worker.run(drain=True)
    worker.database.close()
    with installed.connect() as owner:
        assert run(owner, "SELECT * FROM embver.verify('docs', 1)") == [
            {"missing": missing, "stale": 0, "orphaned": 0}
        ]


def test_a_deleted_document_is_never_buried(
    installed: Installed, owner: Connection, walked: Embver
) -> None:
    """The job that removes its vector must be worked off, however often workers die of others."""
    drain(installed)
    with owner.transaction():
        run(owner, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        run(owner, "DELETE FROM docs WHERE id = 1")
    run(owner, "UPDATE docs SET body = NULL WHERE id = 2")
    assert jobs(owner) > 0
    run(owner, "UPDATE embver_docs_v1.job SET job_attempts = 4")
    for _ in range(4):
        vanish(owner)
    assert dead(owner) == []
    drain(installed)
