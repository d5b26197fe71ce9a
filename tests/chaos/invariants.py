"""What must hold when the dust has settled: drained, every live store is encode(source)."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import numpy as np
import psycopg

from embver_pg.db import Row, open_connection
from tests.chaos.changes import Model
from tests.chaos.faults import Scene
from tests.chaos.reader import encode
from tests.chaos.world import DIMENSIONS
from tests.waiting import PATIENCE


def drain(scene: Scene) -> None:
    """Let the workers finish.

    Raises:
        AssertionError: They do not come to rest.
    """
    with open_connection(scene.admin_url) as connection:
        connection.execute("UPDATE slow SET seconds = 0, who = NULL")
        with suppress(psycopg.DatabaseError):  # nothing is paused
            connection.execute("SELECT embver.resume_rollout('docs')")
        for version in DIMENSIONS:
            # Of stragglers whom the server's end kept from completing.
            connection.execute(
                f"UPDATE embver_docs_v{version}.lease SET lease_expires_at = now() - interval '1 s'"
                " WHERE lease_expires_at > clock_timestamp() + interval '60 s'".encode()
            )
        deadline = time.monotonic() + PATIENCE
        while not all(_is_idle(connection, version) for version in live(connection)):
            scene.crew.tend()
            if time.monotonic() > deadline:
                states = {v: _status(connection, v) for v in live(connection)}
                raise AssertionError(f"the queues do not come to rest: {states}")
            time.sleep(0.06)
    scene.record.say("drained")


def check(scene: Scene, model: Model) -> None:
    """Invariants 1 to 3, exactly.

    Args:
        scene: Drained.
        model: What the application knows to be committed.

    Raises:
        AssertionError: One is broken.
    """
    with open_connection(scene.admin_url) as connection:
        rows = connection.execute("SELECT id, body FROM docs").fetchall()
        assert {row["id"]: row["body"] for row in rows} == model, "a committed change is lost"
        texts = {key: body for key, body in sorted(model.items()) if body}
        versions = live(connection)
        assert versions, "a version serves"
        for version in versions:
            _check_version(connection, version, texts)
        pointer = connection.execute(
            "SELECT count(*) FILTER (WHERE state = 'active') AS n FROM embver.versions"
        ).fetchone()
        assert pointer == {"n": 1}


def _check_version(
    connection: psycopg.Connection[Row], version: int, texts: dict[int, str]
) -> None:
    verified = connection.execute("SELECT * FROM embver.verify('docs', %s)", (version,)).fetchone()
    assert verified == {"missing": 0, "stale": 0, "orphaned": 0}, f"version {version}: {verified}"
    stored = {
        row["id"]: json.loads(row["vector"])
        for row in connection.execute(
            f"SELECT id, embedding::text AS vector FROM embver_docs_v{version}.embedding".encode()
        )
    }
    assert stored.keys() == texts.keys(), f"version {version}: {stored.keys() ^ texts.keys()}"
    if texts:
        np.testing.assert_allclose(
            np.array([stored[key] for key in texts]),
            encode(DIMENSIONS[version], list(texts.values())),
            atol=1e-6,
            err_msg=f"version {version}",
        )
    for table in ("job", "lease"):
        left = connection.execute(
            f"SELECT count(*) AS n FROM embver_docs_v{version}.{table}".encode()
        ).fetchone()
        assert left == {"n": 0}, f"version {version}: {left} in {table}"


def live(connection: psycopg.Connection[Row]) -> list[int]:
    """The live versions."""
    rows = connection.execute(
        "SELECT version FROM embver.versions"
        " WHERE state IN ('filling', 'ready', 'active', 'fallback') ORDER BY version"
    ).fetchall()
    return [row["version"] for row in rows]


def _status(connection: psycopg.Connection[Row], version: int) -> Row:
    store = f"embver_docs_v{version}"
    row = connection.execute(
        "SELECT q.*, w.phase, w.waiting_for, w.rewalk_requested"
        f" FROM {store}.queue_status() q, {store}.walk_status() w".encode()
    ).fetchone()
    assert row is not None
    return row


def _is_idle(connection: psycopg.Connection[Row], version: int) -> bool:
    """Whether nothing is left to do; dead letters are tried again, now that all is well."""
    status = _status(connection, version)
    if status["dead"]:
        connection.execute("SELECT embver.requeue('docs', %s, 'failed')", (version,))
        return False
    queued = status["ready"] + status["waiting"] + status["leased"]
    return queued == 0 and status["phase"] == "done" and not status["rewalk_requested"]
