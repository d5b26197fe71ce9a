"""``embver version adopt | derive | check``: versions filled from vectors that exist already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from embver_pg.cli.params import Name, Version, pairs
from embver_pg.cli.session import Session, session
from embver_pg.cli.versions import (
    EfConstruction,
    ElementType,
    Encoder,
    EncoderOption,
    Index,
    M,
    Metric,
    encoder_name,
    index_spec,
)

Sample = Annotated[
    int, typer.Option(min=1, help="Random documents to encode and compare before all else.")
]
MinShare = Annotated[float, typer.Option(help="The share of them that must agree.")]
MinCosine = Annotated[float, typer.Option(help="From what cosine on two vectors agree.")]


def adopt(
    ctx: typer.Context,
    name: Name,
    encoder: Encoder,
    from_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The source's own column that holds the vectors."),
    ] = None,
    from_table: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="A side table that holds them, with its schema."),
    ] = None,
    column: Annotated[
        str, typer.Option(metavar="COLUMN", help="The side table's column of vectors.")
    ] = "embedding",
    key_columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="The side table's columns that hold the key. [the source's]"
        ),
    ] = None,
    stale_where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL", help="Condition over the source: documents to encode anew all the same."
        ),
    ] = None,
    sample: Sample = 64,
    min_share: MinShare = 0.95,
    min_cosine: MinCosine = 0.99,
    metric: Metric = "cosine",
    element_type: ElementType = "vector",
    index: Index = "hnsw",
    m: M = None,
    ef_construction: EfConstruction = None,
    option: EncoderOption = None,
) -> None:
    """Create a version from vectors that you have already; its rollout copies them.

    ENCODER is the one that made them: a sample is compared with it first, and refused with the
    figures where it disagrees. Documents without a vector are encoded.
    """
    if (from_column is None) == (from_table is None):
        raise typer.BadParameter("name one of them", param_hint="--from-column / --from-table")
    if key_columns is not None and from_table is None:
        raise typer.BadParameter("goes with --from-table", param_hint="--key-columns")
    run = session(ctx)
    options = pairs(option or [], "--option")
    number = run.collection(name).adopt_version(
        encoder,
        column=from_column or column,
        table=from_table,
        key_columns=None if key_columns is None else [k.strip() for k in key_columns.split(",")],
        stale_where=stale_where,
        sample=sample,
        min_share=min_share,
        min_cosine=min_cosine,
        metric=metric,
        element_type=element_type,
        index=index_spec(index, m, ef_construction),
        **options,
    )
    _report(run, name, number)


def derive(
    ctx: typer.Context,
    name: Name,
    version: Version,
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, help="Keep the first so many dimensions (a Matryoshka model)."),
    ] = None,
    element_type: Annotated[
        str | None, typer.Option(help="vector, or halfvec for half precision. [the version's]")
    ] = None,
    sample: Sample = 64,
    min_share: MinShare = 0.95,
    min_cosine: MinCosine = 0.99,
    index: Index = "hnsw",
    m: M = None,
    ef_construction: EfConstruction = None,
) -> None:
    """Create a version that is another one's shortened or half-precision copy, without encoding."""
    run = session(ctx)
    number = run.collection(name).derive_version(
        version,
        dimensions=dimensions,
        element_type=element_type,
        index=index_spec(index, m, ef_construction),
        sample=sample,
        min_share=min_share,
        min_cosine=min_cosine,
    )
    _report(run, name, number)


def check(
    ctx: typer.Context,
    name: Name,
    version: Version,
    sample: Sample = 64,
    min_share: MinShare = 0.95,
    min_cosine: MinCosine = 0.99,
) -> None:
    """Compare an adopted or derived version with its encoder again, such as after an abort."""
    run = session(ctx)
    figures = run.collection(name).check_version(
        version, sample=sample, min_share=min_share, min_cosine=min_cosine
    )
    run.output.emit({"collection": name, "version": version, **figures}, _agreement(figures))
    run.output.note(f"next: embver rollout start {name} {version}")


def _report(run: Session, name: str, number: int) -> None:
    row = run.collection(name).version(number)
    figures = run.collection(name).origin(number)["check_figures"]
    run.output.emit(
        {**row, "check": figures},
        f"Version {number} of {name}: {encoder_name(row['encoder'])}, {row['dimensions']}"
        f" dimensions ({row['element_type']}), store {row['store']}. {_agreement(figures)}",
    )
    run.output.note(f"next: embver rollout start {name} {number}")


def _agreement(figures: Mapping[str, Any]) -> str:
    if "documents" not in figures:
        return "Its copy is exact to rounding."
    low, high = figures["interval"]
    return (
        f"{figures['agree']} of {figures['documents']} sampled documents have the encoder's vector"
        f" (95 % interval {low:.1%} to {high:.1%}, median cosine {figures['median_cosine']:.4f})."
    )
