"""Versions filled from vectors that exist already: adopted by hand-made columns, or derived.

The vectors are copied in SQL, inside a rollout. Here they are compared with the encoder that is
said to have made them, on a random sample, before anything is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embver_pg import schema, versions
from embver_pg.db import Database, Row
from embver_pg.encoders import Encoder, EncoderSpec, RejectedInputError, checked, load
from embver_pg.errors import DimensionMismatch, EmbverError, InvalidArgument, SpaceChanged

_Z = 1.959964  # of a two-sided 95 % interval
_LENGTH = 0.01  # by how much a length may differ where the metric is not the cosine
Figures = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where the vectors of a version are.

    Attributes:
        kind: ``column`` of the source, side ``table``, or another ``version``.
        details: What ``embver_internal.add_origin`` takes for the kind.
    """

    kind: str
    details: Mapping[str, Any]

    def __str__(self) -> str:
        if self.kind == "version":
            return f"version {self.details['version']}"
        table = f"{self.details['table']}." if self.kind == "table" else ""
        return f"{table}{self.details['column']}"


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


def create_version(
    database: Database,
    collection: str,
    spec: versions.VersionSpec,
    encoder: Encoder,
    origin: Origin,
    agreement: Agreement | None,
) -> int:
    """Register a version with an origin once a sample of it agrees with the encoder.

    No transaction is open while the sample is encoded; where it disagrees nothing is left behind.

    Args:
        database: The database.
        collection: The collection's name.
        spec: What the version is made of.
        encoder: The encoder that is said to have made the vectors.
        origin: Where they are.
        agreement: What is asked of the sample; None: nothing, the copy is exact.

    Returns:
        The version's number.

    Raises:
        SpaceChanged: The vectors are another model's, or mixed; the detail has the figures.
        DimensionMismatch: They have other dimensions.
        InvalidArgument: There are none, or the origin is of a wrong form.
    """
    figures: Figures = {"method": "exact to rounding"}
    if agreement is not None:
        with schema.version_transaction(database.url) as connection:
            rehearsal = connection.begin_nested()
            number = _create(connection, collection, spec, origin)
            rows = _sample(connection, collection, number, agreement.sample)
            rehearsal.rollback()
        figures = compare(rows, encoder, spec.metric, agreement, str(origin))
        if not figures["passed"]:
            raise refusal(figures, collection, str(origin))
    with schema.version_transaction(database.url) as connection:
        number = _create(connection, collection, spec, origin)
        schema.driver(connection).execute(
            "SELECT embver_internal.record_origin_check(%s, %s, true, %s::jsonb)",
            (collection, number, json.dumps(figures)),
        )
    return number


def check_version(
    database: Database, collection: str, row: Row, encoder: Encoder, agreement: Agreement
) -> Figures:
    """Compare a version's origin with its encoder again, and keep the outcome.

    Args:
        database: The database.
        collection: The collection's name.
        row: The version, as ``embver.versions`` shows it.
        encoder: Its encoder.
        agreement: What is asked of the sample.

    Raises:
        SpaceChanged: The vectors are another model's, or mixed.
        InvalidArgument: The version was not adopted or derived, or is filled already.
    """
    number = row["version"]
    found = database.row(
        "SELECT * FROM embver.origins WHERE collection = %s AND version = %s", (collection, number)
    )
    if found is None or found["closed_at"] is not None:
        state = "is filled already" if found else "was neither adopted nor derived"
        raise InvalidArgument(
            f"Version {number} of {collection!r} {state}: there is nothing to check.",
            detail={"collection": collection, "version": number},
            hint=f"embver verify {collection} {number}",
        )
    origin = Origin(found["kind"], found["origin"])
    rows = database.rows(
        "SELECT * FROM embver_internal.sample_origin(%s, %s, %s)",
        (collection, number, agreement.sample),
    )
    figures = compare(rows, encoder, row["metric"], agreement, str(origin))
    database.rows(
        "SELECT embver_internal.record_origin_check(%s, %s, %s, %s::jsonb)",
        (collection, number, figures["passed"], json.dumps(figures)),
    )
    if not figures["passed"]:
        raise refusal(figures, collection, str(origin))
    return figures


def shortened(spec: EncoderSpec, dimensions: int) -> Encoder:
    """The same model with its vectors cut to ``dimensions``.

    Raises:
        InvalidArgument: The encoder cannot do that.
    """
    try:
        encoder = load(replace(spec, dimensions=dimensions))
        found = encoder.dimensions
    except InvalidArgument as error:
        raise _cannot_shorten(spec, dimensions, error.message) from error
    if found != dimensions:
        raise _cannot_shorten(spec, dimensions, f"it makes {found}")
    return encoder


def _cannot_shorten(spec: EncoderSpec, dimensions: int, reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"The encoder {spec.provider}:{spec.model} makes no vectors of {dimensions} dimensions:"
        f" {reason.rstrip('.')}.",
        detail={"encoder": spec.to_json(), "dimensions": dimensions},
        hint="Only a Matryoshka model can be shortened; half precision is always possible:"
        " --element-type halfvec",
    )


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


def _create(connection: Any, collection: str, spec: versions.VersionSpec, origin: Origin) -> int:
    number = versions.create_version(connection, collection, spec)
    schema.driver(connection).execute(
        "SELECT embver_internal.add_origin(%s, %s, %s, %s::jsonb)",
        (collection, number, origin.kind, json.dumps(dict(origin.details))),
    )
    return number


def _sample(connection: Any, collection: str, version: int, limit: int) -> list[Row]:
    cursor = schema.driver(connection).execute(
        "SELECT content, dimensions, vector_values FROM embver_internal.sample_origin(%s, %s, %s)",
        (collection, version, limit),
    )
    names = ("content", "dimensions", "vector_values")
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


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
    others = sorted({row["dimensions"] for row in rows} - {dimensions})
    if others:
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
