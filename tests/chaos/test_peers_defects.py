"""The defects of timescale/pgai 0.12.1 and vecshift 0.4.0 that were reproduced, each as a test."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from embver_pg.client import Collection, Embver
from embver_pg.db import Row
from embver_pg.errors import GateFailed
from embver_pg.evaluation.golden_files import GoldenQuery, GoldenSet
from embver_pg.worker import Worker
from tests.chaos.conftest import make_docs
from tests.chaos.hopping import HoppingDatabase
from tests.chaos.processes import assert_whole
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint
from tests.waiting import PATIENCE, join, until

pytestmark = pytest.mark.both_versions
POISONED = "body of c81e728d9d4c2f636f067f89cc14862c"  # of the second document
CONTENT = "title || E'\\n' || body"
IMPATIENT = "SET lock_timeout = '10s'"  # of what is held for longer


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(dimensions=16) as found:
        found.counts_canaries = False
        yield found


@pytest.fixture
def remote(
    installed: Installed, owner: psycopg.Connection[Row], endpoint: FakeEndpoint
) -> Iterator[Collection]:
    """Five hundred documents, to be encoded by the endpoint."""
    make_docs(owner, 500)
    with installed.embver() as embver:
        docs = embver.create_collection("docs", "public.docs", CONTENT)
        docs.add_version(
            "openai:fake",
            base_url=endpoint.base_url,
            dimensions=16,
            max_attempts=1,
            timeout=PATIENCE,
            alias="fake",
        )
        docs.start_rollout(1)
        endpoint.forget()
        yield docs


@pytest.fixture
def two(installed: Installed, owner: psycopg.Connection[Row]) -> Iterator[Collection]:
    """Sixty documents; version 1 serves, version 2 is filled and waits."""
    make_docs(owner, 60)
    with installed.embver() as embver:
        docs = embver.create_collection("docs", "public.docs", CONTENT)
        for version, encoder in ((1, "hash:16"), (2, "hash:32")):
            docs.add_version(encoder)
            docs.start_rollout(version)
            embver.drain()
            if version == 1:
                docs.promote()
        yield docs


@contextmanager
def running(installed: Installed, **options: object) -> Iterator[Worker]:
    """A worker in a thread, until the end of the block."""
    worker = installed.new_worker("owner", **options)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield worker
        assert thread.is_alive(), "the worker is still at work"
    finally:
        worker.stop()
        join(thread)


def count(connection: psycopg.Connection[Row], table: str) -> int:
    row = connection.execute(f"SELECT count(*) AS n FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row["n"])


# -- pgai


def test_a_row_deleted_in_flight_waits_for_nobody_and_leaves_no_orphan(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Collection,
    endpoint: FakeEndpoint,
) -> None:
    """pgai: an orphan vector for ever, and a DELETE that takes as long as the API call."""
    endpoint.faults.held = threading.Event()
    owner.execute(IMPATIENT)
    with running(installed):
        until(lambda: endpoint.calls, "documents are in flight")
        owner.execute("DELETE FROM docs WHERE id % 2 = 0")
        owner.execute("UPDATE docs SET body = 'meanwhile' WHERE id % 5 = 0")
        endpoint.faults.held.set()
        until(lambda: remote.version(1)["state"] == "ready", "the version is filled")
    remote.embver.drain()
    assert_whole(owner)
    assert count(owner, "embver_docs_v1.embedding") == 250


def test_one_rejected_input_leaves_only_itself_and_is_billed_no_more(
    owner: psycopg.Connection[Row], remote: Collection, endpoint: FakeEndpoint
) -> None:
    """pgai: 450 of 500 rows never embedded, and billed again at each poll."""
    endpoint.faults.reject_containing = POISONED
    report = remote.embver.drain(batch=50)
    assert (report.written, report.failed) == (499, 1)
    (dead,) = owner.execute("SELECT key FROM embver.dead_letters").fetchall()
    assert dead["key"] == {"id": 2}
    assert endpoint.texts == 499  # each of the innocent once
    endpoint.forget()
    for _ in range(3):
        remote.embver.drain(batch=50)
    assert endpoint.calls == 0


def test_a_batch_of_deleted_rows_does_not_stop_the_worker(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Collection,
    endpoint: FakeEndpoint,
) -> None:
    """pgai: a batch of deleted rows stops the worker."""
    remote.embver.drain()
    owner.execute("INSERT INTO docs SELECT i, 'new', 'one' FROM generate_series(1001, 1040) AS i")
    owner.execute("DELETE FROM docs WHERE id > 1000")
    owner.execute("INSERT INTO docs VALUES (2000, 'behind', 'them')")
    assert count(owner, "embver_docs_v1.job") == 41
    endpoint.forget()
    with running(installed, batch=8):
        until(lambda: count(owner, "embver_docs_v1.job") == 0, "all jobs are worked off")
        until(lambda: count(owner, "embver_docs_v1.lease") == 0, "and all leases")
    assert endpoint.texts == 1
    assert_whole(owner)


def test_updates_of_an_unrelated_column_make_no_job(
    owner: psycopg.Connection[Row], remote: Collection, endpoint: FakeEndpoint
) -> None:
    """pgai: three updates of an unrelated column make three jobs a row."""
    owner.execute("ALTER TABLE docs ADD COLUMN seen int NOT NULL DEFAULT 0")
    remote.refresh()
    remote.embver.drain()
    endpoint.forget()
    for _ in range(3):
        owner.execute("UPDATE docs SET seen = seen + 1")
    assert count(owner, "embver_docs_v1.job") == 0
    remote.embver.drain()
    assert endpoint.calls == 0


def test_starting_on_many_rows_blocks_no_insert(
    installed: Installed, owner: psycopg.Connection[Row]
) -> None:
    """pgai: creating a vectorizer on 2M rows blocks an INSERT for 4.7 s.

    Not timed: the start neither reads the table, nor writes a row a document, nor holds a lock
    that an INSERT would wait for.
    """
    make_docs(owner, 20_000)
    read = "SELECT seq_tup_read, idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'docs'"
    with installed.embver() as embver, owner.transaction():
        owner.execute("SELECT embver.create_collection('docs', 'public.docs', 'body')")
        assert owner.execute(read).fetchone() == {"seq_tup_read": 0, "idx_scan": 0}
        owner.execute("COMMIT")
        embver.collection("docs").add_version("hash:16")
        owner.execute("BEGIN")
        with installed.connect() as writer:
            owner.execute("SELECT embver.start_rollout('docs', 1)")
            writer.execute(IMPATIENT)
            writer.execute("INSERT INTO docs VALUES (100000, 'not', 'blocked')")
            assert owner.execute(read).fetchone() == {"seq_tup_read": 0, "idx_scan": 0}
            assert count(owner, "embver_docs_v1.job") == 0
            owner.execute("COMMIT")
            owner.execute("BEGIN")
            owner.execute("SELECT embver_docs_v1.walk_step(100)")  # a step of the backfill
            writer.execute("INSERT INTO docs VALUES (100001, 'nor', 'here')")
            writer.execute("UPDATE docs SET body = 'nor here' WHERE id = 1")


def test_there_is_a_path_from_one_model_to_the_next(
    owner: psycopg.Connection[Row], two: Collection
) -> None:
    """pgai: no path from one model to the next."""
    two.promote(force=True, reason="the path is what is tested")
    assert {row["version"]: row["state"] for row in two.versions()} == {1: "fallback", 2: "active"}
    assert_whole(owner, 2, 32)
    assert {hit.version for hit in two.search("body of")} == {2}


# -- vecshift


def test_after_the_cutover_edited_rows_are_fresh_and_new_rows_have_vectors(
    owner: psycopg.Connection[Row], two: Collection
) -> None:
    """vecshift: edited rows keep stale vectors, new rows get none."""
    two.promote(force=True, reason="what comes after it is tested")
    owner.execute("UPDATE docs SET body = 'edited after the cutover' WHERE id = 7")
    owner.execute("INSERT INTO docs VALUES (1000, 'new', 'inserted after the cutover')")
    two.embver.drain()
    for version, dimensions in ((1, 16), (2, 32)):
        assert_whole(owner, version, dimensions)
    assert {hit.id for hit in two.search("after the cutover", k=2)} == {7, 1000}


def test_a_rollback_leaves_nothing_without_a_vector(
    owner: psycopg.Connection[Row], two: Collection
) -> None:
    """vecshift: 150 of 20,050 rows without a vector after a rollback."""
    two.promote(force=True, reason="to be rolled back")
    owner.execute("INSERT INTO docs SELECT i, 'new', 'n' || i FROM generate_series(101, 150) AS i")
    owner.execute("UPDATE docs SET body = 'edited' WHERE id <= 5")
    owner.execute("DELETE FROM docs WHERE id = 6")
    two.rollback("the drill")
    two.embver.drain()
    assert two.show()["active"] == 1
    for version, dimensions in ((1, 16), (2, 32)):
        assert_whole(owner, version, dimensions)
    assert count(owner, "embver_docs.current") == 109


def test_the_evaluation_gates_the_cutover(owner: psycopg.Connection[Row], two: Collection) -> None:
    """vecshift: the evaluation's verdict does not gate the cut-over."""
    with pytest.raises(GateFailed) as refusal:
        two.promote()
    assert refusal.value.detail["reason"] == "not_evaluated"
    two.import_golden_set(
        GoldenSet(
            "words",
            tuple(GoldenQuery(f"q{i}", f"title {i}", {str(i): 1}) for i in range(1, 21)),
        )
    )
    owner.execute(  # a bad model: everybody has another's vector
        "UPDATE embver_docs_v2.embedding AS e SET embedding = o.embedding"
        " FROM embver_docs_v2.embedding AS o WHERE o.id = 61 - e.id"
    )
    gate = two.gate(two.evaluate(2), two.evaluate(1))
    assert not gate.comparison.passed
    with pytest.raises(GateFailed) as refusal:
        two.promote()
    assert refusal.value.detail["reason"] == "failed"
    assert two.show()["active"] == 1


SOURCES = {
    "composite key": "CREATE TABLE docs (tenant int, slug text, body text,"
    " PRIMARY KEY (tenant, slug))",
    "partitions": "CREATE TABLE docs (tenant int, slug text, body text,"
    " PRIMARY KEY (tenant, slug)) PARTITION BY LIST (tenant);"
    " CREATE TABLE docs_1 PARTITION OF docs FOR VALUES IN (1);"
    " CREATE TABLE docs_2 PARTITION OF docs DEFAULT",
    "row-level security": "CREATE TABLE docs (tenant int, slug text, body text,"
    " PRIMARY KEY (tenant, slug)); ALTER TABLE docs ENABLE ROW LEVEL SECURITY;"
    " CREATE POLICY mine ON docs FOR SELECT TO embver_r USING (tenant = 1)",
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_that_vecshift_refuses(
    installed: Installed, owner: psycopg.Connection[Row], source: str
) -> None:
    """vecshift: composite keys, partitioned tables and row-level security are refused."""
    owner.execute(SOURCES[source].encode())
    owner.execute("GRANT SELECT ON docs TO embver_r")
    owner.execute(
        "INSERT INTO docs SELECT i % 3, 'slug ' || i, 'body of ' || i"
        " FROM generate_series(1, 60) AS i"
    )
    with installed.embver() as embver:
        docs = embver.create_collection("docs", "public.docs", "body")
        docs.add_version("hash:256")
        docs.start_rollout(1)
        embver.drain()
        docs.promote()
        owner.execute("UPDATE docs SET body = 'edited' WHERE slug = 'slug 1'")
        owner.execute("UPDATE docs SET tenant = 7 WHERE slug = 'slug 2'")
        owner.execute("DELETE FROM docs WHERE slug = 'slug 4'")
        embver.drain()
        assert docs.verify(1) == {"missing": 0, "stale": 0, "orphaned": 0}
        assert docs.search("edited", k=1, options={"exact": True})[0].id == (1, "slug 1")
    with installed.embver("reader") as reader:
        tenants = Counter(
            hit.key["tenant"] for hit in reader.collection("docs").search("body of", k=60)
        )
    visible = 19 if source == "row-level security" else 59
    assert tenants.total() == visible
    assert set(tenants) == ({1} if source == "row-level security" else {0, 1, 2, 7})


def test_each_statement_on_another_connection(
    installed: Installed, owner: psycopg.Connection[Row]
) -> None:
    """vecshift: needs a session-level advisory lock, so no pooler in transaction mode."""
    make_docs(owner, 60)
    database = HoppingDatabase(installed.owner)
    docs = Embver(database).create_collection("docs", "public.docs", CONTENT)
    for version, encoder in ((1, "hash:16"), (2, "hash:32")):
        docs.add_version(encoder)
        docs.start_rollout(version)
        assert Worker(database, batch=8, poll=0.02).run(drain=True).written == 60
        assert docs.version(version)["state"] == "ready"
        docs.promote(force=version > 1, reason="no gate in this test")
    owner.execute("UPDATE docs SET body = 'edited' WHERE id = 1")
    docs.embver.drain()
    assert docs.search("edited", k=1)[0].id == 1
    docs.rollback("back")
    assert docs.search("edited", k=1)[0].version == 1
    assert_whole(owner)
    assert_whole(owner, 2, 32)
    advisory = owner.execute(
        "SELECT FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchall()
    assert (advisory, database.connections > 50) == ([], True)
