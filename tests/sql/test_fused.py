"""Two versions answering together, against the definitions written apart in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from psycopg.types.json import Jsonb

from embver_pg.client import Collection
from tests.conftest import Installed
from tests.sql.support import Connection, drain, encode, refused, register, run, value
from tests.sql.test_bridge_store import fill, record, text

Floats = npt.NDArray[np.float64]
DEPTH = 200
MODES = ("fused", "bridged", "rrf_partial", "rrf", "zscore")
SEARCH = (
    "SELECT * FROM embver_docs.search(ARRAY[embver.query('docs', 1, %s::text::vector),"
    " embver.query('docs', 2, %s::text::vector)], %s, mode => %s, filter => %s,"
    " options => '{\"exact\": true}')"
)


@dataclass(frozen=True)
class World:
    """What two stores hold, and one query of each: all that a mode may look at."""

    old: dict[int, Floats]
    new: dict[int, Floats]
    images: dict[int, Floats]
    probe: Floats
    old_query: Floats
    new_query: Floats
    coverage: float
    weight: float


def top(scores: dict[int, float], depth: int = DEPTH) -> dict[int, float]:
    return dict(sorted(scores.items(), key=lambda x: (-x[1], x[0]))[:depth])


def cosines(vectors: dict[int, Floats], query: Floats) -> dict[int, float]:
    return {
        key: float(v @ query / np.linalg.norm(v) / np.linalg.norm(query))
        for key, v in vectors.items()
    }


def standard(scores: dict[int, float], keys: set[int]) -> dict[int, float]:
    if not scores or (deviation := float(np.std(list(scores.values())))) <= 1e-9:
        return dict.fromkeys(keys, 0.0)
    lowest, mean = min(scores.values()), float(np.mean(list(scores.values())))
    return {key: (scores.get(key, lowest) - mean) / deviation for key in keys}


def reference(world: World, mode: str) -> dict[int, float]:
    """The fused score of each candidate, by EVIDENCE's definitions."""
    c, w = world.coverage, 0.0 if mode == "bridged" else world.weight
    old, new = top(cosines(world.old, world.old_query)), top(cosines(world.new, world.new_query))
    ranks = [{key: i + 1 for i, key in enumerate(part)} for part in (old, new)]
    images = cosines(
        {
            key: world.images[key]
            for key in top(cosines(world.old, world.probe))
            if key not in world.new
        },
        world.new_query,
    )
    bridged = top(new | images)
    if mode in ("fused", "bridged"):
        listed = set(bridged) | (set(old) if mode == "fused" else set())
        z_o, z_b = standard(old, listed), standard(bridged, listed)
        if mode == "bridged":
            z_o = dict.fromkeys(listed, 0.0)
        return {
            key: z_b[key] + (1 - c) * w * (z_o[key] - z_b[key])
            if key in world.new
            else (1 - w) * z_b[key] + w * z_o[key]
            for key in listed
        }
    listed = set(old) | set(new)
    if mode == "zscore":
        z_o, z_n = standard(old, listed), standard(new, listed)
        return {key: w * z_o[key] + (1 - w) * z_n[key] for key in listed}
    if mode == "rrf":
        return {key: sum(1 / (60 + r[key]) for r in ranks if key in r) for key in listed}
    near = list(old)[:100]
    c_q = max((sum(key in world.new for key in near) + 5 * c) / (len(near) + 5), 1e-6)
    return {
        key: (1 / (60 + ranks[1][key] / c_q) if key in ranks[1] else 0.0)
        if key in world.new
        else 1 / (60 + ranks[0][key])
        for key in listed
    }


def fit() -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(3)
    x_mean, y_mean = draw.normal(size=8) * 0.1, draw.normal(size=16) * 0.1
    rows = draw.normal(size=(8, 16))
    return x_mean.astype(np.float32), y_mean.astype(np.float32), rows.astype(np.float32)


@pytest.fixture
def halfway(installed: Installed, owner: Connection) -> Collection:
    """300 documents in version 1; in version 2 every third, made by hand, and a bridge."""
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, n int)")
    run(
        owner,
        "INSERT INTO docs SELECT i, 'w' || i, 'x' || i % 17 || ' y' || i % 5, i % 10"
        " FROM generate_series(1, 300) i",
    )
    with installed.embver() as embver:
        collection = register(embver)
        drain(installed)
        collection.promote()
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(2)
    draw = np.random.default_rng(5)
    for key in range(1, 301):
        # Random and of unit length: no two documents tie.
        vector = draw.normal(size=8)
        run(
            owner,
            "UPDATE embver_docs_v1.embedding SET embedding = %s::text::vector WHERE id = %s",
            (text((vector / np.linalg.norm(vector)).astype(np.float32)), key),
        )
    for key in range(3, 301, 3):
        run(
            owner,
            "INSERT INTO embver_docs_v2.embedding (id, embedding, content_hash, encoded_lease)"
            " VALUES (%s, %s::text::vector, '', 0)",
            (key, text(draw.normal(size=16).astype(np.float32))),
        )
    value(owner, "SELECT embver_docs_v2.measure_coverage()")
    return collection


def world(connection: Connection, queries: tuple[str, str], weight: float = 0.5) -> World:
    stores = [
        {
            row["id"]: np.array(row["v"], dtype=np.float64)
            for row in run(
                connection, f"SELECT id, embedding::real[] v FROM embver_docs_v{n}.embedding"
            )
        }
        for n in (1, 2)
    ]
    x_mean, y_mean, rows = (np.asarray(a, dtype=np.float64) for a in fit())
    images = {key: (v - x_mean) @ rows + y_mean for key, v in stores[0].items()}
    vectors = [np.array([float(x) for x in q[1:-1].split(",")]) for q in queries]
    coverage = value(connection, "SELECT coverage FROM embver_internal.route")
    probe = rows @ vectors[1]
    return World(stores[0], stores[1], images, probe, vectors[0], vectors[1], coverage, weight)


def queries() -> tuple[str, str]:
    new = np.random.default_rng(9).normal(size=16).astype(np.float32)
    return text(encode("w7 x3 y2").values), text(new)


def check(connection: Connection, mode: str, weight: float = 0.5) -> None:
    asked = queries()
    here = world(connection, asked, weight)
    candidates = reference(here, mode)
    expected = top(candidates)
    found = run(connection, SEARCH, (*asked, DEPTH, mode, None))
    assert len(found) == len(expected) == len({row["id"] for row in found})
    for row, (key, score) in zip(found, expected.items(), strict=True):
        # Only where two scores are equal may single precision turn them round.
        assert row["id"] == key or candidates[row["id"]] == pytest.approx(score, abs=1e-6), key
        assert row["score"] == pytest.approx(score, abs=1e-5), key
    assert [row["score"] for row in found] == sorted((r["score"] for r in found), reverse=True)
    assert [row["rank"] for row in found] == list(range(1, len(found) + 1))
    assert {row["distance"] for row in found} <= {None}
    assert all(row["version"] == 1 + (row["id"] in here.new) for row in found)
    few = run(connection, SEARCH, (*asked, 7, mode, None))
    assert [row["id"] for row in few] == [row["id"] for row in found[:7]]


@pytest.mark.both_versions
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_what_its_definition_says(
    owner: Connection, halfway: Collection, mode: str
) -> None:
    assert value(owner, "SELECT coverage FROM embver_internal.route") == pytest.approx(1 / 3)
    bridge = record(owner, fit())
    fill(owner, bridge, fit())
    check(owner, mode)
    # Gone documents, and one that only the newer version has.
    run(owner, "DELETE FROM docs WHERE id BETWEEN 40 AND 80")
    run(owner, "DELETE FROM embver_docs_v1.embedding WHERE id = 90")
    check(owner, mode)


def test_weights_filters_and_the_route(owner: Connection, halfway: Collection) -> None:
    fill(owner, record(owner, fit()), fit())
    halfway.set_route("fused")
    run(owner, "SELECT embver.set_route('docs', 'fused', options => '{\"weight\": 0.2}')")
    assert [row["mode"] for row in halfway.route()] == ["fused", "fused"]
    asked = queries()
    expected = top(reference(world(owner, asked, 0.2), "fused"), 10)
    found = run(owner, SEARCH, (*asked, 10, None, None))
    assert [row["id"] for row in found] == list(expected)
    for mode in (None, *MODES):
        rows = run(owner, SEARCH, (*asked, 100, mode, Jsonb({"n": 3})))
        assert sorted(row["id"] for row in rows) == [i for i in range(1, 301) if i % 10 == 3], mode


def test_without_a_bridge_rrf_partial_answers(owner: Connection, halfway: Collection) -> None:
    rows = run(owner, "SELECT version, mode FROM embver.route('docs', mode => 'bridged')")
    assert rows == [{"version": n, "mode": "rrf_partial"} for n in (1, 2)]
    asked = queries()
    answers = [
        [row["id"] for row in run(owner, SEARCH, (*asked, 20, mode, None))]
        for mode in ("fused", "bridged", "rrf_partial")
    ]
    assert answers[0] == answers[1] == answers[2]


def test_a_query_that_is_missing_names_what_to_encode(
    owner: Connection, halfway: Collection
) -> None:
    one = (
        "SELECT * FROM embver_docs.search(ARRAY[embver.query('docs', {}, %s::text::vector)],"
        " mode => %s)"
    )
    old, new = queries()
    for mode in ("fused", "rrf", "zscore", "rrf_partial"):
        for version, vector in ((1, old), (2, new)):
            diagnostic = refused(owner, "VM012", one.format(version), (vector, mode))
            assert '"encode_for": [1, 2]' in str(diagnostic.message_detail)
    fill(owner, record(owner, fit()), fit())
    diagnostic = refused(owner, "VM012", one.format(1), (old, "bridged"))
    assert '"encode_for": [2]' in str(diagnostic.message_detail)
    assert run(owner, one.format(2), (new, "bridged"))


def test_a_split_is_sticky_and_grows(installed: Installed, owner: Connection) -> None:
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    run(owner, "INSERT INTO docs SELECT i, 'w' || i, 'b' FROM generate_series(1, 5) i")
    with installed.embver() as embver:
        collection = register(embver)
        drain(installed)
        collection.promote()
        refused(owner, "VM011", "SELECT embver.set_route('docs', 'split', 0.5)")
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(2)
        refused(owner, "VM011", "SELECT embver.set_route('docs', 'split', 0.5)")
        drain(installed)
    given = (
        "SELECT array_agg(k) AS keys FROM generate_series(1, 100) k WHERE (SELECT version"
        " FROM embver.route('docs', 'user ' || k)) = 2"
    )
    before: set[int] = set()
    for share in (0, 0.1, 0.5, 0.9, 1):
        run(owner, "SELECT embver.set_route('docs', 'split', %s)", (share,))
        keys = set(value(owner, given) or [])
        assert before <= keys
        assert len(keys) == pytest.approx(100 * share, abs=20)
        assert keys == set(value(owner, given) or [])
        before = keys
    run(
        owner, "SELECT embver.set_route('docs', 'split', 0, options => '{\"allow\": [\"user 7\"]}')"
    )
    assert value(owner, given) == [7]
    # Both versions answer: search follows the query that it gets.
    for version in (1, 2):
        rows = run(
            owner,
            "SELECT version FROM embver_docs.search(ARRAY[embver.query('docs', %s,"
            " %s::text::vector)], 1)",
            (version, text(encode("w1", f"hash:{8 * version}").values)),
        )
        assert rows == [{"version": version}]
    run(owner, "SELECT embver.promote('docs', true, 'test')")
    assert value(owner, "SELECT mode FROM embver_internal.route") == "single"


def test_a_worker_measures_how_far_the_filling_is(
    installed: Installed, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embver_pg.worker.service._LOOK", 0.0)
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    run(owner, "INSERT INTO docs SELECT i, 'w' || i, 'b' FROM generate_series(1, 200) i")
    coverage = "SELECT coverage FROM embver_internal.route"
    seen: list[float] = []

    def look(step: str, figures: dict[str, Any]) -> None:
        if step == "claimed":
            with installed.connect() as own:
                seen.append(value(own, coverage))

    with installed.embver() as embver:
        collection = register(embver)
        drain(installed)
        collection.promote()
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(2)
        embver.drain(batch=10, on_step=look)
    assert seen == sorted(seen)
    # Six leases are in hand at most, and three quarters written when the last ones are claimed.
    assert 0.5 < seen[-1] <= 0.999
    state = "SELECT embver_internal.newer_coverage(r) FROM embver_internal.route AS r"
    assert value(owner, state) == 1


def test_an_empty_source_says_nothing_of_coverage(installed: Installed, owner: Connection) -> None:
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    with installed.embver() as embver:
        collection = register(embver)
        drain(installed)
        collection.promote()
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(2)
    assert value(owner, "SELECT embver_docs_v2.measure_coverage()") is None
    assert value(owner, "SELECT coverage FROM embver_internal.route") == 0
