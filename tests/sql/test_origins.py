"""Versions that are filled from existing vectors: adopted columns and tables, derived copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from embver_pg.client import Collection, Embver
from embver_pg.errors import (
    DimensionMismatch,
    EmbverError,
    InvalidArgument,
    NotReady,
    SpaceChanged,
)
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint
from tests.handmade import Counting, add_rows, make_table, text, vectors
from tests.sql.support import Connection, check_stores, run, value

pytestmark = pytest.mark.both_versions

NO_INDEX = {"type": "none"}


@pytest.fixture
def embver(installed: Installed) -> Iterator[Embver]:
    with installed.embver() as embver:
        yield embver


def collect(embver: Embver, **options: Any) -> Collection:
    return embver.create_collection("docs", "public.docs", "body", **options)


def adopt(embver: Embver, encoder: str = "hash:64", **options: Any) -> Collection:
    """``docs`` with version 1 adopted, not started."""
    collection = collect(embver)
    assert collection.adopt_version(encoder, **{"index": NO_INDEX, **options}) == 1
    return collection


def fill(installed: Installed, collection: Collection, version: int = 1) -> list[str]:
    """Start a version and let a mere worker, then the owner, fill it; what was encoded."""
    counting = Counting()
    collection.start_rollout(version)
    for role in ("worker", "owner"):
        worker = installed.new_worker(role, encoder_for=counting)
        try:
            worker.run(drain=True)
        finally:
            worker.database.close()
    check_stores(installed)
    return sorted(counting.texts)


def test_vectors_are_copied_and_the_rest_is_encoded(
    installed: Installed, owner: Connection, embver: Embver
) -> None:
    make_table(owner, kind="vector")
    run(owner, "UPDATE docs SET embedding = NULL WHERE id = 1")
    run(owner, "UPDATE docs SET embedding = array_fill(0, ARRAY[64])::vector WHERE id = 2")
    run(owner, "UPDATE docs SET embedding = '[1,2,3]' WHERE id = 3")
    run(owner, "UPDATE docs SET body = 'not what was embedded', old = true WHERE id = 4")
    run(owner, "UPDATE docs SET body = '' WHERE id = 5")
    collection = adopt(embver, stale_where="old")
    assert collection.version(1)["state"] == "created"
    assert value(owner, "SELECT count(*) FROM embver_docs_v1.embedding") == 0
    encoded = fill(installed, collection)
    assert encoded == sorted(["not what was embedded", *(text(i) for i in (1, 2, 3))])
    origin = collection.origin(1)
    assert (origin["kind"], origin["copied"], origin["check_passed"]) == ("column", 35, True)
    assert origin["origin"] == {"column": "embedding", "stale_where": "old"}
    assert origin["check_figures"]["agree"] == origin["check_figures"]["documents"]
    assert origin["closed_at"] is not None
    collection.promote()
    assert collection.search(text(7), k=1)[0].id == 7


def test_a_big_table_is_copied_in_bounded_steps(owner: Connection, embver: Embver) -> None:
    make_table(owner, 25)
    collection = adopt(embver)
    collection.start_rollout(1)
    copied = []
    for _ in range(6):
        run(owner, "SELECT * FROM embver_docs_v1.walk_step(10)")
        copied.append(collection.origin(1)["copied"])
    assert copied == [0, 0, 10, 20, 25, 25]
    assert value(owner, "SELECT walk_seen FROM embver_docs_v1.walk") == 25


def test_lengths_do_not_matter_for_the_cosine(
    installed: Installed, owner: Connection, embver: Embver
) -> None:
    make_table(owner, scale=70_000.0)
    collection = collect(embver)
    with pytest.raises(SpaceChanged) as refused:
        collection.adopt_version("hash:64", metric="ip")
    assert refused.value.detail["median_cosine"] == pytest.approx(1)
    assert collection.adopt_version("hash:64", element_type="halfvec", index=NO_INDEX) == 1
    assert fill(installed, collection) == []


def test_a_length_beyond_half_precision_is_encoded(
    installed: Installed, owner: Connection, embver: Embver
) -> None:
    make_table(owner)
    collection = collect(embver)
    collection.adopt_version("hash:64", metric="l2", element_type="halfvec", index=NO_INDEX)
    run(owner, "UPDATE docs SET embedding = array_fill(70000, ARRAY[64])::vector WHERE id = 1")
    assert fill(installed, collection) == [text(1)]


def test_half_precision_columns(installed: Installed, owner: Connection, embver: Embver) -> None:
    make_table(owner, kind="halfvec(64)")
    assert fill(installed, adopt(embver, element_type="halfvec")) == []


def test_a_side_table_with_a_key_of_its_own_names(
    installed: Installed, owner: Connection, embver: Embver
) -> None:
    run(
        owner,
        'CREATE TABLE docs (region varchar(5) COLLATE "C", id int, body text,'
        " PRIMARY KEY (region, id))",
    )
    run(owner, 'CREATE TABLE "Vectors" (doc bigint, area text, "The Vector" vector(64))')
    made = vectors([text(i) for i in range(20)])
    for i in range(20):
        run(owner, "INSERT INTO docs VALUES (%s, %s, %s)", (f"r{i % 3}", i, text(i)))
        if i:
            run(
                owner,
                'INSERT INTO "Vectors" VALUES (%s, %s, %s::real[]::vector)',
                (i, f"r{i % 3}", made[i].tolist()),
            )
    side: dict[str, Any] = {
        "table": 'public."Vectors"',
        "key_columns": ["area", "doc"],
        "column": "The Vector",
        "index": NO_INDEX,
    }
    collection = collect(embver)
    with pytest.raises(InvalidArgument, match="no unique index"):
        collection.adopt_version("hash:64", **side)
    run(owner, 'CREATE UNIQUE INDEX ON "Vectors" (doc, area)')
    for wrong, message in (
        ({"key_columns": ["doc"]}, "has 2 columns, not 1"),
        ({"key_columns": ["area", "nope"]}, "no column nope"),
        ({"table": "public.vectors"}, "no table"),
        ({"column": "area"}, "not vector or halfvec"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            collection.adopt_version("hash:64", **{**side, **wrong})
    assert collection.versions() == []
    collection.adopt_version("hash:64", **side)
    assert fill(installed, collection) == [text(0)]


def test_partitions(installed: Installed, owner: Connection, embver: Embver) -> None:
    run(
        owner,
        "CREATE TABLE docs (id int PRIMARY KEY, body text, embedding vector(64))"
        " PARTITION BY RANGE (id)",
    )
    run(owner, "CREATE TABLE docs_a PARTITION OF docs FOR VALUES FROM (0) TO (10)")
    run(owner, "CREATE TABLE docs_b (embedding vector(64), body text, id int NOT NULL)")
    run(owner, "ALTER TABLE docs ATTACH PARTITION docs_b FOR VALUES FROM (10) TO (100)")
    add_rows(owner, range(1, 31))
    collection = adopt(embver)
    assert fill(installed, collection) == []
    run(owner, "UPDATE docs SET body = 'changed' WHERE id IN (3, 20)")
    embver.drain()
    check_stores(installed)


def test_the_views_leave_the_column_out(
    installed: Installed, owner: Connection, embver: Embver
) -> None:
    make_table(owner)
    collection = adopt(embver, element_type="halfvec")
    fill(installed, collection)
    collection.promote()
    rows = run(owner, "SELECT * FROM embver_docs.current WHERE version = 1 AND id = 1")
    assert list(rows[0]) == ["embedding", "version", "id", "body", "old"]
    # Adopted, the column has served: it may go, which the views do not prevent.
    run(owner, "ALTER TABLE docs DROP COLUMN embedding")
    collection.refresh()
    collection.add_version("hash:32", index=NO_INDEX)
    assert len(fill(installed, collection, 2)) == 40


def test_the_column_is_kept_until_it_is_copied(
    installed: Installed, owner: Connection, embver: Embver
) -> None:
    make_table(owner)
    collection = adopt(embver, stale_where="old")
    for column in ("embedding", "old"):
        with pytest.raises(psycopg.errors.DependentObjectsStillExist):
            run(owner, f"ALTER TABLE docs DROP COLUMN {column}")
    run(owner, "ALTER TABLE docs RENAME COLUMN embedding TO by_hand")
    collection.refresh()
    collection.start_rollout(1)
    embver.drain()
    assert collection.origin(1)["copied"] == 40
    # What is left are the views of the collection, as for every column.
    run(owner, "DROP VIEW embver_docs.current, embver_docs.versions")
    run(owner, "ALTER TABLE docs DROP COLUMN by_hand, DROP COLUMN old")
    collection.refresh()
    check_stores(installed)


def test_dropping_an_adopted_version(owner: Connection, embver: Embver) -> None:
    make_table(owner)
    collection = adopt(embver, stale_where="old")
    collection.drop_version(1)
    assert collection.origin(1)["copied"] is None
    run(owner, "ALTER TABLE docs DROP COLUMN embedding")
    collection.drop()


# -- refusals ----------------------------------------------------------------------------------


def refused(collection: Collection, kind: type[EmbverError], **options: Any) -> dict[str, Any]:
    """The detail of a refusal that left nothing behind."""
    with pytest.raises(kind) as failure:
        collection.adopt_version(options.pop("encoder", "hash:64"), **options)
    assert failure.value.hint
    assert collection.versions() == []
    return failure.value.detail


def test_vectors_of_another_model(owner: Connection, embver: Embver) -> None:
    make_table(owner)
    rows = run(owner, "SELECT id FROM docs ORDER BY id")
    for row, vector in zip(rows, vectors([f"x{i} y" for i in range(40)]), strict=True):
        run(
            owner,
            "UPDATE docs SET embedding = %s::real[]::vector WHERE id = %s",
            (vector.tolist(), row["id"]),
        )
    collection = collect(embver)
    detail = refused(collection, SpaceChanged)
    assert (detail["reason"], detail["agree"], detail["documents"]) == ("other_model", 0, 40)
    assert detail["interval"][0] == 0
    assert detail["interval"][1] < 0.15
    assert run(owner, "SELECT FROM embver.origins") == []
    assert value(owner, "SELECT to_regnamespace('embver_docs_v1')") is None


def test_vectors_of_older_texts(installed: Installed, owner: Connection, embver: Embver) -> None:
    make_table(owner)
    run(owner, "UPDATE docs SET body = 'rewritten ' || id, old = true WHERE id % 5 = 0")
    collection = collect(embver)
    detail = refused(collection, SpaceChanged, sample=1000)
    assert (detail["reason"], detail["agree"], detail["documents"]) == ("mixed", 32, 40)
    assert detail["interval"][0] < 0.8 < detail["interval"][1]
    # Named, they are encoded; or the operator asks for less.
    assert collection.adopt_version("hash:64", stale_where="old", index=NO_INDEX) == 1
    assert fill(installed, collection) == sorted(f"rewritten {i}" for i in range(5, 41, 5))


def test_other_dimensions_and_no_vectors(owner: Connection, embver: Embver) -> None:
    make_table(owner)
    run(owner, "ALTER TABLE docs ADD COLUMN untyped vector, ADD COLUMN empty vector(64)")
    run(owner, "UPDATE docs SET untyped = embedding")
    collection = collect(embver)
    detail = refused(collection, DimensionMismatch, encoder="hash:32")
    assert (detail["column_dimensions"], detail["encoder_dimensions"]) == (64, 32)
    detail = refused(collection, DimensionMismatch, encoder="hash:32", column="untyped")
    assert (detail["found"], detail["expected"]) == ([64], 32)
    refused(collection, InvalidArgument, column="empty")
    refused(collection, InvalidArgument, column="body")
    refused(collection, InvalidArgument, column="nope")
    refused(collection, InvalidArgument, column="xmin")
    refused(collection, InvalidArgument, key_columns=["id"])
    for name, bad in (("sample", 0), ("min_share", 0), ("min_share", 1.5), ("min_cosine", -1)):
        refused(collection, InvalidArgument, **{name: bad})


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "old AND",
        "random() < 0.5",
        "body",
        "true",
        "ctid IS NOT NULL",
        "EXISTS (SELECT FROM pg_class)",
        "nope > 1",
        "old) THEN 'x' END)::text) STORED, DROP COLUMN body --",
        "true) THEN '' END)::text) STORED, ADD COLUMN more text GENERATED ALWAYS AS"
        " ((CASE WHEN (old",
    ],
)
def test_conditions_that_are_none(owner: Connection, embver: Embver, condition: str) -> None:
    make_table(owner, 5)
    detail = refused(collect(embver), InvalidArgument, stale_where=condition)
    assert detail["stale_where"] == condition
    assert value(owner, "SELECT count(body) FROM docs") == 5


def test_a_column_of_another_type_is_still_refused(owner: Connection, embver: Embver) -> None:
    run(owner, "CREATE TABLE docs (id int PRIMARY KEY, body text, embedding real[])")
    with pytest.raises(EmbverError, match="embedding has a name"):
        collect(embver)


# -- the check and the rollout -------------------------------------------------------------------


def test_a_rollout_needs_a_passed_check(owner: Connection, embver: Embver) -> None:
    make_table(owner)
    collection = adopt(embver)
    run(owner, "UPDATE embver_internal.origin SET check_passed = NULL, checked_at = NULL")
    with pytest.raises(NotReady) as refusal:
        collection.start_rollout(1)
    assert refusal.value.detail["reason"] == "not_checked"
    assert refusal.value.hint == "embver version check docs 1"
    run(owner, "UPDATE docs SET body = body || ' and more that nobody has embedded so far, at all'")
    with pytest.raises(SpaceChanged):
        collection.check_version(1)
    with pytest.raises(NotReady) as refusal:
        collection.start_rollout(1)
    assert refusal.value.detail["reason"] == "check_failed"
    assert refusal.value.detail["figures"]["share"] < 0.95
    assert collection.version(1)["state"] == "created"
    kinds = [row["kind"] for row in run(owner, "SELECT kind FROM embver.events ORDER BY event_id")]
    assert kinds[-1] == "check_origin"


def test_a_restart_copies_nothing_twice(
    installed: Installed, owner: Connection, embver: Embver
) -> None:
    make_table(owner, 30)
    collection = adopt(embver)
    collection.start_rollout(1)
    for _ in range(3):
        run(owner, "SELECT * FROM embver_docs_v1.walk_step(10)")
    assert collection.origin(1)["copied"] == 10
    collection.abort_rollout("enough")
    run(owner, "UPDATE docs SET body = 'changed while nobody looked' WHERE id = 1")
    with pytest.raises(NotReady) as refusal:
        collection.start_rollout(1)
    assert refusal.value.detail["reason"] == "aborted_since_check"
    assert collection.check_version(1, sample=30)["agree"] == 29
    assert fill(installed, collection) == ["changed while nobody looked"]
    assert collection.origin(1)["copied"] == 30
    # Filled, the version is one as any other: what differs after an abort is encoded.
    collection.abort_rollout("once more")
    run(owner, "DELETE FROM embver_docs_v1.embedding WHERE id = 2")
    with pytest.raises(InvalidArgument, match="filled already"):
        collection.check_version(1)
    assert fill(installed, collection) == [text(2)]
    with pytest.raises(EmbverError):
        collection.origin(9)


def test_later_edits_of_the_column(installed: Installed, owner: Connection, embver: Embver) -> None:
    make_table(owner)
    run(owner, "UPDATE docs SET embedding = NULL WHERE id = 1")
    collection = adopt(embver)
    collection.start_rollout(1)
    for _ in range(2):
        run(owner, "SELECT * FROM embver_docs_v1.walk_step(1000)")
    # Before the copy the column may be filled up; afterwards nobody looks at it.
    made = vectors([text(1)])[0].tolist()
    run(owner, "UPDATE docs SET embedding = %s::real[]::vector WHERE id = 1", (made,))
    run(owner, "SELECT * FROM embver_docs_v1.walk_step(1000)")
    run(owner, "UPDATE docs SET embedding = NULL")
    counting = Counting()
    embver.drain(encoder_for=counting)
    assert counting.texts == []
    check_stores(installed)


# -- derived -------------------------------------------------------------------------------------


@pytest.fixture
def filled(installed: Installed, owner: Connection, embver: Embver) -> Collection:
    """Version 1 adopted, filled and active."""
    make_table(owner)
    collection = adopt(embver)
    fill(installed, collection)
    collection.promote()
    return collection


def test_half_precision_is_derived(
    installed: Installed, owner: Connection, filled: Collection
) -> None:
    assert filled.derive_version(1, element_type="halfvec", index=NO_INDEX) == 2
    derived, parent = filled.version(2), filled.version(1)
    assert derived["fingerprint"] == parent["fingerprint"]
    assert (derived["dimensions"], derived["element_type"]) == (64, "halfvec")
    run(owner, "UPDATE docs SET body = 'changed' WHERE id = 1")
    encoded = fill(installed, filled, 2)
    assert set(encoded) == {"changed"}
    assert filled.origin(2)["copied"] >= 39
    run(owner, "INSERT INTO docs VALUES (99, 'later')")
    filled.embver.drain()
    check_stores(installed)


def test_what_cannot_be_derived(filled: Collection, embver: Embver) -> None:
    for options in (
        {},
        {"dimensions": 64},
        {"dimensions": 32},
        {"dimensions": 128},
        {"dimensions": 0},
        {"element_type": "vector"},
        {"element_type": "bit"},
    ):
        with pytest.raises(InvalidArgument):
            filled.derive_version(1, **options)
    filled.add_version("hash:32", index=NO_INDEX)
    with pytest.raises(NotReady) as refusal:
        filled.derive_version(2, element_type="halfvec")
    assert refusal.value.detail["reason"] == "parent_not_live"
    assert [row["version"] for row in filled.versions()] == [1, 2]


def test_a_parent_that_went_away(
    installed: Installed, owner: Connection, filled: Collection
) -> None:
    filled.derive_version(1, element_type="halfvec", index=NO_INDEX)
    filled.derive_version(1, element_type="halfvec", index=NO_INDEX)
    fill(installed, filled, 2)
    filled.promote(force=True, reason="the same vectors")
    filled.start_rollout(3)
    filled.retire_version(1)
    filled.drop_version(1)
    counting = Counting()
    filled.embver.drain(encoder_for=counting)
    assert sorted(counting.texts) == sorted(text(i) for i in range(1, 41))
    check_stores(installed)


def test_a_truncation_is_derived(
    installed: Installed, owner: Connection, embver: Embver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    make_table(owner)
    collection = collect(embver)
    with FakeEndpoint(64, matryoshka=True) as endpoint:
        collection.adopt_version("openai:fake", base_url=endpoint.base_url, index=NO_INDEX)
        assert fill(installed, collection) == []
        collection.promote()
        assert collection.derive_version(1, dimensions=32, index=NO_INDEX) == 2
        endpoint.forget()
        assert fill(installed, collection, 2) == []
        assert collection.origin(2)["copied"] == 40
        derived = collection.version(2)
        assert (derived["dimensions"], derived["encoder"]["dimensions"]) == (32, 32)
        assert derived["fingerprint"] != collection.version(1)["fingerprint"]
        collection.promote(force=True, reason="to search it")
        assert collection.search(text(7), k=1)[0].distance == pytest.approx(0, abs=1e-6)
        # A model whose short vectors are others of their own.
        endpoint.matryoshka = False
        with pytest.raises(SpaceChanged):
            collection.derive_version(1, dimensions=16)


def test_origins_are_for_admins(installed: Installed, filled: Collection) -> None:
    for role in ("reader", "worker", "stranger"):
        with installed.connect(role) as connection:
            for statement in (
                "SELECT * FROM embver.origins",
                "SELECT * FROM embver_internal.sample_origin('docs', 1, 5)",
                "SELECT * FROM embver_docs_v1.sample_origin(5)",
                "SELECT embver_internal.record_origin_check('docs', 1, true, '{}')",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    run(connection, statement)
