"""Documents in chunks: written, found, checked and removed as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from embver_pg.chunking import Chunker, splitter
from embver_pg.client import Embver
from embver_pg.encoders import EncoderSpec, RejectedInputError, Vectors, load
from embver_pg.encoders.hashing import HashEncoder
from embver_pg.errors import InvalidArgument
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint
from tests.sql.support import Connection, check_stores, drain, encode, refused, run, value

pytest.importorskip("semantic_text_splitter", reason="the extra chunking is not installed")
pytestmark = pytest.mark.both_versions

ENCODER = "hash:32"
CHUNKER = {"type": "characters", "size": 24, "overlap": 6}
LONG = "wings lift the glider. flaps slow it down. rudders turn it. stalls end it all."


@pytest.fixture
def cut(installed: Installed, owner: Connection) -> Iterator[Embver]:
    """``docs`` with a version in chunks that is being filled, and readers of some tenants."""
    run(owner, "CREATE TABLE docs (id int PRIMARY KEY, body text, tenant int NOT NULL DEFAULT 0)")
    run(owner, "INSERT INTO docs VALUES (1, %s), (2, 'short'), (3, NULL), (4, '  ')", (LONG,))
    run(owner, "GRANT SELECT ON docs TO embver_r")
    with installed.embver() as embver:
        collection = embver.create_collection("docs", "public.docs", "body")
        assert collection.add_version(ENCODER, chunker=CHUNKER) == 1
        collection.start_rollout(1)
        yield embver


def stored(owner: Connection, key: int, version: int = 1) -> list[dict[str, Any]]:
    return run(
        owner,
        "SELECT chunk, chunk_from, chunk_to, chunk_count, content_hash, encoded_at,"
        f" embedding::real[] AS vector FROM embver_docs_v{version}.embedding"
        " WHERE id = %s ORDER BY chunk",
        (key,),
    )


def differences(owner: Connection) -> dict[str, int]:
    return run(owner, "SELECT * FROM embver.verify('docs', 1)")[0]


def expected(text: str, encoder: str = ENCODER) -> list[tuple[int, int, list[float]]]:
    """What a store must hold of a text: spans and vectors."""
    loaded = load(encoder)
    chunks = splitter(Chunker.from_json(CHUNKER), loaded)(text)
    vectors = loaded.encode_documents([chunk.text for chunk in chunks])
    return [
        (chunk.start, chunk.end, vector.tolist())
        for chunk, vector in zip(chunks, vectors, strict=True)
    ]


def assert_whole(owner: Connection, key: int, text: str) -> None:
    rows, wanted = stored(owner, key), expected(text)
    assert [row["chunk"] for row in rows] == list(range(len(wanted)))
    assert {row["chunk_count"] for row in rows} == {len(wanted)}
    assert [(row["chunk_from"], row["chunk_to"]) for row in rows] == [w[:2] for w in wanted]
    whole = value(owner, "SELECT embver.hash(%s)", (text,))
    assert {bytes(row["content_hash"]) for row in rows} == {bytes(whole)}
    np.testing.assert_allclose([row["vector"] for row in rows], [w[2] for w in wanted], atol=1e-6)


def test_every_document_is_stored_in_all_its_chunks(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    drain(installed)
    assert len(expected(LONG)) > 3
    assert_whole(owner, 1, LONG)
    assert_whole(owner, 2, "short")
    assert stored(owner, 3) == []
    assert_whole(owner, 4, "  ")


def test_edits_grow_and_shrink_documents(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    drain(installed)
    for text in (LONG * 2, "now short", LONG, LONG.upper()):
        run(owner, "UPDATE docs SET body = %s WHERE id = 1", (text,))
        drain(installed)
        assert_whole(owner, 1, text)
    run(owner, "UPDATE docs SET body = '' WHERE id = 1")
    drain(installed)
    assert stored(owner, 1) == []


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM docs WHERE id = 1",
        "UPDATE docs SET id = 9 WHERE id = 1",
        "TRUNCATE docs",
        "UPDATE docs SET body = NULL WHERE id = 1",
    ],
)
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_what_goes_takes_all_its_chunks(
    installed: Installed, owner: Connection, cut: Embver, change: str, isolation: str
) -> None:
    drain(installed)
    with installed.connect() as application:
        application.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
        run(application, "SELECT count(*) FROM docs")  # the snapshot is older than the chunks
        cut.collection("docs").requeue(1, "all")
        drain(installed)
        assert len(stored(owner, 1)) > 3
        run(application, change)
        application.execute("COMMIT")
    drain(installed)
    assert stored(owner, 1) == []


def test_unchanged_content_is_not_encoded_again(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    drain(installed)
    before = stored(owner, 1)
    run(owner, "INSERT INTO embver_docs_v1.job (id) VALUES (1), (1), (2)")
    worker = installed.new_worker("owner")
    worker.run(drain=True)
    worker.database.close()
    assert worker.report.written == 0
    assert stored(owner, 1) == before


@pytest.mark.parametrize(
    "damage",
    {
        "a middle one is missing": "DELETE FROM {} WHERE id = 1 AND chunk = 1",
        "the last is missing": "DELETE FROM {} WHERE id = 1 AND chunk = chunk_count - 1",
        "the first is missing": "DELETE FROM {} WHERE id = 1 AND chunk = 0",
        "one too many": "INSERT INTO {} SELECT (e).* FROM (SELECT jsonb_populate_record(e,"
        " jsonb_build_object('chunk', e.chunk_count)) AS e FROM {} e WHERE id = 1 AND chunk = 0)",
        "one of another content": "UPDATE {} SET content_hash = '\\x00' WHERE id = 1 AND chunk = 2",
        "counts differ": "UPDATE {} SET chunk_count = 9 WHERE id = 1 AND chunk = 2",
    }.items(),
    ids=lambda item: item[0],
)
def test_torn_documents_are_noticed_and_repaired(
    installed: Installed, owner: Connection, cut: Embver, damage: tuple[str, str]
) -> None:
    drain(installed)
    run(owner, damage[1].replace("{}", "embver_docs_v1.embedding"))
    assert differences(owner) == {"missing": 0, "stale": 1, "orphaned": 0}
    assert cut.collection("docs").verify(1, step=1) == differences(owner)
    assert cut.collection("docs").requeue(1, "stale") == 1
    drain(installed)
    assert_whole(owner, 1, LONG)


def test_orphaned_chunks_are_one_document(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    drain(installed)
    run(owner, "ALTER TABLE docs DISABLE TRIGGER ALL")
    run(owner, "DELETE FROM docs WHERE id = 1")
    run(owner, "ALTER TABLE docs ENABLE ALWAYS TRIGGER embver_docs_insert")
    assert differences(owner) == {"missing": 0, "stale": 0, "orphaned": 1}
    run(owner, "SELECT embver_docs_v1.request_rewalk()")
    drain(installed)
    assert stored(owner, 1) == []


def test_a_refused_chunk_buries_its_document(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    drain(installed)
    worker = installed.new_worker("owner", encoder_for=Squeamish)
    run(owner, "UPDATE docs SET body = body || ' unreadable. ' || body WHERE id = 1")
    run(owner, "UPDATE docs SET body = 'fine' WHERE id = 2")
    worker.run(drain=True)
    worker.database.close()
    assert (worker.report.written, worker.report.failed) == (1, 1)
    letters = run(owner, "SELECT key, error FROM embver.dead_letters")
    assert [letter["key"] for letter in letters] == [{"id": 1}]
    assert letters[0]["error"].startswith("chunk 4 (characters 74 to 96): ")
    assert "unreadable" in letters[0]["error"]
    # What was there stays whole, and is known to be stale.
    assert [row["chunk"] for row in stored(owner, 1)] == list(range(len(expected(LONG))))
    assert differences(owner) == {"missing": 0, "stale": 1, "orphaned": 0}
    assert cut.collection("docs").requeue(1) == 1
    drain(installed)
    assert len(stored(owner, 1)) > len(expected(LONG))


def test_equal_chunks_are_encoded_once(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    seen: list[str] = []

    def counting(spec: EncoderSpec) -> Any:
        encoder = Squeamish(spec)
        encoder.seen = seen
        return encoder

    drain(installed)
    run(owner, "INSERT INTO docs SELECT i, %s FROM generate_series(10, 14) AS i", (LONG,))
    worker = installed.new_worker("owner", encoder_for=counting)
    worker.run(drain=True)
    worker.database.close()
    texts = [text for text in seen if text in LONG]
    assert len(texts) == len(set(texts)) == len(expected(LONG))


class Squeamish(HashEncoder):
    """Refuses texts that say so, and notes what it was asked for."""

    seen: list[str] | None = None

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        refused = [n for n, text in enumerate(texts) if "unreadable" in text]
        if refused:
            raise RejectedInputError("unreadable", detail={"positions": refused, "exact": True})
        if self.seen is not None:
            self.seen.extend(texts)
        return super().encode_documents(texts)


def search(connection: Connection, text: str, **arguments: Any) -> list[dict[str, Any]]:
    return run(
        connection,
        "SELECT id, chunk, rank, distance"
        " FROM embver_docs.search(ARRAY[embver.query('docs', 1, %s)]"
        + "".join(f", {name} => %s" for name in arguments)
        + ")",
        (encode(text, ENCODER), *arguments.values()),
    )


def test_search_finds_documents_by_their_best_chunk(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    texts = [f"{word} {LONG} {word * 2}" for word in ("alpha", "beta", "gamma", "delta")]
    run(
        owner,
        "INSERT INTO docs SELECT 10 + i, t, i %% 2"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u (t, i)",
        (texts,),
    )
    drain(installed)
    cut.collection("docs").promote()
    for exact in (False, True):
        options = Jsonb({"exact": exact})
        found = search(owner, "rudders turn it", k=5, options=options)
        assert len({row["id"] for row in found}) == 5
        assert [row["rank"] for row in found] == [1, 2, 3, 4, 5]
        assert [row["distance"] for row in found] == sorted(row["distance"] for row in found)
        for row in found:
            best = value(
                owner,
                "SELECT min(embedding <=> %s) FROM embver_docs_v1.embedding WHERE id = %s",
                (encode("rudders turn it", ENCODER), row["id"]),
            )
            assert row["distance"] == pytest.approx(best, abs=1e-6)
            chosen = value(
                owner,
                "SELECT embedding <=> %s FROM embver_docs_v1.embedding"
                " WHERE id = %s AND chunk = %s",
                (encode("rudders turn it", ENCODER), row["id"], row["chunk"]),
            )
            assert chosen == pytest.approx(best, abs=1e-6)
        everything = search(owner, "wings", k=100, options=options)
        assert sorted(row["id"] for row in everything) == [1, 2, 4, 11, 12, 13, 14]
        some = search(owner, "wings", k=100, filter=Jsonb({"tenant": 1}), options=options)
        assert sorted(row["id"] for row in some) == [11, 13]
        assert len(search(owner, "wings", k=1, filter=Jsonb({"tenant": 1}), options=options)) == 1


def test_one_document_of_many_near_chunks_does_not_fill_the_result(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    run(owner, "UPDATE docs SET body = repeat('wings wings wings. ', 300) WHERE id = 1")
    run(owner, "INSERT INTO docs SELECT i, 'wings ' || i FROM generate_series(20, 30) AS i")
    drain(installed)
    assert len(stored(owner, 1)) > 200
    cut.collection("docs").promote()
    found = search(owner, "wings", k=8)
    assert found[0]["id"] == 1
    assert len({row["id"] for row in found}) == 8


def chunk_text(connection: Connection, key: int, chunk: int) -> str:
    text = value(
        connection,
        "SELECT chunk_text FROM embver_docs.chunks WHERE id = %s AND version = 1 AND chunk = %s",
        (key, chunk),
    )
    assert isinstance(text, str)
    return text


def test_a_snippet_is_what_was_encoded(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    umlauts = "Flügel heben. 🛩 Klappen bremsen. Ruder drehen. Äußere Strömung reißt ab."
    run(owner, "UPDATE docs SET body = %s WHERE id = 1", (umlauts,))
    drain(installed)
    collection = cut.collection("docs")
    collection.promote()
    hit = collection.search("Strömung reißt ab", k=1)[0]
    found = collection.chunk_text(hit)
    assert found is not None
    assert "Strömung" in found
    wanted = splitter(Chunker.from_json(CHUNKER), load(ENCODER))(umlauts)
    assert [chunk_text(owner, 1, n) for n in range(len(wanted))] == [c.text for c in wanted]
    joined = run(
        owner,
        "SELECT chunk_text FROM embver_docs.search(ARRAY[embver.query('docs', 1, %s)], 1)"
        " JOIN embver_docs.chunks USING (id, version, chunk)",
        (encode("Strömung reißt ab", ENCODER),),
    )
    assert joined == [{"chunk_text": found}]
    run(owner, "UPDATE docs SET body = 'x' || body WHERE id = 1")
    assert collection.chunk_text(hit) is None  # its span is of another text
    run(owner, "DELETE FROM docs WHERE id = 1")
    assert collection.chunk_text(hit) is None


def test_readers_see_the_chunks_of_what_they_may_read(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    run(owner, "INSERT INTO docs VALUES (7, %s, 1)", (LONG,))
    run(owner, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    run(owner, "CREATE POLICY own ON docs FOR SELECT TO embver_r USING (tenant = 1)")
    drain(installed)
    cut.collection("docs").promote()
    with installed.connect("reader") as reader:
        rows = run(reader, "SELECT DISTINCT id FROM embver_docs.chunks")
        assert rows == [{"id": 7}]
        assert {row["id"] for row in search(reader, "wings", k=10)} == {7}
        assert value(reader, "SELECT count(*) FROM embver_docs.current") == len(expected(LONG))


def test_a_version_says_how_it_cuts(installed: Installed, owner: Connection, cut: Embver) -> None:
    collection = cut.collection("docs")
    first = collection.version(1)
    assert first["chunker"] == CHUNKER
    same = collection.version(
        collection.add_version(ENCODER, chunker=dict(reversed(CHUNKER.items())))
    )
    other = collection.version(collection.add_version(ENCODER, chunker={**CHUNKER, "size": 25}))
    none = collection.version(collection.add_version(ENCODER))
    assert same["chunker_hash"] == first["chunker_hash"] != other["chunker_hash"]
    assert (none["chunker"], none["chunker_hash"]) == (None, None)
    # How documents are cut is no part of the space.
    assert len({row["fingerprint"] for row in (first, same, other, none)}) == 1


BAD: dict[str, Any] = {
    "no object": "characters",
    "no type": {"size": 10, "overlap": 0},
    "other type": {"type": "pages", "size": 10, "overlap": 0},
    "no size": {"type": "characters", "overlap": 0},
    "size 0": {"type": "characters", "size": 0, "overlap": 0},
    "huge": {"type": "characters", "size": 10**7, "overlap": 0},
    "broken": {"type": "characters", "size": 9.5, "overlap": 0},
    "text": {"type": "characters", "size": "9", "overlap": 0},
    "overlap as large": {"type": "characters", "size": 9, "overlap": 9},
    "negative overlap": {"type": "characters", "size": 9, "overlap": -1},
    "something else": {"type": "characters", "size": 9, "overlap": 1, "by": "hand"},
}


def test_unfit_chunkers_are_refused(installed: Installed, owner: Connection, cut: Embver) -> None:
    for name, chunker in BAD.items():
        said = refused(
            owner,
            "VM006",
            "SELECT embver_internal.register_version('docs', '{}', 'f', 8, p_chunker => %s)",
            (Jsonb(chunker),),
        )
        assert "chunker" in str(said.message_primary), name
    assert len(cut.collection("docs").versions()) == 1


def test_vectors_made_by_hand_are_of_whole_documents(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    run(owner, "ALTER TABLE docs ADD COLUMN embedding vector(32)")
    with pytest.raises(InvalidArgument, match="which part of its document"):
        cut.collection("docs").adopt_version(ENCODER, chunker=CHUNKER)


def test_a_change_of_the_chunker_is_a_rollout(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    drain(installed)
    collection = cut.collection("docs")
    collection.promote()
    assert collection.add_version(ENCODER) == 2
    collection.start_rollout(2)
    run(owner, "UPDATE docs SET body = body || ' more' WHERE id = 1")
    worker = installed.new_worker("owner")
    worker.run(drain=True)
    worker.database.close()
    collection.promote(force=True, reason="test")
    assert len(stored(owner, 1, 2)) == 1
    assert stored(owner, 1, 2)[0]["chunk_count"] is None
    hits = collection.search("rudders", k=1)
    assert collection.chunk_text(hits[0]) == LONG + " more"
    assert_whole(owner, 1, LONG + " more")
    assert {hit.id for hit in collection.search("rudders", k=9, version=1)} == {1, 2, 4}


# Aliases of the statements that have to do with chunks, and types that the views must keep.
NAMES = ("c", "d", "e", "h", "i", "n", "o", "own", "orphan", "r", "result", "u", "x", "left_over")


def test_keys_named_like_our_own(installed: Installed, owner: Connection) -> None:
    listed = ", ".join(NAMES)
    run(
        owner,
        f"CREATE TABLE docs ({', '.join(f'{name} int' for name in NAMES)},"
        f' region varchar(3) COLLATE "C", body text, PRIMARY KEY ({listed}, region))',
    )
    run(
        owner,
        f"INSERT INTO docs SELECT {', '.join('i' for _ in NAMES)}, 'eu', %s"
        " FROM generate_series(1, 3) AS i",
        (LONG,),
    )
    with installed.embver() as embver:
        collection = embver.create_collection("docs", "public.docs", "body")
        collection.add_version(ENCODER, chunker=CHUNKER)
        collection.start_rollout(1)
        drain(installed)
        collection.promote()
        run(owner, "UPDATE docs SET body = 'short' WHERE o = 1")
        run(owner, "UPDATE docs SET c = 20 WHERE h = 2")
        run(owner, "DELETE FROM docs WHERE r = 3")
        drain(installed)
        collection.refresh()
        hits = collection.search("rudders", k=5)
        assert [hit.key["c"] for hit in hits] == [20, 1]
        assert "rudders" in str(collection.chunk_text(hits[0]))
        for options in ({"exact": True}, {}):
            found = collection.search("rudders", k=5, filter={"region": "eu"}, options=options)
            assert [hit.key["h"] for hit in found] == [2, 1]
        run(owner, "DELETE FROM embver_docs_v1.embedding WHERE chunk = 1")
        assert collection.requeue(1, "stale") == 1
        drain(installed)


def test_a_copy_in_half_precision_has_all_the_chunks(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    run(owner, "INSERT INTO docs SELECT i, %s || i FROM generate_series(10, 60) AS i", (LONG,))
    drain(installed)
    collection = cut.collection("docs")
    collection.promote()
    number = collection.derive_version(1, element_type="halfvec", index={"type": "none"})
    assert collection.version(number)["chunker"] == CHUNKER
    run(owner, "UPDATE docs SET body = 'behind' WHERE id = 10")  # the parent lags
    collection.start_rollout(number)
    drain(installed)
    copied = value(owner, "SELECT copied FROM embver.origins WHERE version = %s", (number,))
    assert copied >= 50
    places = (
        "SELECT id, chunk, chunk_from, chunk_to, chunk_count, content_hash FROM embver_docs_v{}"
    )
    both = [run(owner, places.format(n) + ".embedding ORDER BY id, chunk") for n in (1, number)]
    assert both[0] == both[1]
    run(owner, "UPDATE docs SET body = %s WHERE id = 11", (LONG * 2,))
    run(owner, "DELETE FROM docs WHERE id = 12")
    drain(installed)
    with pytest.raises(InvalidArgument, match="cut in another way"):
        # Behind the back of derive_version, which takes its parent's.
        run_as_derived(collection, cut, number)


def run_as_derived(collection: Any, cut: Embver, parent: int) -> None:
    other = collection.add_version(ENCODER, element_type="halfvec", index={"type": "none"})
    cut.database.rows(
        "SELECT embver_internal.add_origin('docs', %s, 'version', %s)",
        (other, Jsonb({"version": parent})),
    )


def test_a_copy_that_was_given_up_is_completed(
    installed: Installed, owner: Connection, cut: Embver
) -> None:
    drain(installed)
    collection = cut.collection("docs")
    collection.promote()
    number = collection.derive_version(1, element_type="halfvec", index={"type": "none"})
    collection.start_rollout(number)
    drain(installed)
    collection.abort_rollout()
    run(owner, "UPDATE docs SET body = 'short now' WHERE id = 1")
    run(owner, "UPDATE docs SET body = %s WHERE id = 2", (LONG,))
    drain(installed)
    collection.start_rollout(number)
    drain(installed)
    assert len(stored(owner, 1, number)) == 1
    assert len(stored(owner, 2, number)) == len(expected(LONG))


def test_a_truncated_copy_is_compared_by_chunks(
    installed: Installed, owner: Connection, cut: Embver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    run(owner, "DELETE FROM docs WHERE id = 4")  # blanks: shortened, a vector of zeros
    run(owner, "INSERT INTO docs SELECT i, %s || i FROM generate_series(10, 30) AS i", (LONG,))
    collection = cut.collection("docs")
    collection.abort_rollout()
    with FakeEndpoint(64, matryoshka=True) as endpoint:
        fake: dict[str, Any] = {
            "base_url": endpoint.base_url,
            "index": {"type": "none"},
            "chunker": CHUNKER,
        }
        assert collection.add_version("openai:fake", **fake) == 2
        collection.start_rollout(2)
        cut.drain()
        collection.promote(force=True, reason="the first")
        assert collection.derive_version(2, dimensions=32, index={"type": "none"}) == 3
        assert collection.origin(3)["check_figures"]["agree"] > 20
        collection.start_rollout(3)
        cut.drain()
        check_stores(installed)
