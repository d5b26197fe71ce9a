"""Vectors between numpy and PostgreSQL: pgvector's binary format, packed without a Python loop.

Formats: ``vector_send`` and ``halfvec_send`` of pgvector (int16 dimensions, int16 unused, then
big-endian floats) and ``array_send`` of PostgreSQL.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.rows import tuple_row

# Of PostgreSQL's own types, whose numbers are fixed (pg_type.dat).
_BYTEA, _BYTEA_ARRAY, _INT, _INT_ARRAY = 17, 1001, 23, 1007
_FLOATS = {"vector": ">f4", "halfvec": ">f2"}


@dataclass(frozen=True, slots=True)
class VectorArray:
    """An array of vectors as a query parameter.

    Attributes:
        vectors: ``[n, d] float32``.
        nulls: NULL elements that follow the vectors.
        element_type: ``vector`` or ``halfvec``.
    """

    vectors: NDArray[np.float32]
    nulls: int = 0
    element_type: str = "vector"


@dataclass(frozen=True, slots=True)
class HalfvecArray(VectorArray):
    """An array of half-precision vectors as a query parameter."""

    element_type: str = "halfvec"


@dataclass(frozen=True, slots=True)
class Vector:
    """One vector as a query parameter, ``[d] float32``."""

    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class IntArray:
    """``n`` numbers as a query parameter, ``int[]``."""

    numbers: Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class ByteaArray:
    """``n`` hashes as a query parameter, ``bytea[]``; none is NULL."""

    values: Sequence[bytes]


def no_vectors(dimensions: int) -> NDArray[np.float32]:
    """``[0, d] float32``."""
    return np.zeros((0, dimensions), dtype=np.float32)


def vector_array(
    vectors: NDArray[np.float32], nulls: int = 0, element_type: str = "vector"
) -> VectorArray:
    """The parameter for a store's element type; see :class:`VectorArray`."""
    cls = HalfvecArray if element_type == "halfvec" else VectorArray
    return cls(vectors, nulls)


def register(connection: psycopg.Connection[Any]) -> None:
    """Teach a connection the parameters of this module; reads the types' numbers once."""
    rows = (
        connection.cursor(row_factory=tuple_row)
        .execute(
            "SELECT t.typname, t.oid::int8, t.typarray::int8 FROM pg_type t"
            " JOIN pg_extension e ON e.extnamespace = t.typnamespace AND e.extname = 'vector'"
            " WHERE t.typname IN ('vector', 'halfvec')"
        )
        .fetchall()
    )
    connection.adapters.register_dumper(IntArray, _IntArrayDumper)
    connection.adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
    for name, number, array_number in rows:
        kind = VectorArray if name == "vector" else HalfvecArray
        connection.adapters.register_dumper(kind, _array_dumper(array_number, number))
        if name == "vector":
            connection.adapters.register_dumper(Vector, _vector_dumper(number))


def pack(vectors: NDArray[np.float32], element_type: str = "vector") -> bytes:
    """The elements of a binary array: for each vector its length in bytes and its binary form."""
    count, dimensions = vectors.shape
    floats = np.dtype(_FLOATS[element_type])
    record = np.dtype(
        [("size", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("values", floats, (dimensions,))]
    )
    packed = np.zeros(count, dtype=record)
    packed["size"] = 4 + dimensions * floats.itemsize
    packed["dim"] = dimensions
    packed["values"] = vectors
    return packed.tobytes()


class _IntArrayDumper(Dumper):
    format = Format.BINARY
    oid = _INT_ARRAY

    def dump(self, value: IntArray) -> bytes:
        packed = np.empty(len(value.numbers), dtype=[("size", ">i4"), ("value", ">i4")])
        packed["size"] = 4
        packed["value"] = value.numbers
        return _header(_INT, len(packed)) + packed.tobytes()


class _ByteaArrayDumper(Dumper):
    format = Format.BINARY
    oid = _BYTEA_ARRAY

    def dump(self, value: ByteaArray) -> bytes:
        count = len(value.values)
        joined = b"".join(value.values)
        size = len(value.values[0]) if count else 0
        if size == 0 or size * count != len(joined) or any(len(v) != size for v in value.values):
            parts = (struct.pack(">i", len(v)) + v for v in value.values)
            return _header(_BYTEA, count) + b"".join(parts)
        packed = np.empty(count, dtype=[("size", ">i4"), ("value", np.void, size)])
        packed["size"] = size
        packed["value"] = np.frombuffer(joined, dtype=np.dtype((np.void, size)))
        return _header(_BYTEA, count) + packed.tobytes()


def _header(element: int, count: int, nulls: int = 0) -> bytes:
    if count == 0:
        return struct.pack(">iiI", 0, 0, element)
    return struct.pack(">iiIii", 1, int(nulls > 0), element, count, 1)


def _array_dumper(number: int, element: int) -> type[Dumper]:
    class VectorArrayDumper(Dumper):
        format = Format.BINARY
        oid = number

        def dump(self, value: VectorArray) -> bytes:
            count = len(value.vectors) + value.nulls
            header = _header(element, count, value.nulls)
            nulls = struct.pack(">i", -1) * value.nulls
            return header + pack(value.vectors, value.element_type) + nulls

    return VectorArrayDumper


def _vector_dumper(number: int) -> type[Dumper]:
    class VectorDumper(Dumper):
        format = Format.BINARY
        oid = number

        def dump(self, value: Vector) -> bytes:
            return pack(np.asarray(value.values, dtype=np.float32)[None, :])[4:]

    return VectorDumper
