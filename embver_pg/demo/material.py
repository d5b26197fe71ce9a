"""What the demo runs on: the documents, the table they live in, and the judged questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from embver_pg.db import Database
from embver_pg.demo.corpus import answerable, gather, load_questions
from embver_pg.errors import InvalidArgument
from embver_pg.evaluation.golden_files import GoldenQuery, GoldenSet, read_corpus, read_golden_set

TABLE = "docs"
MIN_DOCUMENTS = 100
"""Fewer would be written faster than a worker can be killed at it."""


@dataclass(frozen=True)
class Material:
    """A corpus with judged questions, and the table for it.

    Attributes:
        name: What it is, for people.
        definition: The columns of the table.
        columns: The columns that ``rows`` fills; the first is the key, ``title`` and ``body``
            are among them.
        content: The content expression of the collection.
        rows: The documents.
        golden: The judged questions; their judgments name documents by the key.
    """

    name: str
    definition: str
    columns: tuple[str, ...]
    content: str
    rows: tuple[tuple[str, ...], ...]
    golden: GoldenSet

    @property
    def key(self) -> str:
        """The key column."""
        return self.columns[0]

    @property
    def judged(self) -> set[str]:
        """Keys of the documents that a question needs."""
        return {
            key for query in self.golden.queries for key, grade in query.judgments.items() if grade
        }


def python_documentation(documents: int | None = None) -> Material:
    """The documentation of the running Python, and our questions about it.

    Args:
        documents: How many documents to take; default all.

    Raises:
        NotReady: The interpreter runs without docstrings.
    """
    gathered = gather()
    questions = [
        GoldenQuery(question.id, question.text, question.relevant)
        for question in answerable(load_questions(), gathered)
    ]
    rows = [(d.name, d.kind, d.module, d.title, d.body) for d in gathered]
    return _limited(
        Material(
            "the documentation of Python's standard library",
            "name text PRIMARY KEY, kind text NOT NULL DEFAULT 'note',"
            " module text NOT NULL DEFAULT '', title text NOT NULL, body text NOT NULL,"
            " edited_at timestamptz",
            ("name", "kind", "module", "title", "body"),
            "title || E'\\n' || body",
            tuple(rows),
            GoldenSet("programmers", tuple(questions)),
        ),
        documents,
    )


def beir_collection(directory: Path, documents: int | None = None) -> Material:
    """A collection in BEIR layout.

    Args:
        directory: With ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv``.
        documents: How many documents to take; default all.

    Raises:
        InvalidArgument: A file is missing or malformed.
    """
    rows = tuple((d.id, d.title, d.text) for d in read_corpus(directory))
    keys = {row[0] for row in rows}
    golden = read_golden_set(directory)
    known = [
        GoldenQuery(q.id, q.text, {k: grade for k, grade in q.judgments.items() if k in keys})
        for q in golden.queries
    ]
    return _limited(
        Material(
            golden.name,
            "id text PRIMARY KEY, title text NOT NULL, body text NOT NULL, edited_at timestamptz",
            ("id", "title", "body"),
            # Real collections hold documents without any text: those have no vector.
            "nullif(btrim(title || E'\\n' || body, E' \\t\\n'), '')",
            rows,
            GoldenSet(golden.name, tuple(q for q in known if any(q.judgments.values()))),
        ),
        documents,
    )


def create_table(database: Database, material: Material) -> None:
    """An ordinary table with the documents, as an application would have it."""
    with database.connection() as connection:
        connection.execute(
            sql.SQL("CREATE TABLE {} ({})").format(
                sql.Identifier(TABLE),
                sql.SQL(material.definition),
            )
        )
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(TABLE), sql.SQL(", ").join(map(sql.Identifier, material.columns))
        )
        with connection.cursor().copy(copy) as stream:
            for row in material.rows:
                stream.write_row(row)
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(TABLE)))


def _limited(material: Material, documents: int | None) -> Material:
    """The first ``documents`` of a material: half of them for questions, half beside them."""
    if documents is None:
        documents = len(material.rows)
    if min(documents, len(material.rows)) < MIN_DOCUMENTS:
        raise InvalidArgument(
            f"The demo needs at least {MIN_DOCUMENTS} documents.",
            detail={"documents": min(documents, len(material.rows))},
            hint="Take more documents, or another collection.",
        )
    if documents >= len(material.rows):
        return material
    queries: list[GoldenQuery] = []
    wanted: set[str] = set()
    for query in material.golden.queries:
        more = wanted | {key for key, grade in query.judgments.items() if grade}
        if len(more) > documents // 2:
            break
        queries.append(query)
        wanted = more
    rows = _with(material.rows, wanted, documents)
    return Material(
        material.name,
        material.definition,
        material.columns,
        material.content,
        rows,
        GoldenSet(material.golden.name, tuple(queries)),
    )


def _with(
    rows: Sequence[tuple[str, ...]], wanted: set[str], documents: int
) -> tuple[tuple[str, ...], ...]:
    others = [row[0] for row in rows if row[0] not in wanted]
    # Evenly spread, or they would all be of the first modules.
    room = documents - len(wanted)
    chosen = wanted | {others[i * len(others) // room] for i in range(room)}
    return tuple(row for row in rows if row[0] in chosen)
