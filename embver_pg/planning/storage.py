"""How large a store and its index will be, from the layout of their pages.

Formulas after PostgreSQL's page layout and TOAST, and pgvector 0.8 (``hnsw.h``: element and
neighbour tuples). Held against built ones by a test: within a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_PAGE = 8192
_HEADER = 24  # of a page, and of a row
_POINTER = 4  # to a row, in a page
_SPECIAL = 8  # at the end of a page of an HNSW index
_TOASTED_FROM = 2032  # bytes of a row beyond which its vector moves out
_TOAST_CHUNK = 1996  # bytes of a value in a row of TOAST; four fill a page
_HNSW_ELEMENT = 72  # before the vector: flags, ten row places, the place of the neighbours
_HNSW_PLACE = 6  # of one neighbour
_FILL = 0.9  # of the pages of a B-tree
_DEFAULT_M = 16


def vector_bytes(dimensions: int, element_type: str) -> int:
    """The size of one vector in bytes: 8 and 4 (``vector``) or 2 (``halfvec``) a dimension."""
    return 8 + dimensions * (4 if element_type == "vector" else 2)


def table_bytes(
    rows: int,
    dimensions: int,
    element_type: str,
    key_bytes: int = 8,
    *,
    is_chunked: bool = False,
) -> int:
    """The store's table of vectors, with TOAST and primary key.

    Args:
        rows: Vectors.
        dimensions: Of a vector.
        element_type: ``vector`` or ``halfvec``.
        key_bytes: Of the source's key columns.
        is_chunked: Whether rows say where their chunk stands.
    """
    vector = vector_bytes(dimensions, element_type)
    fixed = _HEADER + _align(key_bytes + 4) + 33 + 2 * 8  # chunk, hash, time, lease
    fixed += 3 * 4 if is_chunked else 8  # three numbers, or the map that says that they are NULL
    row = _align(fixed + vector)
    toast = 0.0
    if row > _TOASTED_FROM:
        row = _align(fixed + 18)
        toast = _toast_bytes(vector)
    in_a_page = (_PAGE - _HEADER) // (row + _POINTER)
    primary = (8 + _align(key_bytes + 4) + _POINTER) / _FILL
    return math.ceil(rows / in_a_page) * _PAGE + math.ceil(rows * (toast + primary))


def index_bytes(rows: int, dimensions: int, element_type: str, index: Mapping[str, Any]) -> int:
    """The HNSW index; 0 where the version has none.

    Args:
        rows: Vectors.
        dimensions: Of a vector.
        element_type: ``vector`` or ``halfvec``.
        index: Such as ``{"type": "hnsw", "m": 16}``.
    """
    if index.get("type") == "none":
        return 0
    m = int(index.get("m", _DEFAULT_M))
    usable = _PAGE - _HEADER - _SPECIAL
    element = _align(_HNSW_ELEMENT + vector_bytes(dimensions, element_type)) + _POINTER
    # 2 m neighbours on the lowest layer, and m on each of 1 / (m - 1) layers more on average.
    neighbours = _align(4 + 2 * m * _HNSW_PLACE) + _POINTER + m * _HNSW_PLACE / (m - 1)
    if element + neighbours > usable:
        return math.ceil(rows * 2 * _PAGE)
    return math.ceil(rows / (usable // (element + neighbours))) * _PAGE + _PAGE


def table_formula(dimensions: int, element_type: str) -> str:
    """How :func:`table_bytes` comes about, for people."""
    each = 4 if element_type == "vector" else 2
    vector = vector_bytes(dimensions, element_type)
    where = "in TOAST" if vector > _TOASTED_FROM - 90 else "in the row"
    return (
        f"a vector is 8 + {each} × {dimensions} = {vector} bytes, {where}; key, hash, time, row"
        " header, primary key and whole pages added"
    )


def index_formula(dimensions: int, element_type: str, index: Mapping[str, Any]) -> str:
    """How :func:`index_bytes` comes about, for people."""
    if index.get("type") == "none":
        return "no index"
    m = int(index.get("m", _DEFAULT_M))
    return (
        f"a node is 72 + {vector_bytes(dimensions, element_type)} bytes and 6 × (2 × {m} +"
        f" {m} / {m - 1}) of neighbours, in whole pages of 8192"
    )


def _toast_bytes(value: int) -> float:
    """What a value takes in TOAST, with its index: chunks fill pages in order, none is cut."""
    whole, rest = divmod(value, _TOAST_CHUNK)
    chunks = [_TOAST_CHUNK] * whole + ([rest] if rest else [])
    pages, left, values = 0, 0, 60
    for chunk in chunks * values:
        size = _align(chunk + 36) + _POINTER
        if size > left:
            pages, left = pages + 1, _PAGE - _HEADER
        left -= size
    return pages * _PAGE / values + len(chunks) * 20 / _FILL


def _align(size: int) -> int:
    return -(-size // 8) * 8
