"""A bridge from the documents that are in both versions: fitted, filled, shown, refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from embver_pg.bridge import build
from embver_pg.errors import InvalidArgument
from tests.conftest import Installed
from tests.sql.support import Connection, drain, register, run, value

OLD, NEW = "embver_docs_v1", "embver_docs_v2"
_VECTORS = "SELECT e.id, e.embedding::real[] AS v FROM {}.embedding e ORDER BY e.id"


def two_versions(
    installed: Installed, owner: Connection, rows: int = 120, *, older: dict[str, Any] | None = None
) -> None:
    """Version 1 (hash:8, active) and version 2 (hash:16), both full."""
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    run(
        owner,
        "INSERT INTO docs SELECT i, 'w' || i %% 11, 'x' || i %% 7 || ' y' || i"
        " FROM generate_series(1, %s) i",
        (rows,),
    )
    with installed.embver() as embver:
        collection = register(embver, **(older or {}))
        drain(installed)
        collection.promote()
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(2)
        drain(installed)


def vectors(connection: Connection, store: str) -> np.ndarray[Any, Any]:
    return np.array([row["v"] for row in run(connection, _VECTORS.format(store))], np.float64)


def test_fit_equals_a_reference_and_is_in_use(installed: Installed, owner: Connection) -> None:
    two_versions(installed, owner)
    with installed.embver() as embver:
        collection = embver.collection("docs")
        assert collection.bridges() == []
        row = collection.fit_bridge()
        assert (row["from_version"], row["version"], row["state"]) == (1, 2, "usable")
        assert (row["pairs"], row["coverage"], row["reason"]) == (120, 1.0, None)
        assert -1 <= row["cosine_low"] <= row["cosine"] <= 1

        # The reference, by numpy from the tables, with the penalty that was chosen.
        x, y = vectors(owner, OLD), vectors(owner, NEW)
        centred = x - x.mean(0)
        weights = np.linalg.solve(
            centred.T @ centred + row["lambda"] * np.eye(8), centred.T @ (y - y.mean(0))
        )
        stored = [
            r["w"]
            for r in run(
                owner,
                f"SELECT row_vector::real[] AS w FROM {NEW}.bridge_row ORDER BY row_number",
            )
        ]
        np.testing.assert_allclose(stored, weights, atol=1e-4)
        lengths = np.linalg.norm(centred @ weights + y.mean(0), axis=1)
        found = run(owner, f"SELECT embver_norm FROM {NEW}.bridge_norm ORDER BY id")
        np.testing.assert_allclose([r["embver_norm"] for r in found], lengths, rtol=1e-3)

        again = collection.fit_bridge(2, 1)
        assert again["bridge_id"] > row["bridge_id"]
        assert [r["state"] for r in collection.bridges()] == ["replaced", "usable"]


def test_only_equal_content_makes_a_pair(installed: Installed, owner: Connection) -> None:
    two_versions(installed, owner)
    run(owner, f"UPDATE {OLD}.embedding SET content_hash = '\\x00' WHERE id <= 20")
    run(owner, f"DELETE FROM {NEW}.embedding WHERE id > 110")
    with installed.embver() as embver:
        row = embver.collection("docs").fit_bridge()
    assert (row["pairs"], row["coverage"]) == (90, 0.75)


def test_refusals_are_kept_with_their_reason(installed: Installed, owner: Connection) -> None:
    two_versions(installed, owner, rows=30)
    with installed.embver() as embver:
        collection = embver.collection("docs")
        with pytest.raises(InvalidArgument, match="too few"):
            collection.fit_bridge()
        shown = collection.bridges()
        assert [(r["state"], r["reason"]) for r in shown] == [("refused", "30 pairs are too few")]
        with pytest.raises(InvalidArgument, match="not live"):
            collection.fit_bridge(2, 2)
        kinds = run(owner, "SELECT reason FROM embver_internal.event WHERE kind = 'refuse_bridge'")
        assert len(kinds) == 2
        run(owner, "INSERT INTO docs SELECT i, 'w' || i, 'x' FROM generate_series(31, 99) i")
        drain(installed)
        collection.fit_bridge()
        assert [r["state"] for r in collection.bridges() if r["from_version"] == 1] == ["usable"]


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_lengths_matter_under_cosine_only(
    installed: Installed, owner: Connection, metric: str
) -> None:
    two_versions(installed, owner, older={"metric": metric})
    run(
        owner,
        f"UPDATE {OLD}.embedding SET embedding = embedding * '[2,2,2,2,2,2,2,2]' WHERE id = 7",
    )
    with installed.embver() as embver:
        collection = embver.collection("docs")
        if metric == "ip":
            assert collection.fit_bridge()["state"] == "usable"
        else:
            with pytest.raises(InvalidArgument, match="unit length"):
                collection.fit_bridge()


def test_versions_that_cut_otherwise_have_none(installed: Installed, owner: Connection) -> None:
    two_versions(installed, owner)
    run(
        owner,
        "UPDATE embver_internal.version"
        """ SET chunker = '{"type": "characters", "size": 20, "overlap": 0}' WHERE version = 1""",
    )
    with installed.embver() as embver, pytest.raises(InvalidArgument, match="cut"):
        embver.collection("docs").fit_bridge()


def test_a_fit_that_was_cut_off_leaves_what_serves(
    installed: Installed, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_versions(installed, owner)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with installed.embver() as embver:
        collection = embver.collection("docs")
        first = collection.fit_bridge()
        with monkeypatch.context() as patch:
            patch.setattr(build, "norms", killed)
            with pytest.raises(KeyboardInterrupt):
                collection.fit_bridge()
        assert [r["state"] for r in collection.bridges()] == ["usable", "filling"]
        last = collection.fit_bridge()
        assert last["state"] == "usable"
        assert [r["state"] for r in collection.bridges()] == ["replaced", "replaced", "usable"]
        assert first["bridge_id"] < last["bridge_id"]


def test_rights(installed: Installed, owner: Connection) -> None:
    two_versions(installed, owner)
    run(owner, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    pairs = f"SELECT pairs FROM {NEW}.bridge_pairs(1, 1000)"
    with installed.connect("worker") as worker:
        assert value(worker, pairs) == 120
    with installed.connect("reader") as reader:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(reader, pairs)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(reader, f"SELECT * FROM {NEW}.claim_norm_page(1)")
