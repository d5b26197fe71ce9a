"""Whether what was written is there: every document, by its vector and by a search."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from embver_pg.client import Collection
from embver_pg.demo.material import TABLE, Material
from embver_pg.encoders import Vectors

K = 10
Known = dict[tuple[int, str], Vectors]
"""Vectors ``[d] float32`` by version and text."""


def lost(
    collection: Collection,
    material: Material,
    version: int,
    written: Mapping[str, str | None],
    known: Known,
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
        known: Encodings made by earlier calls; those made by this one are added.

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
    contents = {name: str(rows[name]["content"]) for name in present}
    new = sorted({text for text in contents.values() if (version, text) not in known})
    for text, vector in zip(new, encoder.encode_documents(new), strict=True):
        known[version, text] = vector
    for name, text in contents.items():
        hits = collection.search_vector(version, known[version, text], k=K, mode="single")
        if name not in {hit.id for hit in hits}:
            missing.append(name)
    return missing
