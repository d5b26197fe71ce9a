"""Queries to measure with: those of a golden set first, then vectors that are stored already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import sql

from embver_pg.db import Database, Row
from embver_pg.encoders import Encoder, Vectors
from embver_pg.errors import InvalidArgument
from embver_pg.evaluation.golden import read_stored

NOISE = 0.3
"""Length of the noise, in lengths of the vector: a query near a document, but not the document."""


@dataclass(frozen=True)
class QuerySample:
    """The same queries in the spaces of one or more versions.

    Attributes:
        vectors: For each version ``[golden + stored, d] float32``, golden queries first.
        golden: How many are queries of the golden set, encoded.
        stored: How many are vectors of documents.
    """

    vectors: tuple[Vectors, ...]
    golden: int
    stored: int

    def __len__(self) -> int:
        return self.golden + self.stored


def sample_queries(
    database: Database,
    collection: str,
    versions: Sequence[Row],
    *,
    count: int,
    golden_set: str | None = None,
    encoder: Callable[[Row], Encoder] | None = None,
    noise: float = 0.0,
) -> QuerySample:
    """Draw queries for some versions.

    Args:
        database: Where the collection is.
        collection: Its name.
        versions: Rows of ``embver.versions``; each query is drawn in every one's space.
        count: How many, at most.
        golden_set: Its name; default the newest, if there is one.
        encoder: Gives a version's encoder; without it only stored vectors are drawn.
        noise: Length of what is added to stored vectors, in lengths of the vector.

    Raises:
        InvalidArgument: There is no golden set of this name, or nothing to draw.
    """
    texts: list[str] = []
    known = encoder is not None and database.value(
        "SELECT EXISTS (SELECT FROM embver.golden_sets WHERE collection = %s)", (collection,)
    )
    if encoder is not None and (golden_set is not None or known):
        _, golden = read_stored(database, collection, golden_set)
        texts = [query.text for query in golden[:count]]
    spaces: list[list[Any]] = [[] for _ in versions]
    if texts and encoder is not None:
        for space, row in zip(spaces, versions, strict=True):
            space.extend(encoder(row).encode_queries(texts))
    stored = _stored(database, collection, versions, count - len(texts))
    for space, vectors in zip(spaces, stored, strict=True):
        space.extend(_perturbed(vectors, noise))
    if not spaces[0]:
        raise InvalidArgument(
            f"There is no vector in {versions[0]['store']} to query with.",
            detail={"collection": collection, "version": versions[0]["version"]},
            hint="Fill the version first: embver worker --drain",
        )
    return QuerySample(
        tuple(np.array(space, dtype=np.float32) for space in spaces), len(texts), len(stored[0])
    )


def _perturbed(vectors: list[list[float]], length: float, seed: int = 0) -> list[Any]:
    """Vectors with noise of ``length`` times their own length."""
    if not vectors:
        return []
    found = np.array(vectors, dtype=np.float32)
    noise = np.random.default_rng(seed).standard_normal(found.shape).astype(np.float32)
    noise *= length / np.linalg.norm(noise, axis=1, keepdims=True)
    return list(found + np.linalg.norm(found, axis=1, keepdims=True) * noise)


def _stored(
    database: Database, collection: str, versions: Sequence[Row], count: int
) -> list[list[Any]]:
    """Vectors of the same random documents in every version's store."""
    if count < 1:
        return [[] for _ in versions]
    names = database.value(
        "SELECT key_columns FROM embver.collections WHERE name = %s", (collection,)
    )
    keys = sql.SQL(", ").join(sql.Identifier(name) for name in (*names, "chunk"))
    stores = [sql.Identifier(row["store"], "embedding") for row in versions]
    tables = sql.SQL("{} AS e0").format(stores[0])
    for number, store in enumerate(stores[1:], start=1):
        tables += sql.SQL(" INNER JOIN {} AS {} USING ({})").format(
            store, sql.Identifier(f"e{number}"), keys
        )
    columns = [
        sql.SQL("{}::real[] AS {}").format(
            sql.Identifier(f"e{number}", "embedding"), sql.Identifier(f"v{number}")
        )
        for number in range(len(stores))
    ]
    rows = database.rows(
        sql.SQL("SELECT {} FROM {} ORDER BY random() LIMIT %s").format(
            sql.SQL(", ").join(columns), tables
        ),
        (count,),
    )
    return [[row[f"v{number}"] for row in rows] for number in range(len(stores))]
