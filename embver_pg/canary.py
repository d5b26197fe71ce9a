"""The canary of a version in the database: read, stored once, compared with an encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from embver_pg.db import Database, Row
from embver_pg.encoders import Encoder
from embver_pg.encoders.probes import Probes, deviation, encode_probes
from embver_pg.errors import SpaceChanged

STORE = "SELECT embver_internal.store_canary(%s, %s, %s::text[], %s::text[], %s)"


@dataclass(frozen=True)
class Canary:
    """The probes of a version.

    Attributes:
        collection: The collection's name.
        version: The version's number.
        probes: The texts and their vectors.
        read_at: The server's time when they were read.
    """

    collection: str
    version: int
    probes: Probes
    read_at: datetime


def arguments(probes: Probes) -> tuple[list[str], list[str]]:
    """Texts and vectors as ``store_canary`` takes them; nothing but ASCII."""
    vectors = ["{" + ",".join(str(x) for x in row) + "}" for row in probes.vectors]
    return [json.dumps(text) for text in probes.texts], vectors


def read(database: Database, collection: str, version: int) -> Canary | None:
    """The canary of a version; None where it has none yet."""
    return _read(database, "k.name = %s AND c.version = %s", (collection, version))


def read_by_fingerprint(database: Database, fingerprint: str) -> Canary | None:
    """The oldest canary of a space that has a store; None where there is none."""
    return _read(
        database,
        "(c.collection_id, c.version) = (SELECT x.collection_id, x.version"
        " FROM embver_internal.version AS v"
        " INNER JOIN embver_internal.canary AS x USING (collection_id, version)"
        " WHERE v.fingerprint = %s AND v.state <> 'dropped'"
        " ORDER BY x.stored_at, x.collection_id, x.version LIMIT 1)",
        (fingerprint,),
    )


def store(database: Database, collection: str, version: int, encoder: Encoder, reason: str) -> bool:
    """Give a version that has no canary the one that its encoder makes now.

    Returns:
        False where somebody else was first.
    """
    texts, vectors = arguments(encode_probes(encoder))
    return bool(database.value(STORE, (collection, version, texts, vectors, reason)))


def compare(encoder: Encoder, canary: Canary, *, verified_at: datetime | None = None) -> None:
    """Refuse an encoder that is not the one that the canary was made with.

    Args:
        encoder: The encoder.
        canary: What it said when the version was made.
        verified_at: When it was last found to be the same, for the error's detail.

    Raises:
        SpaceChanged: A probe is further away than other hardware explains.
        EmbverError: The encoder cannot answer.
    """
    found = deviation(encoder, canary.probes)
    if not found.is_changed:
        return
    detail: dict[str, Any] = {
        "collection": canary.collection,
        "version": canary.version,
        "cosine": found.cosine,
        "probe": found.probe,
        "tolerance": found.tolerance,
        "verified_at": verified_at.isoformat() if verified_at else None,
    }
    raise SpaceChanged(
        f"The model behind {encoder.spec.provider}:{encoder.spec.model} has changed: probe"
        f" {found.probe} of version {canary.version} of {canary.collection!r} has cosine"
        f" {found.cosine:.6f} to what it was.",
        detail=detail,
        hint="Bring the old model back, or add a version for the new one under a name of its own:"
        f" embver version add {canary.collection} ENCODER -o alias=NEW-NAME",
    )


def _read(database: Database, condition: str, parameters: tuple[Any, ...]) -> Canary | None:
    rows: list[Row] = database.rows(
        "SELECT k.name, c.version, c.probe, c.probe_text, c.vector, clock_timestamp() AS read_at"
        " FROM embver_internal.canary AS c"
        " INNER JOIN embver_internal.collection AS k ON k.collection_id = c.collection_id"
        f" WHERE {condition} ORDER BY c.probe",
        parameters,
    )
    if not rows:
        return None
    probes = Probes(
        tuple(json.loads(row["probe_text"]) for row in rows),
        np.array([row["vector"] for row in rows], dtype=np.float32),
        tuple(row["probe"] for row in rows),
    )
    return Canary(rows[0]["name"], rows[0]["version"], probes, rows[0]["read_at"])
