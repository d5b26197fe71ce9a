"""Do vectors that exist agree with the encoder that is said to have made them? On a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embver_pg.db import Row
from embver_pg.encoders import Encoder, RejectedInputError, checked
from embver_pg.errors import DimensionMismatch, EmbverError, InvalidArgument, SpaceChanged

_Z = 1.959964  # of a two-sided 95 % interval
_LENGTH = 0.01  # by how much a length may differ where the metric is not the cosine
Figures = dict[str, Any]


@dataclass(frozen=True)
class Agreement:
    """When the sample agrees with the encoder.

    Attributes:
        sample: How many random documents are encoded.
        min_share: The share of them whose vectors must be the encoder's.
        min_cosine: From what cosine on two vectors of a text count as the same.
    """

    sample: int = 64
    min_share: float = 0.95
    min_cosine: float = 0.99

    def __post_init__(self) -> None:
        if not 1 <= self.sample <= 100_000:
            raise _out_of_range("sample", self.sample, "1 to 100000")
        for name in ("min_share", "min_cosine"):
            if not 0 < getattr(self, name) <= 1:
                raise _out_of_range(name, getattr(self, name), "above 0, at most 1")


def compare(
    rows: Sequence[Row], encoder: Encoder, metric: str, agreement: Agreement, name: str
) -> Figures:
    """How far sampled vectors are those that the encoder makes of the same texts.

    Args:
        rows: ``content``, ``dimensions`` and ``vector_values`` of each document.
        encoder: The encoder.
        metric: ``cosine``; for the others the lengths of the vectors must agree too.
        agreement: What is asked.
        name: What the vectors are called in errors.

    Returns:
        The figures, ``passed`` among them; ``interval`` is Wilson's, of 95 %.
    """
    fitting = [row for row in rows if row["dimensions"] == encoder.dimensions]
    usable = [row for row in fitting if any(row["vector_values"])]
    encoded, stored, rejected = _encodable(usable, checked(encoder, cosine=True))
    if not len(stored):
        _refuse_empty(rows, encoder.dimensions, name)
    expected = encoded.astype(np.float64)
    lengths = np.linalg.norm(stored, axis=1), np.linalg.norm(expected, axis=1)
    cosines = np.einsum("ij,ij->i", stored, expected) / (lengths[0] * lengths[1])
    agrees = cosines >= agreement.min_cosine
    if metric != "cosine":
        agrees &= np.abs(lengths[0] / lengths[1] - 1) <= _LENGTH
    count, total = int(agrees.sum()), len(agrees)
    return {
        "passed": bool(count >= agreement.min_share * total),
        "documents": total,
        "agree": count,
        "share": round(count / total, 4),
        "interval": [round(bound, 4) for bound in wilson_interval(count, total)],
        "median_cosine": round(float(np.median(cosines)), 6),
        "lowest_cosine": round(float(cosines.min()), 6),
        "min_share": agreement.min_share,
        "min_cosine": agreement.min_cosine,
        "other_dimensions": len(rows) - len(fitting),
        "rejected": rejected,
    }


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share of which ``count`` of ``total`` were seen (Wilson, 1927)."""
    share, square = count / total, _Z * _Z
    centre = (share + square / (2 * total)) / (1 + square / total)
    spread = share * (1 - share) / total + square / (4 * total * total)
    half = _Z / (1 + square / total) * math.sqrt(spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def refusal(figures: Figures, collection: str, name: str) -> SpaceChanged:
    """The error for vectors that do not agree with the encoder."""
    low, high = figures["interval"]
    # A few agree by chance, or because an empty text has one vector only.
    other = high < figures["min_share"] / 2
    kind = "of another model" if other else "mixed, or of older texts"
    return SpaceChanged(
        f"The vectors in {name} are {kind}: of {figures['documents']} sampled documents"
        f" {figures['agree']} have the encoder's vector ({figures['share']:.0%}, 95 % interval"
        f" {low:.0%} to {high:.0%}; {figures['min_share']:.0%} is asked for).",
        detail={"reason": "other_model" if other else "mixed", "origin": name, **figures},
        hint="Name the encoder, revision and prompts that made them, or what is out of date by"
        f" --stale-where; to encode everything anew: embver version add {collection} ENCODER",
    )


def _encodable(rows: Sequence[Row], encoder: Encoder) -> tuple[Any, Any, int]:
    """Vectors of the encoder and stored ones, ``[n, d]`` each; and how many texts it rejects."""
    if not rows:
        return np.zeros((0, 0)), np.zeros((0, 0)), 0
    kept = list(rows)
    try:
        encoded = encoder.encode_documents([row["content"] for row in rows])
    except RejectedInputError:
        kept, vectors = [], []
        for row in rows:
            try:
                vectors.append(encoder.encode_documents([row["content"]])[0])
                kept.append(row)
            except RejectedInputError:
                continue
        encoded = np.array(vectors, dtype=np.float32)
    stored = np.array([row["vector_values"] for row in kept], dtype=np.float64)
    return encoded, stored, len(rows) - len(kept)


def _refuse_empty(rows: Sequence[Row], dimensions: int, name: str) -> None:
    others = sorted({row["dimensions"] for row in rows})
    if others and dimensions not in others:
        raise DimensionMismatch(
            f"The vectors in {name} have {', '.join(map(str, others))} dimensions,"
            f" the encoder's {dimensions}.",
            detail={"found": others, "expected": dimensions, "origin": name},
            hint="Name the encoder that made them, with its option dimensions where it has one.",
        )
    raise InvalidArgument(
        f"There is no vector in {name} that can be compared with the encoder's.",
        detail={"documents": len(rows), "origin": name},
        hint="Name the column that holds the vectors; where there are none: embver version add",
    )


def _out_of_range(name: str, value: object, expected: str) -> EmbverError:
    return InvalidArgument(
        f"{name} must be {expected}, not {value}.",
        detail={"argument": name, "value": value},
        hint="The defaults are sample=64, min_share=0.95, min_cosine=0.99.",
    )
