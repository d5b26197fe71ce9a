"""What a plan says, against what is there and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from embver_pg.chunking import Chunker, splitter
from embver_pg.client import Embver
from embver_pg.encoders import load
from embver_pg.encoders.tokens import token_counter
from embver_pg.planning import make_plan, storage
from embver_pg.planning.sample import draw
from tests.conftest import Installed
from tests.sql.support import Connection, run, value

pytestmark = pytest.mark.both_versions

ROWS = 20_000


@pytest.fixture
def large(installed: Installed, owner: Connection) -> Iterator[Embver]:
    """Twenty thousand rows; the text grows along the table, and every tenth has none."""
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    run(
        owner,
        "INSERT INTO docs SELECT i, CASE WHEN i %% 10 > 0 THEN 'title' END,"
        " repeat('word ', (i / 1000 + i %% 7)::int) FROM generate_series(1, %s) AS i",
        (ROWS,),
    )
    run(owner, "ANALYZE docs")
    with installed.embver() as embver:
        embver.create_collection("docs", "public.docs", "title || ' ' || body")
        yield embver


def true_tokens(owner: Connection) -> int:
    texts = [row["content"] for row in run(owner, "SELECT content FROM embver_docs.document")]
    counter = token_counter(load("hash:8"))
    return int(counter.documents([text for text in texts if text]).sum())


def test_a_small_table_is_counted(installed: Installed, owner: Connection, docs: Embver) -> None:
    run(owner, "INSERT INTO docs VALUES (4, NULL, 'no title'), (5, 'x', NULL)")
    before = run(owner, "SELECT count(*) FROM embver.events")
    plan = docs.collection("docs").plan("hash:8", price=2.0)
    assert (plan.rows, plan.documents, plan.documents_are_exact) == (5, 3, True)
    # The whole population is the sample: nothing is left to chance.
    assert plan.tokens.low == plan.tokens.value == plan.tokens.high == 3 * 4
    assert plan.token_method == "the model's tokenizer"
    assert plan.price is not None
    assert plan.price.value == pytest.approx(12 * 2 / 1e6)
    assert plan.version is None
    assert plan.notes == ("the time is that of one worker here, without a rate limit",) or (
        plan.seconds is None and plan.notes == ()
    )
    assert docs.collection("docs").plan(1, encode=False).version == 1
    assert run(owner, "SELECT count(*) FROM embver.events") == before


def test_a_table_without_content(installed: Installed, owner: Connection, docs: Embver) -> None:
    run(owner, "TRUNCATE docs")
    plan = docs.collection("docs").plan("hash:8")
    assert (plan.documents, plan.tokens.value, plan.index_bytes) == (0, 0, 8192)
    run(owner, "INSERT INTO docs VALUES (1, NULL, NULL), (2, NULL, 'x')")
    plan = docs.collection("docs").plan("hash:8", price=1)
    assert (plan.rows, plan.documents, plan.tokens.high) == (2, 0, 0)


@pytest.mark.parametrize("exact_bytes", [1 << 30, 0], ids=["all rows", "pages"])
def test_the_interval_holds_the_truth(
    installed: Installed, owner: Connection, large: Embver, exact_bytes: int
) -> None:
    """Forty samples: a 95 % interval misses in more than five of them once in 70 runs or so."""
    truth = true_tokens(owner)
    counter = token_counter(load("hash:8"))
    hits, values = 0, []
    for _ in range(40):
        sample = draw(large.database, "docs", 120, exact_bytes)
        total = sample.total(counter.documents(sample.contents))
        hits += total.low <= truth <= total.high
        values.append(total.value)
        assert total.high - total.low < truth  # and not by saying anything
        assert 60 < len(sample.texts) <= 120
        assert any(text is None for text in sample.texts)
        assert sample.documents == pytest.approx(0.9 * ROWS, rel=0.2)
    assert hits >= 33
    assert np.mean(values) == pytest.approx(truth, rel=0.03)  # not biased


def test_a_large_table_is_not_read_whole(
    installed: Installed, owner: Connection, large: Embver
) -> None:
    pages = value(owner, "SELECT pages FROM embver_internal.source_size('docs')")
    assert pages > 250

    def touched() -> int:
        run(owner, "SELECT pg_stat_force_next_flush()")
        return int(
            value(
                owner,
                "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables"
                " WHERE relname = 'docs'",
            )
        )

    before = touched()
    percent = 100.0 * 20 / pages
    rows = run(owner, "SELECT * FROM embver_docs.sample_documents(20, %s)", (percent,))
    assert touched() - before < 150  # about twenty pages, twice
    assert 3 < len(rows) <= 20


def test_partitions_and_row_level_security(installed: Installed, owner: Connection) -> None:
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    for part in range(4):
        run(
            owner,
            f"CREATE TABLE docs_{part} PARTITION OF docs"
            f" FOR VALUES FROM ({part * 1000}) TO ({part * 1000 + 1000})",
        )
    run(owner, "INSERT INTO docs SELECT i, repeat('word ', 40) FROM generate_series(0, 3999) i")
    run(owner, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    with installed.embver() as embver:
        embver.create_collection("docs", "public.docs", "body")
        sample = draw(embver.database, "docs", 40, 0)  # never analysed
        assert sample.rows == pytest.approx(4000, rel=0.25)
        assert sample.documents == sample.rows
        run(owner, "ANALYZE docs")
        assert draw(embver.database, "docs", 40, 0).rows == 4000
        assert draw(embver.database, "docs", 40).rows == 4000


@pytest.mark.parametrize(
    ("dimensions", "element_type", "m"),
    [(64, "vector", 16), (384, "vector", 16), (384, "halfvec", 8), (1536, "vector", 16)],
)
def test_storage_is_what_comes_of_it(
    installed: Installed,
    owner: Connection,
    docs: Embver,
    dimensions: int,
    element_type: str,
    m: int,
) -> None:
    rows = 3000
    run(owner, "INSERT INTO docs SELECT i, 't', 'b ' || i FROM generate_series(4, %s) i", (rows,))
    collection = docs.collection("docs")
    collection.abort_rollout()
    index = {"type": "hnsw", "m": m, "ef_construction": 2 * m}
    number = collection.add_version(f"hash:{dimensions}", element_type=element_type, index=index)
    plan = collection.plan(number, encode=False)
    store = f"embver_docs_v{number}"
    run(
        owner,
        f"INSERT INTO {store}.embedding (id, embedding, content_hash, encoded_lease)"
        " SELECT i, (SELECT array_agg(random() + 0 * g * i)"
        f" FROM generate_series(1, {dimensions}) g)::real[]::{element_type},"
        f" embver.hash(i::text), 1 FROM generate_series(1, {rows}) i",
    )
    run(
        owner,
        f"CREATE INDEX embedding_embedding_idx ON {store}.embedding USING hnsw"
        f" (embedding {element_type}_cosine_ops) WITH (m = {m}, ef_construction = {2 * m})",
    )
    sizes = run(
        owner,
        f"SELECT pg_table_size('{store}.embedding') + pg_relation_size('{store}.embedding_pkey')"
        f" AS of_table, pg_relation_size('{store}.embedding_embedding_idx') AS of_index",
    )[0]
    assert plan.table_bytes == pytest.approx(sizes["of_table"], rel=0.1)
    assert plan.index_bytes == pytest.approx(sizes["of_index"], rel=0.1)
    assert str(storage.vector_bytes(dimensions, element_type)) in plan.table_formula
    note = "are not shown" if element_type == "vector" else "a halfvec version is not in them"
    assert any(note in found for found in plan.notes) == (element_type == "halfvec")


def test_time_is_measured(installed: Installed, owner: Connection, large: Embver) -> None:
    encoder = load("hash:64")
    plan = make_plan(large.database, "docs", encoder, index={"type": "none"})
    assert plan.seconds is not None
    assert 0 <= plan.seconds.low <= plan.seconds.value <= plan.seconds.high
    assert 0.01 < plan.seconds.value < 600
    assert plan.index_bytes == 0
    assert make_plan(large.database, "docs", encoder, index={}, encode=False).seconds is None


def test_chunks_are_counted(installed: Installed, owner: Connection, docs: Embver) -> None:
    pytest.importorskip("semantic_text_splitter", reason="the extra chunking is not installed")
    run(owner, "UPDATE docs SET body = 'one two three four five six seven' WHERE id = 1")
    run(owner, "UPDATE docs SET title = NULL WHERE id = 2")
    collection = docs.collection("docs")
    chunker = {"type": "tokens", "size": 3, "overlap": 1}
    plan = collection.plan("hash:8", chunker=chunker, encode=False, index={"type": "none"})
    contents = [row["content"] for row in run(owner, "SELECT content FROM embver_docs.document")]
    split = splitter(Chunker.from_json(chunker), load("hash:8"))
    chunks = [chunk.text for text in contents if text for chunk in split(text)]
    assert len(chunks) > 5
    assert (plan.documents, plan.vectors.value) == (2, len(chunks))
    assert plan.tokens.value == sum(len(chunk.split()) for chunk in chunks)
    assert plan.table_bytes == storage.table_bytes(len(chunks), 8, "vector", is_chunked=True)
    # A version has its own.
    number = collection.add_version("hash:8", chunker=chunker)
    again = collection.plan(number, encode=False)
    assert (again.chunker, again.vectors) == (chunker, plan.vectors)
    whole = collection.plan("hash:8", encode=False)
    assert (whole.chunker, whole.vectors.value) == (None, 2)
