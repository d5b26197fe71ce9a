"""What the SQL tests share: invariant 1, tables registered in one line, refusals read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from embver_pg import codec
from embver_pg.chunking import Chunker, splitter
from embver_pg.client import Collection, Embver
from embver_pg.db import Row
from embver_pg.encoders import EncoderSpec, load
from tests.conftest import Installed

BODY = "title || E'\\n' || body"
Connection = psycopg.Connection[Row]


def run(connection: Connection, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
    """The rows of a statement, if it has any."""
    cursor = connection.execute(statement, parameters or None)
    return cursor.fetchall() if cursor.description else []


def value(connection: Connection, statement: str, parameters: Sequence[Any] = ()) -> Any:
    """The only column of the first row."""
    return next(iter(run(connection, statement, parameters)[0].values()))


def register(
    embver: Embver,
    source: str = "public.docs",
    content: str = BODY,
    *,
    name: str = "docs",
    encoder: str = "hash:8",
    key_columns: Sequence[str] | None = None,
    **version: Any,
) -> Collection:
    """A collection with version 1 filling, without an index unless one is asked for."""
    collection = embver.create_collection(name, source, content, key_columns)
    collection.add_version(encoder, **{"index": {"type": "none"}, **version})
    collection.start_rollout(1)
    return collection


def drain(installed: Installed, role: str = "owner") -> None:
    """Work until nothing is left, then check invariant 1 on every live store."""
    worker = installed.new_worker(role)
    try:
        worker.run(drain=True)
    finally:
        worker.database.close()
    check_stores(installed)


def check_stores(installed: Installed) -> None:
    """Each live store holds encode(content) of each source row with content, and nothing else."""
    with installed.connect("admin") as connection:
        live = run(
            connection,
            "SELECT v.*, c.source::text AS source, c.content, c.key_columns"
            " FROM embver.versions v JOIN embver_internal.collection c ON c.name = v.collection"
            " WHERE v.state IN ('filling', 'ready', 'active', 'fallback')",
        )
        assert live, "there is no live version to check"
        for version in live:
            _check_store(connection, version)


def _check_store(connection: Connection, version: Row) -> None:
    name, number = version["collection"], version["version"]
    counts = run(connection, "SELECT * FROM embver.verify(%s, %s)", (name, number))
    assert counts == [{"missing": 0, "stale": 0, "orphaned": 0}], (name, number)
    store = sql.Identifier(version["store"])
    for table in ("job", "lease"):
        left = sql.SQL("SELECT count(*) AS n FROM {}.{}").format(store, sql.Identifier(table))
        assert connection.execute(left).fetchall() == [{"n": 0}]
    keys = sql.SQL(", ").join(
        sql.SQL("x.{}::text").format(sql.Identifier(key)) for key in version["key_columns"]
    )
    # Through the accessors, which follow renamed columns; the hash is recomputed all the same.
    documents = connection.execute(
        sql.SQL("SELECT ARRAY[{}] AS key, x.content FROM {}.document x").format(
            keys, sql.Identifier(f"embver_{name}")
        )
    ).fetchall()
    wanted = {tuple(row["key"]): row["content"] for row in documents if row["content"]}
    stored = connection.execute(
        sql.SQL(
            "SELECT ARRAY[{}] AS key, x.chunk, x.embedding::real[] AS vector FROM {}.embedding x"
        ).format(keys, store)
    ).fetchall()
    encoder = load(EncoderSpec.from_json(version["encoder"]))
    texts = {(key, 0): content for key, content in wanted.items()}
    if version["chunker"] is not None:
        split = splitter(Chunker.from_json(version["chunker"]), encoder)
        texts = {
            (key, number): chunk.text
            for key, content in wanted.items()
            for number, chunk in enumerate(split(content))
        }
    assert sorted((tuple(row["key"]), row["chunk"]) for row in stored) == sorted(texts)
    if stored:
        expected = encoder.encode_documents(
            [texts[tuple(row["key"]), row["chunk"]] for row in stored]
        )
        found = np.array([row["vector"] for row in stored], dtype=np.float32)
        tolerance = 1e-3 if version["element_type"] == "halfvec" else 1e-6
        np.testing.assert_allclose(found, expected, atol=tolerance)


def jobs(connection: Connection, store: str = "embver_docs_v1") -> int:
    """Rows of a store's queue."""
    return int(value(connection, f"SELECT count(*) FROM {store}.job"))


def encode(text: str, encoder: str = "hash:8") -> codec.Vector:
    """The query vector of a text."""
    return codec.Vector(load(encoder).encode_queries([text])[0])


def refused(
    connection: Connection, code: str, statement: str, parameters: Sequence[Any] = ()
) -> psycopg.errors.Diagnostic:
    """What the server says when it refuses a statement with this SQLSTATE."""
    with pytest.raises(psycopg.Error) as failure:
        run(connection, statement, parameters)
    assert failure.value.sqlstate == code, str(failure.value)
    return failure.value.diag
