"""Checking a store in bounded steps that all look at one snapshot."""

from __future__ import annotations

from collections.abc import Callable

from psycopg import sql

from embver_pg.db import Database, Row, store_function
from embver_pg.errors import InvalidArgument

KINDS = ("missing", "stale", "orphaned")


def verify_in_steps(
    database: Database, store: str, step: int, advance: Callable[[int], None]
) -> Row:
    """What ``embver.verify`` counts, in statements that each read so many documents.

    One transaction at REPEATABLE READ, read only: the counts are exact as of its beginning,
    however long it takes. It holds no lock that stops writers; while it runs, rows that others
    replace cannot be vacuumed.

    Args:
        database: Where the store is.
        store: The store's schema.
        step: Documents a statement.
        advance: Told how many more documents were checked.

    Returns:
        missing, stale, orphaned.

    Raises:
        InvalidArgument: ``step`` is not positive.
    """
    if step < 1:
        raise InvalidArgument(
            f"A step has at least one document, not {step}.",
            detail={"step": step},
            hint="step=10000",
        )
    # The key stays text here: a number of many digits is none of Python's floats.
    query = sql.SQL(
        "SELECT after::text AS after, seen, missing, stale, orphaned FROM {}(%s::jsonb, %s)"
    ).format(store_function(store, "verify_step"))
    found = dict.fromkeys(KINDS, 0)
    after: str | None = None
    with database.connection() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        while True:
            row = connection.execute(query, (after, step)).fetchone()
            assert row is not None
            for kind in KINDS:
                found[kind] += row[kind]
            advance(row["seen"])
            after = row["after"]
            if after is None:
                return found
