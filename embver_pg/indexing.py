"""Vector indexes: built CONCURRENTLY after the bulk, leftovers cleaned, progress shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from embver_pg.db import Row, store_function

INDEX = "embedding_embedding_idx"
# The claim covers the moments in which a build does not show in the catalog yet; a builder that
# died must not hold the others up for longer.
_CLAIM_SECONDS = 60


@dataclass(frozen=True)
class BuildProgress:
    """Where a build is, from ``pg_stat_progress_create_index``.

    Attributes:
        phase: The server's name of the phase.
        done: Tuples done.
        total: Tuples in all, as the server knows.
    """

    phase: str
    done: int
    total: int


def index_state(connection: psycopg.Connection[Row], store: str) -> str:
    """``valid``, ``invalid``, ``building`` or ``missing``."""
    row = connection.execute(
        "SELECT i.indisvalid AND i.indisready AS valid, EXISTS (SELECT FROM pg_locks l"
        "   WHERE l.relation = i.indrelid AND l.mode = 'ShareUpdateExclusiveLock'"
        "   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        "   AND EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.pid = l.pid))"
        "   AS building"
        " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        (store, INDEX),
    ).fetchone()
    if row is None:
        return "missing"
    if row["valid"]:
        return "valid"
    return "building" if row["building"] else "invalid"


def may_build(connection: psycopg.Connection[Row], store: str) -> bool:
    """Whether this role can build the index and finish the filling.

    That takes the owner of the source, who owns the store, and the rights of an administrator.
    """
    row = connection.execute(
        "SELECT pg_has_role(n.nspowner, 'USAGE') AND"
        " has_table_privilege('embver_internal.version', 'UPDATE') AS may"
        " FROM pg_namespace n WHERE n.nspname = %s",
        (store,),
    ).fetchone()
    return bool(row and row["may"])


def build_index(connection: psycopg.Connection[Row], target: Row, builder: UUID) -> bool:
    """Build the index of a store unless it stands or somebody else is at it.

    Args:
        connection: In autocommit, of a role for which :func:`may_build` holds.
        target: A row of ``embver_internal.writable_versions()``.
        builder: Identity of the worker; one builds at a time.

    Returns:
        Whether the index is valid now (also where the version has none by its specification).
    """
    spec: dict[str, Any] = target["index_spec"]
    if spec["type"] == "none":
        return True
    store = target["store"]
    state = index_state(connection, store)
    if state in ("valid", "building"):
        return state == "valid"
    if not _claim(connection, store, builder):
        return False
    if state == "invalid":
        index = sql.Identifier(store, INDEX)
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(index))
        # The drop may have waited for long transactions until somebody else took over.
        if not _claim(connection, store, builder):
            return False
    statement = sql.SQL(
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} USING {method}"
        " (embedding {schema}.{operators}) WITH ({options})"
    )
    names = connection.execute(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'vector'"
    ).fetchone()
    assert names is not None
    options = {"m": spec.get("m", 16), "ef_construction": spec.get("ef_construction", 64)}
    connection.execute(
        statement.format(
            name=sql.Identifier(INDEX),
            table=sql.Identifier(store, "embedding"),
            method=sql.Identifier(spec["type"]),
            schema=sql.Identifier(names["nspname"]),
            operators=sql.Identifier(f"{target['element_type']}_{target['metric']}_ops"),
            options=sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.SQL(key), sql.Literal(value))
                for key, value in options.items()
            ),
        )
    )
    return index_state(connection, store) == "valid"


def _claim(connection: psycopg.Connection[Row], store: str, builder: UUID) -> bool:
    claim = sql.SQL("SELECT {}(%s, make_interval(secs => %s)) AS mine").format(
        store_function(store, "claim_index_build")
    )
    row = connection.execute(claim, (builder, _CLAIM_SECONDS)).fetchone()
    return bool(row and row["mine"])


def build_progress(connection: psycopg.Connection[Row], store: str) -> BuildProgress | None:
    """The build under way on a store, if any."""
    row = connection.execute(
        "SELECT p.phase, p.tuples_done, p.tuples_total FROM pg_stat_progress_create_index p"
        " JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s",
        (store,),
    ).fetchone()
    if row is None:
        return None
    return BuildProgress(row["phase"], row["tuples_done"] or 0, row["tuples_total"] or 0)


def mark_ready(
    connection: psycopg.Connection[Row],
    collection: str,
    version: int,
    *,
    attempts: int = 20,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """``filling`` → ``ready``, with bounded retries behind readers of the views.

    Returns:
        Whether the version is ready.
    """
    for attempt in range(attempts):
        try:
            row = connection.execute(
                "SELECT embver_internal.mark_ready(%s, %s) AS ready", (collection, version)
            ).fetchone()
            return bool(row and row["ready"])
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            sleep(min(0.1 * 2**attempt, 2.0))
    return False
