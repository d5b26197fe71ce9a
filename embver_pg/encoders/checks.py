"""The check of what an encoder returns, before anything is written or searched with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.base import Encoder, RejectedInputError, Vectors
from embver_pg.encoders.blame import blaming
from embver_pg.encoders.wrapped import Wrapped
from embver_pg.errors import DimensionMismatch, InvalidArgument


def validate(vectors: Any, n: int, dimensions: int, *, cosine: bool = False) -> Vectors:
    """What an encoder returned, as a C-contiguous matrix, or the error that describes it.

    Args:
        vectors: What the encoder returned for ``n`` inputs.
        n: The number of inputs.
        dimensions: The length ``d`` that each vector must have.
        cosine: Refuse vectors of length 0, for which the cosine distance is undefined.

    Returns:
        ``[n, d] float32``.

    Raises:
        InvalidArgument: Not a matrix of numbers, or not ``n`` rows.
        DimensionMismatch: Rows of another length.
        RejectedInputError: Rows that are not finite, or zero where ``cosine``;
            ``detail["positions"]`` lists exactly these.
    """
    try:
        with np.errstate(over="ignore"):
            matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"The encoder did not return a matrix of numbers: {error}",
            detail={"type": type(vectors).__name__},
            hint="An encoder returns one vector an input, [n, d] float32.",
        ) from error
    if n == 0 and matrix.size == 0:
        return np.zeros((0, dimensions), dtype=np.float32)
    if matrix.ndim != 2:
        raise InvalidArgument(
            f"The encoder returned an array of shape {list(matrix.shape)} for {n} inputs.",
            detail={"shape": list(matrix.shape), "expected": [n, dimensions]},
            hint="An encoder returns one vector an input, [n, d] float32.",
        )
    if len(matrix) != n:
        raise InvalidArgument(
            f"The encoder returned {len(matrix)} vectors for {n} inputs.",
            detail={"returned": len(matrix), "expected": n},
            hint="An encoder returns one vector an input, in the same order.",
        )
    if matrix.shape[1] != dimensions:
        raise DimensionMismatch(
            f"The encoder returned vectors of {matrix.shape[1]} dimensions, not {dimensions}.",
            detail={"returned": matrix.shape[1], "expected": dimensions},
            hint="Another model answers: add a version for it.",
        )
    _refuse(~np.isfinite(matrix).all(axis=1), "not finite")
    if cosine:
        _refuse(~matrix.any(axis=1), "zero, which has no cosine distance")
    return matrix


def unit_rows(vectors: NDArray[Any]) -> Vectors:
    """Rows scaled to length 1; rows of length 0 or not finite stay, for a later check to refuse.

    Args:
        vectors: ``[n, d]``.

    Returns:
        ``[n, d] float32``.
    """
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    safe = np.where((lengths > 0) & np.isfinite(lengths), lengths, 1.0)
    return np.asarray(wide / safe, dtype=np.float32)


def _refuse(bad: Any, what: str) -> None:
    positions = np.flatnonzero(bad).tolist()
    if positions:
        raise RejectedInputError(
            f"The vectors of {len(positions)} of {len(bad)} inputs are {what}.",
            detail={"positions": positions, "exact": True, "reason": what},
        )


@dataclass(frozen=True, slots=True)
class CheckedEncoder(Wrapped):
    """An encoder whose results went through :func:`validate`."""

    cosine: bool = False

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``."""
        return self._checked(self.inner.encode_documents, texts)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries, ``[n, d] float32``."""
        return self._checked(self.inner.encode_queries, texts)

    def _checked(self, encode: Callable[[Sequence[str]], Vectors], texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        with blaming(self.spec):
            found, dimensions = encode(texts), self.dimensions
        return validate(found, len(texts), dimensions, cosine=self.cosine)


def checked(encoder: Encoder, *, cosine: bool = False) -> Encoder:
    """The encoder, with every result checked by :func:`validate`.

    Args:
        encoder: The encoder to wrap; a checked one is not wrapped twice.
        cosine: Refuse vectors of length 0.
    """
    inner = encoder.inner if isinstance(encoder, CheckedEncoder) else encoder
    return CheckedEncoder(inner, cosine=cosine)
