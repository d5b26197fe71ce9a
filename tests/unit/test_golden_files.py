"""Golden sets and corpora from files: every format, real data, and a table of bad input."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from embver_pg.errors import InvalidArgument
from embver_pg.evaluation.golden_files import (
    CorpusDocument,
    GoldenQuery,
    GoldenSet,
    read_corpus,
    read_golden_set,
)

DATA = Path(
    os.environ.get("EMBVER_DATA_DIR") or Path(__file__).parents[2].parent / "shared" / "data"
)
QUERIES = '{"_id": "q1", "text": "how wings stall"}\n{"_id": "q2", "text": "lift \\"and\\" drag"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td 3\t1\n"
EXPECTED = (
    GoldenQuery("q1", "how wings stall", {"d1": 2, "d2": 0}),
    GoldenQuery("q2", 'lift "and" drag', {"d 3": 1}),
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write_file


@pytest.mark.parametrize("queries", ["queries.jsonl", "queries.jsonl.gz"])
@pytest.mark.parametrize("qrels", ["qrels.tsv", "qrels.tsv.gz", "qrels/test.tsv"])
def test_beir_directory(write: Write, tmp_path: Path, queries: str, qrels: str) -> None:
    write(queries, QUERIES)
    write(qrels, QRELS)
    assert read_golden_set(tmp_path, name="mine") == GoldenSet("mine", EXPECTED)
    assert read_golden_set(str(tmp_path)).name == tmp_path.name


def test_beir_without_header_and_with_line_ends_of_windows(write: Write, tmp_path: Path) -> None:
    write("queries.jsonl", "\ufeff" + QUERIES.replace("\n", "\r\n\r\n"))
    write("qrels.tsv", QRELS.split("\n", 1)[1].replace("\n", "\r\n"))
    assert read_golden_set(tmp_path).queries == EXPECTED


def test_queries_without_a_relevant_document_are_counted_and_left_out(
    write: Write, tmp_path: Path
) -> None:
    write("queries.jsonl", QUERIES + '{"_id": 3, "text": "never judged"}\n')
    write("qrels.tsv", "q1\td1\t1\nq2\td1\t0\n")
    found = read_golden_set(tmp_path)
    assert [q.id for q in found.queries] == ["q1"]
    assert found.left_out == 2


def test_jsonl(write: Write) -> None:
    path = write(
        "golden.jsonl.gz",
        '{"id": "a", "query": "one", "relevant": {"d1": 2, "d2": 0}}\n'
        '\n{"text": "two", "relevant": ["d1", 7]}\n',
    )
    assert read_golden_set(path) == GoldenSet(
        "golden",
        (
            GoldenQuery("a", "one", {"d1": 2, "d2": 0}),
            GoldenQuery("2", "two", {"d1": 1, "7": 1}),
        ),
    )


@pytest.mark.parametrize("header", ["", "query,document,grade\n"])
def test_csv(write: Write, header: str) -> None:
    path = write("my.csv", header + '"a, ""b""\nc",d1,2\nplain,d1\n"a, ""b""\nc",d2,1\n')
    assert read_golden_set(path) == GoldenSet(
        "my",
        (GoldenQuery("1", 'a, "b"\nc', {"d1": 2, "d2": 1}), GoldenQuery("2", "plain", {"d1": 1})),
    )


def test_tsv_takes_quotes_as_they_are(write: Write) -> None:
    path = write("my.tsv", 'Query\tKey\n"a" b\td1\n"a" b\td1\n')
    assert read_golden_set(path).queries == (GoldenQuery("1", '"a" b', {"d1": 1}),)


@pytest.mark.parametrize(
    ("queries", "content"),
    [
        ("topics.tsv", 'q1\thow wings stall\nq2\tlift "and" drag\n'),
        ("topics.tsv.gz", 'id\ttext\nq1\thow wings stall\nq2\tlift "and" drag\n'),
        ("topics.jsonl", QUERIES),
    ],
)
def test_trec_judgments_with_a_file_of_queries(write: Write, queries: str, content: str) -> None:
    topics = write(queries, content)
    qrels = write("qrels.txt", "q1 0 d1 2\nq1  0  d2 0\nq2 0 d3 1\n")
    found = read_golden_set(qrels, queries=topics)
    assert found.name == "qrels"
    assert [(q.text, q.judgments) for q in found.queries] == [
        ("how wings stall", {"d1": 2, "d2": 0}),
        ('lift "and" drag', {"d3": 1}),
    ]
    tabbed = write("tabbed.qrels", "q1\t0\td1\t2\nq1\t0\td2\t0\nq2\t0\td3\t1\n")
    assert read_golden_set(tabbed, queries=topics).queries == found.queries


def test_corpus_is_read_as_it_is_asked_for(write: Write, tmp_path: Path) -> None:
    write(
        "corpus.jsonl",
        '{"_id": "d1", "title": "T", "text": "a"}\n{"id": 2, "title": null, "text": "b"}\nbroken',
    )
    documents = read_corpus(tmp_path)
    assert next(documents) == CorpusDocument("d1", "T", "a")
    assert next(documents) == CorpusDocument("2", "", "b")
    with pytest.raises(InvalidArgument, match="line 3: not JSON"):
        next(documents)


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.jsonl", '{"query": "x", "relevant": ["d"]}\n{', 2, "not JSON"),
        ("a.jsonl", "[1]", 1, "not a JSON object"),
        ("a.jsonl", "[" * 100_000, 1, "not JSON"),
        ("a.jsonl", '{"relevant": ["d"]}', 1, "query is missing or not text"),
        ("a.jsonl", '{"query": " ", "relevant": ["d"]}', 1, "query is empty"),
        ("a.jsonl", '{"query": "x"}', 1, "no relevant documents"),
        ("a.jsonl", '{"query": "x", "relevant": "d"}', 1, "no relevant documents"),
        ("a.jsonl", '{"query": "x", "relevant": {"d": 1.5}}', 1, "grade 1.5 is not an integer"),
        ("a.jsonl", '{"query": "x", "relevant": {"d": true}}', 1, "True is not an integer"),
        ("a.jsonl", '{"query": "x", "relevant": {"d": 1e99}}', 1, "is not an integer"),
        ("a.jsonl", '{"query": "x", "relevant": [null]}', 1, "document key is missing"),
        ("a.jsonl", '{"query": "x\\u0000", "relevant": ["d"]}', 1, "NUL"),
        ("a.jsonl", '{"query": "x\\ud800", "relevant": ["d"]}', 1, "surrogate"),
        ("a.jsonl", '{"id": 1, "query": "x", "relevant": ["d"]}\n' * 2, 2, "'1' is used twice"),
        ("a.jsonl", '{"id": {}, "query": "x", "relevant": ["d"]}', 1, "query id is missing"),
        ("a.jsonl", b'{"query": "\xff"}', 1, "not UTF-8"),
        ("a.csv", "x,d\ny,d,1,1\n", 2, "4 columns, 2 or 3"),
        ("a.csv", "x\n", 1, "1 columns, 2 or 3"),
        ("a.csv", "query,key\nx,d,good\n", 2, "grade 'good' is not an integer"),
        ("a.csv", "x,d,1\nx,d,2\n", 2, "has grade 1 already"),
        ("a.csv", 'x,d\n"y,d\n', 2, "malformed"),
        ("a.tsv", "x\t\n", 1, "document key is empty"),
    ],
)
def test_bad_plain_files(
    write: Write, name: str, content: str | bytes, line: int, message: str
) -> None:
    path = write(name, content)
    with pytest.raises(InvalidArgument, match=message) as caught:
        read_golden_set(path)
    assert caught.value.detail == {"file": str(path), "line": line}
    assert caught.value.hint


@pytest.mark.parametrize(
    ("queries", "qrels", "file", "line", "message"),
    [
        (QUERIES, QRELS + "q9\td1\t1\n", "qrels.tsv", 5, "query 'q9' is not in"),
        (QUERIES, QRELS + "q1\td1\n", "qrels.tsv", 5, "2 columns, 3 or 4"),
        (QUERIES, QRELS + "q1\td7\t0.5\n", "qrels.tsv", 5, "grade '0.5' is not an integer"),
        (QUERIES, "q1\td7\t\n", "qrels.tsv", 1, "grade '' is not an integer"),
        (QUERIES + QUERIES, QRELS, "queries.jsonl", 3, "query id 'q1' is used twice"),
        ('{"text": "x"}', QRELS, "queries.jsonl", 1, "query id is missing"),
        ('{"_id": "q1"}', QRELS, "queries.jsonl", 1, "query is missing"),
    ],
)
def test_bad_beir(
    write: Write, tmp_path: Path, queries: str, qrels: str, file: str, line: int, message: str
) -> None:
    write("queries.jsonl", queries)
    write("qrels.tsv", qrels)
    with pytest.raises(InvalidArgument, match=message) as caught:
        read_golden_set(tmp_path)
    assert caught.value.detail == {"file": str(tmp_path / file), "line": line}
    assert caught.value.hint


def test_missing_empty_and_unknown_files(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="there is no file") as caught:
        read_golden_set(tmp_path / "none.jsonl")
    assert caught.value.detail == {"file": str(tmp_path / "none.jsonl")}
    with pytest.raises(InvalidArgument, match=r"has no qrels\.tsv or qrels/test\.tsv"):
        read_golden_set(tmp_path)
    write("qrels.tsv", QRELS)
    with pytest.raises(InvalidArgument, match=r"has no queries\.jsonl"):
        read_golden_set(tmp_path)
    with pytest.raises(InvalidArgument, match="there is no file"):
        read_golden_set(tmp_path / "qrels.tsv", queries=tmp_path / "none")
    with pytest.raises(InvalidArgument, match=r"has no corpus\.jsonl"):
        read_corpus(tmp_path)
    with pytest.raises(InvalidArgument, match="no known format"):
        read_golden_set(write("golden.xlsx", "x"))
    with pytest.raises(InvalidArgument, match="no query with a relevant document"):
        read_golden_set(write("empty.jsonl", ""))
    with pytest.raises(InvalidArgument, match="no query with a relevant document"):
        read_golden_set(write("none.csv", "query,key\nx,d,0\n"))


def test_a_damaged_archive(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"query": "x", "relevant": ["d"]}\n' * 500)
    path = tmp_path / "a.jsonl.gz"
    for damaged in (whole[: len(whole) // 2], b"not gzip", whole[:10] + b"\xff" * 40):
        path.write_bytes(damaged)
        with pytest.raises(InvalidArgument) as caught:
            read_golden_set(path)
        assert caught.value.detail["file"] == str(path)


@pytest.mark.skipif(not (DATA / "scifact").is_dir(), reason=f"no scifact in {DATA}")
def test_scifact() -> None:
    found = read_golden_set(DATA / "scifact")
    assert found.name == "scifact"
    assert len(found.queries) == 300
    assert sum(len(query.judgments) for query in found.queries) == 339
    documents = {document.id: document for document in read_corpus(DATA / "scifact")}
    assert len(documents) == 5183
    assert all(key in documents for query in found.queries for key in query.judgments)


@pytest.mark.skipif(not (DATA / "cranfield").is_dir(), reason=f"no cranfield in {DATA}")
def test_cranfield() -> None:
    found = read_golden_set(DATA / "cranfield")
    assert len(found.queries) == 225
    assert sum(len(query.judgments) for query in found.queries) == 1837
