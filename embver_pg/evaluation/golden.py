"""Golden sets in the database."""

from __future__ import annotations

from embver_pg.db import Database, Row
from embver_pg.evaluation.golden_files import GoldenQuery, GoldenSet


def import_golden_set(database: Database, collection: str, golden: GoldenSet) -> Row:
    """Store a golden set as the next version of its name.

    Returns:
        set_version, queries, judgments, unknown_documents.

    Raises:
        InvalidArgument: No judged document is in the collection.
    """
    judged = [
        (query.id, document, grade)
        for query in golden.queries
        for document, grade in query.judgments.items()
    ]
    row = database.row(
        "SELECT * FROM embver_internal.import_golden_set(%s, %s, %s, %s, %s, %s, %s::int[])",
        (
            collection,
            golden.name,
            [query.id for query in golden.queries],
            [query.text for query in golden.queries],
            [query for query, _, _ in judged],
            [document for _, document, _ in judged],
            [grade for _, _, grade in judged],
        ),
    )
    assert row is not None
    return row


def read_stored(
    database: Database, collection: str, name: str | None
) -> tuple[int, tuple[GoldenQuery, ...]]:
    """The newest golden set of a name, or of the collection.

    Returns:
        Its number in the database, and its queries in order of their ids.

    Raises:
        InvalidArgument: There is none.
    """
    found = database.row(
        "SELECT * FROM embver_internal.find_golden_set(%s, %s)", (collection, name)
    )
    assert found is not None
    rows = database.rows(
        "SELECT q.query_id, q.query, jsonb_object_agg(j.document, j.grade) AS judgments"
        " FROM embver_internal.golden_query q"
        " JOIN embver_internal.golden_judgment j USING (golden_set_id, query_id)"
        " WHERE q.golden_set_id = %s GROUP BY q.query_id, q.query ORDER BY q.query_id",
        (found["golden_set_id"],),
    )
    queries = tuple(
        GoldenQuery(row["query_id"], row["query"], dict(row["judgments"])) for row in rows
    )
    return found["golden_set_id"], queries
