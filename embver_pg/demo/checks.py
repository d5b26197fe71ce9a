"""Whether what was written is there: every document, by its vector and by a search."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from embver_pg.client import Collection
from embver_pg.demo.material import TABLE, Material

K = 10


def lost(
    collection: Collection, material: Material, version: int, written: Mapping[str, str | None]
) -> list[str]:
    """Which written documents a version does not have as they were left.

    A document is there when the source has the body that was written last, the version's store
    has a vector of exactly this content, and a search for its own text finds it among the first
    ten. A deleted one must be in neither.

    Args:
        collection: The collection.
        material: What it is made of.
        version: A live version, with nothing in its queue.
        written: The last body by key; None where the document was deleted.

    Returns:
        Their keys.
    """
    query = sql.SQL(
        "SELECT k.name, d.body, {content} AS content, e.{key} IS NOT NULL AS stored,"
        " e.content_hash = embver.hash({content}) AS fresh"
        " FROM unnest(%s::text[]) AS k (name)"
        " LEFT JOIN {table} AS d ON d.{key} = k.name"
        " LEFT JOIN {store}.embedding AS e ON e.{key} = k.name"
    ).format(
        content=sql.SQL(material.content),
        key=sql.Identifier(material.key),
        table=sql.Identifier(TABLE),
        store=sql.Identifier(f"embver_{collection.name}_v{version}"),
    )
    rows = {row["name"]: row for row in collection.embver.database.rows(query, ([*written],))}
    missing = []
    present: list[str] = []
    for name, body in written.items():
        row = rows[name]
        if row["body"] != body or row["stored"] != (body is not None):
            missing.append(name)
        elif body is not None:
            (present if row["fresh"] else missing).append(name)
    described = collection.version(version)
    encoder = collection.embver.encoder(described["encoder"], described["fingerprint"])
    vectors = encoder.encode_documents([rows[name]["content"] for name in present])
    for name, vector in zip(present, vectors, strict=True):
        hits = collection.search_vector(version, vector, k=K, mode="single")
        if name not in {hit.id for hit in hits}:
            missing.append(name)
    return missing
