"""Adding and dropping model versions: the store line, around the SQL that registers them."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from embver_pg import canary, schema
from embver_pg.chunking import Chunker
from embver_pg.db import Database, store_function
from embver_pg.encoders import EncoderSpec
from embver_pg.encoders.probes import Probes
from embver_pg.errors import NotReady

DEFAULT_INDEX: Mapping[str, Any] = {"type": "hnsw"}


@dataclass(frozen=True)
class VersionSpec:
    """What a new version is made of.

    Attributes:
        encoder: The encoder's description; it holds no secret.
        fingerprint: Identity of the space.
        dimensions: Length of its vectors.
        metric: ``cosine``, ``l2`` or ``ip``.
        element_type: ``vector`` or ``halfvec``.
        index: ``{"type": "hnsw", "m": 16, "ef_construction": 64}`` or ``{"type": "none"}``.
        probes: What the encoder says of probe texts: the version's canary. None leaves it to the
            first worker.
        chunker: How documents are cut; None: they are encoded whole.
    """

    encoder: EncoderSpec
    fingerprint: str
    dimensions: int
    metric: str = "cosine"
    element_type: str = "vector"
    index: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_INDEX))
    probes: Probes | None = None
    chunker: Chunker | None = None


def add_version(database: Database, collection: str, spec: VersionSpec) -> int:
    """Register a version and create its store, in one transaction.

    Returns:
        The version's number.
    """
    with schema.version_transaction(database.url) as connection:
        return create_version(connection, collection, spec)


def create_version(connection: Any, collection: str, spec: VersionSpec) -> int:
    """The same in a transaction from :func:`embver_pg.schema.version_transaction`."""
    version = _register(connection, collection, spec)
    schema.migrate_store(connection, collection, version)
    return version


def version_script(database: Database, collection: str, spec: VersionSpec) -> str:
    """The statements that :func:`add_version` would run, for a DBA; nothing is changed."""
    buffer = io.StringIO()
    with schema.version_transaction(database.url) as connection:
        rehearsal = connection.begin_nested()
        version = _register(connection, collection, spec)
        schema.migrate_store(
            connection,
            collection,
            version,
            output=buffer,
            first=_registration(spec, collection, version),
        )
        rehearsal.rollback()
    return buffer.getvalue()


def drop_version(
    database: Database, collection: str, version: int, *, timeout: float = 60.0
) -> None:
    """Drop the store of a created or retired version, once older writers have ended.

    A transaction that wrote the source before the version was retired may still run the old
    capture functions, which name the store (SQL-NOTES 4).

    Args:
        database: The database.
        collection: The collection's name.
        version: The version's number.
        timeout: How long to wait for them, in seconds.

    Raises:
        NotReady: Older transactions, or readers of the views, did not end in time.
    """
    deadline = time.monotonic() + timeout
    row = database.row(
        "SELECT embver_internal.store_name(c.name, v.version) AS store"
        " FROM embver_internal.find_collection(%s) c,"
        " LATERAL embver_internal.find_version(c.collection_id, %s) v",
        (collection, version),
    )
    assert row is not None
    writers = sql.SQL("SELECT {}() AS writers").format(store_function(row["store"], "writers"))
    waiting = set(database.value(writers))
    while waiting and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting &= set(database.value(writers))
    reason = "transactions older than its retirement still write the source"
    while not waiting and time.monotonic() < deadline:
        try:
            with schema.version_transaction(database.url) as connection:
                schema.driver(connection).execute(
                    "SELECT embver_internal.drop_store(%s, %s)", (collection, version)
                )
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            reason = f"its views or tables are in use: {error.diag.message_primary}"
            time.sleep(0.2)
    raise NotReady(
        f"Version {version} of {collection!r} cannot be dropped yet: {reason}.",
        detail={"waiting_for": sorted(waiting), "version": version},
        hint="Look for long transactions in pg_stat_activity and pg_prepared_xacts; then again: "
        f"embver version drop {collection} {version}",
    )


def _register(connection: Any, collection: str, spec: VersionSpec) -> int:
    row = (
        schema.driver(connection)
        .execute(
            "SELECT embver_internal.register_version("
            "%s, %s::jsonb, %s, %s, %s, %s, %s::jsonb, %s, %s::jsonb)",
            _arguments(spec, collection, None),
        )
        .fetchone()
    )
    assert row is not None
    version = int(row[0])
    if spec.probes is not None:
        texts, vectors = canary.arguments(spec.probes)
        schema.driver(connection).execute(canary.STORE, (collection, version, texts, vectors, None))
    return version


def _arguments(spec: VersionSpec, collection: str, expected: int | None) -> tuple[Any, ...]:
    """What ``register_version`` takes; without a chunker, nothing in its place."""
    return (
        collection,
        json.dumps(spec.encoder.to_json()),
        spec.fingerprint,
        spec.dimensions,
        spec.metric,
        spec.element_type,
        json.dumps(dict(spec.index)),
        expected,
        None if spec.chunker is None else json.dumps(spec.chunker.to_json()),
    )


def _registration(spec: VersionSpec, collection: str, version: int) -> str:
    """The calls that register a version as a script says them; they refuse another number."""
    arguments = _arguments(spec, collection, version)
    literals = sql.SQL(", ").join(sql.Literal(value) for value in arguments)
    statement = sql.SQL("SELECT embver_internal.register_version({});").format(literals)
    if spec.probes is not None:
        values = (collection, version, *canary.arguments(spec.probes), None)
        stored = sql.SQL("SELECT embver_internal.store_canary({}, {}, {}::text[], {}::text[], {});")
        statement += sql.SQL("\n") + stored.format(*(sql.Literal(value) for value in values))
    return statement.as_string(None)
