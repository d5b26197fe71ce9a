"""Versions filled from vectors that exist already: adopted by hand-made columns, or derived.

The vectors are copied in SQL, inside a rollout. Here they are compared with the encoder that is
said to have made them, on a random sample, before anything is believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embver_pg import schema, versions
from embver_pg.agreement import Agreement, Figures, compare, refusal
from embver_pg.db import Database, Row
from embver_pg.encoders import Encoder, EncoderSpec, load
from embver_pg.errors import InvalidArgument


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
