"""Reading golden sets and corpora from files.

Formats (each file may be gzipped, ``.gz``):

* a directory in BEIR layout: ``queries.jsonl``, ``qrels.tsv`` or ``qrels/test.tsv``, and for
  :func:`read_corpus` ``corpus.jsonl``;
* ``.jsonl``: a query a line, ``{"id": …, "query": …, "relevant": {key: grade} or [keys]}``;
* ``.tsv`` or ``.csv``: a judgment a line, ``query text, document key[, grade]``;
* judgments beside a file of queries: TREC (``query-id iteration key grade``) or BEIR
  (``query-id key grade``); queries as ``.jsonl`` or as ``.tsv`` of ``id, text``.

A grade is an integer, 1 where it is left out; 1 and above is relevant. Queries without a
relevant document cannot tell two rankings apart and are left out, and counted.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from embver_pg.errors import InvalidArgument

_TABLE_HEADER = {"query", "query_text", "query-text", "question", "text"}
_QRELS_HEADER = {"query-id", "query_id", "qid"}
_QUERIES_HEADER = {"id", "_id"} | _QRELS_HEADER
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class GoldenQuery:
    """One query and the grade of each judged document, by the document's key as text."""

    id: str
    text: str
    judgments: dict[str, int]


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Judged queries.

    Attributes:
        name: The file's name without its endings, unless another was given.
        queries: The queries with at least one relevant document, in the file's order.
        left_out: Number of queries in the file without a relevant document.
    """

    name: str
    queries: tuple[GoldenQuery, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One document of a corpus in BEIR layout; the title may be empty."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A place in a file, to build values from and to blame for bad ones."""

    path: Path
    number: int

    def fail(self, message: str, hint: str) -> NoReturn:
        raise InvalidArgument(
            f"{self.path}, line {self.number}: {message}",
            detail={"file": str(self.path), "line": self.number},
            hint=hint,
        )

    def text(self, value: object, what: str, *, optional: bool = False) -> str:
        """``value`` as text that PostgreSQL can store; blank only where it is optional."""
        if optional and value is None:
            return ""
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            self.fail(f"{what} is missing or not text", f"Give every line a {what}.")
        if not optional and not value.strip():
            self.fail(f"{what} is empty", f"Give every line a {what}.")
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{what} holds half a surrogate pair", "Write the file as UTF-8.")
        if "\x00" in value:
            self.fail(f"{what} holds a NUL character", "Remove it: PostgreSQL cannot store it.")
        return value

    def grade(self, value: object) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 10**9:
            self.fail(
                f"the grade {value!r} is not an integer",
                "Write 1 for relevant, 0 for not relevant, more for better.",
            )
        return value

    def judge(self, judgments: dict[str, int], key: object, grade: object) -> None:
        """Add a judgment; repeating one is harmless, contradicting one is refused."""
        document, value = self.text(key, "document key"), self.grade(grade)
        if judgments.setdefault(document, value) != value:
            self.fail(
                f"document {document!r} has grade {judgments[document]} already",
                "Keep one judgment for each query and document.",
            )


def read_golden_set(
    path: str | Path, *, queries: str | Path | None = None, name: str | None = None
) -> GoldenSet:
    """Read a golden set in any of the formats of this module.

    Args:
        path: A directory in BEIR layout, a plain file, or the judgments beside ``queries``.
        queries: The file of queries where ``path`` holds only judgments by query id.
        name: Name of the set.

    Raises:
        InvalidArgument: The file is missing or malformed, or no query has a relevant document;
            the detail has the file and, where there is one, the line.
    """
    path = Path(path)
    if queries is not None:
        found = _join(_existing(path), _existing(Path(queries)))
    elif path.is_dir():
        qrels = _one_of(path, "qrels.tsv", "qrels/test.tsv")
        found = _join(qrels, _one_of(path, "queries.jsonl"))
    elif _kind(_existing(path)) == ".jsonl":
        found = _read_jsonl(path)
    elif _kind(path) in (".tsv", ".csv"):
        found = _read_table(path)
    else:
        raise InvalidArgument(
            f"{path} is in no known format",
            detail={"file": str(path)},
            hint="Name it .jsonl, .tsv or .csv, or give TREC judgments with a file of queries.",
        )
    judged = tuple(q for q in found if any(grade > 0 for grade in q.judgments.values()))
    if not judged:
        raise InvalidArgument(
            f"{path} has no query with a relevant document",
            detail={"file": str(path), "queries": len(found)},
            hint="Judge at least one document of a query with a grade of 1 or more.",
        )
    stem = path.name.removesuffix(".gz").removesuffix(_kind(path)) if path.is_file() else ""
    return GoldenSet(name or stem or path.resolve().name, judged, len(found) - len(judged))


def read_corpus(directory: str | Path) -> Iterator[CorpusDocument]:
    """The documents of ``corpus.jsonl`` in BEIR layout, one at a time.

    Raises:
        InvalidArgument: The file is missing (at the call), or a line is malformed or repeats
            an id (when the line is reached).
    """
    return _documents(_one_of(Path(directory), "corpus.jsonl"))


def _documents(path: Path) -> Iterator[CorpusDocument]:
    seen: set[str] = set()
    for line, row in _json_lines(path):
        key = _new_id(line, row, seen, "document")
        title = line.text(row.get("title"), "title", optional=True)
        yield CorpusDocument(key, title, line.text(row.get("text"), "text", optional=True))


def _read_jsonl(path: Path) -> list[GoldenQuery]:
    found: list[GoldenQuery] = []
    seen: set[str] = set()
    for line, row in _json_lines(path):
        numbered = row if row.keys() & {"id", "_id"} else {"id": len(found) + 1}
        key = _new_id(line, numbered, seen, "query")
        text = line.text(row.get("query", row.get("text")), "query")
        relevant = row.get("relevant")
        if isinstance(relevant, list):
            pairs: list[tuple[object, object]] = [(document, 1) for document in relevant]
        elif isinstance(relevant, dict):
            pairs = list(relevant.items())
        else:
            line.fail("no relevant documents", 'Add "relevant": {"key": grade} or ["key", …].')
        judgments: dict[str, int] = {}
        for document, grade in pairs:
            line.judge(judgments, document, grade)
        found.append(GoldenQuery(key, text, judgments))
    return found


def _read_table(path: Path) -> list[GoldenQuery]:
    """One judgment a line; queries are known by their text and numbered as they appear."""
    found: dict[str, GoldenQuery] = {}
    for line, row in _rows(path, header=_TABLE_HEADER):
        if len(row) not in (2, 3):
            line.fail(
                f"{len(row)} columns, 2 or 3 are needed",
                "Write query, document key and, if you like, grade.",
            )
        text = line.text(row[0], "query")
        query = found.setdefault(text, GoldenQuery(str(len(found) + 1), text, {}))
        line.judge(query.judgments, row[1], row[2] if len(row) == 3 else 1)
    return list(found.values())


def _join(qrels: Path, queries: Path) -> list[GoldenQuery]:
    """Queries with the judgments that name them by id."""
    found = {query.id: query for query in _read_queries(queries)}
    for line, row in _rows(qrels, header=_QRELS_HEADER):
        columns = row if len(row) > 1 else row[0].split()
        if len(columns) not in (3, 4):
            line.fail(
                f"{len(columns)} columns, 3 or 4 are needed",
                "Write query-id, key, grade (BEIR) or query-id, iteration, key, grade (TREC).",
            )
        query = found.get(columns[0])
        if query is None:
            line.fail(
                f"query {columns[0]!r} is not in {queries}", "Add the query or drop the judgment."
            )
        line.judge(query.judgments, columns[-2], columns[-1])
    return list(found.values())


def _read_queries(path: Path) -> Iterator[GoldenQuery]:
    seen: set[str] = set()
    if _kind(path) == ".jsonl":
        for line, row in _json_lines(path):
            key = _new_id(line, row, seen, "query")
            yield GoldenQuery(key, line.text(row.get("text", row.get("query")), "query"), {})
        return
    for line, columns in _rows(path, header=_QUERIES_HEADER):
        if len(columns) != 2:
            line.fail(f"{len(columns)} columns, 2 are needed", "Write query-id, tab, text.")
        key = _new_id(line, {"id": columns[0]}, seen, "query")
        yield GoldenQuery(key, line.text(columns[1], "query"), {})


def _new_id(line: _Line, row: Mapping[str, Any], seen: set[str], what: str) -> str:
    key = line.text(row.get("id", row.get("_id")), f"{what} id")
    if key in seen:
        line.fail(f"{what} id {key!r} is used twice", f"Give every {what} an id of its own.")
    seen.add(key)
    return key


def _json_lines(path: Path) -> Iterator[tuple[_Line, dict[str, Any]]]:
    for line, text in _lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            line.fail(f"not JSON: {error}", "Write one JSON object a line.")
        if not isinstance(row, dict):
            line.fail("not a JSON object", "Write one JSON object a line.")
        yield line, row


def _rows(path: Path, *, header: set[str]) -> Iterator[tuple[_Line, list[str]]]:
    """Rows of a delimited file; a first row that begins with one of ``header`` is skipped."""
    at = _Line(path, 1)

    def feed() -> Iterator[str]:
        nonlocal at
        for at, text in _lines(path):  # noqa: B007 (read by the loop below)
            yield text

    if _kind(path) == ".csv":
        reader = csv.reader(feed(), strict=True)
    else:
        # Quotes are ordinary characters in TREC and BEIR files.
        reader = csv.reader(feed(), delimiter="\t", quoting=csv.QUOTE_NONE)
    first = True
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            # Separated by blanks, a line is a single cell.
            name = row[0].strip() if len(row) > 1 else row[0].split()[0]
            if not (first and name.lower() in header):
                yield at, row
            first = False
    except csv.Error as error:
        at.fail(f"malformed: {error}", "Quote cells that hold commas, quotes or line ends.")


def _lines(path: Path) -> Iterator[tuple[_Line, str]]:
    """Lines of a UTF-8 file, gzipped or not, with their places."""
    line = _Line(path, 1)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = _Line(path, number)
                yield line, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        line.fail("not UTF-8", "Convert the file to UTF-8.")
    except (OSError, EOFError, zlib.error) as error:
        line.fail(f"cannot be read: {error}", "Check the file: it may be damaged or not yours.")


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InvalidArgument(
            f"there is no file {path}",
            detail={"file": str(path)},
            hint="Check the path; a directory must be in BEIR layout.",
        )
    return path


def _one_of(directory: Path, *names: str) -> Path:
    """The first of ``names`` that the directory has, gzipped or not."""
    for name in names:
        for path in (directory / name, directory / f"{name}.gz"):
            if path.is_file():
                return path
    raise InvalidArgument(
        f"{directory} has no {' or '.join(names)}",
        detail={"directory": str(directory), "missing": list(names)},
        hint="BEIR layout is corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv).",
    )
