"""Vectors between numpy and pgvector, compared with pgvector's own text form."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from embver_pg import codec
from embver_pg.db import Row

FORMS = [("vector", np.float32), ("halfvec", np.float16)]


def sample(count: int, dimensions: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((count, dimensions)).astype(np.float32)


@pytest.mark.parametrize(("name", "kind"), FORMS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (64, 384), (2, 2000)])
@pytest.mark.parametrize("nulls", [0, 2])
def test_arrays_arrive_as_sent(
    owner: psycopg.Connection[Row], name: str, kind: type, shape: tuple[int, int], nulls: int
) -> None:
    vectors = sample(*shape)
    parameter = codec.vector_array(vectors, nulls, name)
    rows = owner.execute(
        "SELECT v::text AS v, pg_typeof(v)::text AS kind FROM unnest(%s) AS u (v)", (parameter,)
    ).fetchall()
    assert len(rows) == shape[0] + nulls
    assert {row["kind"] for row in rows} == {name}
    assert [row["v"] for row in rows[shape[0] :]] == [None] * nulls
    found: NDArray[Any] = np.array([json.loads(row["v"]) for row in rows[: shape[0]]], kind)
    np.testing.assert_array_equal(found, vectors.astype(kind))


@pytest.mark.parametrize("name", ["vector", "halfvec"])
@pytest.mark.parametrize("nulls", [0, 3])
def test_arrays_without_a_vector(owner: psycopg.Connection[Row], name: str, nulls: int) -> None:
    parameter = codec.vector_array(np.zeros((0, 8), dtype=np.float32), nulls, name)
    row = owner.execute("SELECT coalesce(array_length(%s, 1), 0) AS n", (parameter,)).fetchone()
    assert row == {"n": nulls}


def test_a_single_vector(owner: psycopg.Connection[Row]) -> None:
    (values,) = sample(1, 5)
    row = owner.execute("SELECT %s::text AS v", (codec.Vector(values),)).fetchone()
    assert row is not None
    np.testing.assert_array_equal(np.array(json.loads(row["v"]), dtype=np.float32), values)


def test_any_float_kind_and_layout_will_do(owner: psycopg.Connection[Row]) -> None:
    wide = np.asfortranarray(sample(4, 6).astype(np.float64))
    row = owner.execute(
        "SELECT (%s)[4]::text AS v",
        (codec.vector_array(wide),),  # type: ignore[arg-type]
    ).fetchone()
    assert row is not None
    np.testing.assert_allclose(json.loads(row["v"]), wide[3], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_server_refuses_what_is_not_finite(
    owner: psycopg.Connection[Row], value: float
) -> None:
    vectors = np.array([[1.0, value]], dtype=np.float32)
    with pytest.raises(psycopg.errors.DataException):
        owner.execute("SELECT %s", (codec.vector_array(vectors),))


def test_the_packed_form_is_pgvectors(owner: psycopg.Connection[Row]) -> None:
    vectors = sample(1, 3)
    for name in ("vector", "halfvec"):
        text = json.dumps(vectors[0].tolist())
        row = owner.execute(f"SELECT {name}_send(%s::{name}) AS sent", (text,)).fetchone()
        assert row is not None
        assert codec.pack(vectors, name)[4:] == bytes(row["sent"])
