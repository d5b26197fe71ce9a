"""From pairs to a bridge in use: read, fit, record, compute the norms."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
from psycopg import sql
from psycopg.types.json import Jsonb

from embver_pg import codec
from embver_pg.bridge.fit import Fit, fit, norms
from embver_pg.db import Database, Row, store_function
from embver_pg.errors import InvalidArgument

MOST_PAIRS = 20_000
_PAGE = 2000  # vectors at once: a few megabytes
_WAIT = 0.1  # seconds until another look at what somebody else computes


def build(
    database: Database, collection: str, version: int | None = None, older: int | None = None
) -> Row:
    """Fit the map from an older version's vectors, record it, and fill its norms.

    Interrupted, it leaves what serves as it is; called again, it fits anew.

    Args:
        database: Where the collection is.
        collection: Its name.
        version: The newer version; default the target of the newest rollout.
        older: The older version; default that rollout's, or the active one.

    Returns:
        The row of ``embver.bridges``.

    Raises:
        InvalidArgument: There is no such pair of versions, or no bridge between them.
    """
    newer = _versions(database, collection, version, older)
    store, number, source = newer["store"], newer["version"], newer["older"]
    try:
        fitted, coverage = _fitted(database, store, source)
    except InvalidArgument as refusal:
        database.rows(
            "SELECT embver_internal.refuse_bridge(%s, %s, %s, %s)",
            (collection, number, source, refusal.detail["reason"]),
        )
        raise
    bridge = _record(database, store, source, fitted, coverage)
    _fill(database, store, bridge, fitted)
    row = database.row(
        "SELECT * FROM embver.bridges WHERE collection = %s AND version = %s AND bridge_id = %s",
        (collection, number, bridge),
    )
    assert row is not None
    return row


def _versions(database: Database, collection: str, version: int | None, older: int | None) -> Row:
    row = database.row(
        "SELECT v.version, v.store, coalesce(%s::int, r.from_version, c.active) AS older"
        " FROM embver.versions v JOIN embver.collections c ON c.name = v.collection"
        " LEFT JOIN LATERAL (SELECT x.from_version FROM embver.rollouts x"
        "   WHERE x.collection = v.collection AND x.to_version = v.version"
        "   ORDER BY x.rollout_id DESC LIMIT 1) r ON true"
        " WHERE v.collection = %s AND v.state <> 'dropped' AND v.version = coalesce(%s::int,"
        "   (SELECT x.to_version FROM embver.rollouts x WHERE x.collection = v.collection"
        "    ORDER BY x.rollout_id DESC LIMIT 1))",
        (older, collection, version),
    )
    if row is None or row["older"] is None:
        raise InvalidArgument(
            "A bridge leads from one version to another; there are no two.",
            detail={"collection": collection, "version": version, "older": older},
            hint=f"embver rollout start {collection} VERSION",
        )
    return row


def _fitted(database: Database, store: str, older: int) -> tuple[Fit, float]:
    """The fit, and the share of the older version that is in both."""
    query = sql.SQL("SELECT * FROM {}(%s, %s)").format(store_function(store, "bridge_pairs"))
    with database.connection() as connection:
        # Binary: the vectors come as they are, not as text of twice the length.
        found = connection.execute(query, (older, MOST_PAIRS), binary=True).fetchone()
    assert found is not None
    if found["problem"] is not None:
        raise InvalidArgument(
            f"No bridge can be fitted: {found['problem']}.",
            detail={"reason": found["problem"], "older": older},
        )
    pairs: int = found["pairs"]
    return (
        fit(_vectors(found["older_vectors"], pairs), _vectors(found["newer_vectors"], pairs)),
        float(found["coverage"]),
    )


def _vectors(packed: bytes | None, count: int) -> npt.NDArray[np.float32]:
    """``[count, d]`` of vectors that come one after the other, big-endian."""
    flat = np.frombuffer(packed or b"", ">f4").astype(np.float32)
    return flat.reshape(count, len(flat) // count if count else 0)


def _record(database: Database, store: str, older: int, fitted: Fit, coverage: float) -> int:
    query = sql.SQL("SELECT {}(%s, %s, %s, %s, %s, %s, %s, %s, %s)").format(
        store_function(store, "record_bridge")
    )
    provenance = {"cosine_low": fitted.cosine_low, "most_pairs": MOST_PAIRS}
    return int(
        database.value(
            query,
            (
                older,
                codec.Vector(fitted.x_mean),
                codec.Vector(fitted.y_mean),
                codec.vector_array(fitted.weights),
                fitted.pairs,
                fitted.penalty,
                fitted.cosine,
                coverage,
                Jsonb(provenance),
            ),
        )
    )


def _fill(database: Database, store: str, bridge: int, fitted: Fit) -> None:
    """Compute norms until the bridge is in use, or another fit replaced it."""
    claim = sql.SQL("SELECT * FROM {}(%s, %s)").format(store_function(store, "claim_norm_page"))
    record = sql.SQL("SELECT {}(%s, %s::int[], %s::real[])").format(
        store_function(store, "record_norms")
    )
    while True:
        with database.connection() as connection:
            page = connection.execute(claim, (bridge, _PAGE), binary=True).fetchone()
        assert page is not None
        if page["page"] is not None:
            lengths = norms(fitted, _vectors(page["older_vectors"], len(page["items"])))
            database.rows(record, (page["page"], page["items"], lengths.tolist()))
        elif page["state"] == "filling":
            time.sleep(_WAIT)
        else:
            return
