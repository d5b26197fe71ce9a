"""``embver rollout plan`` and ``budget``: what a rollout costs, and may cost."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from embver_pg.cli.params import Name, pairs
from embver_pg.cli.render import table
from embver_pg.cli.session import session
from embver_pg.cli.versions import (
    ChunkerType,
    ChunkOverlap,
    ChunkSize,
    chunker_name,
    chunker_spec,
)

if TYPE_CHECKING:
    from embver_pg.db import Row
    from embver_pg.planning import Plan, Range

_UNITS = ("B", "kB", "MB", "GB", "TB")


def plan(
    ctx: typer.Context,
    name: Name,
    encoder: Annotated[
        str,
        typer.Argument(metavar="ENCODER|VERSION", help="provider:model, or a version's number."),
    ],
    price: Annotated[
        float | None,
        typer.Option(min=0, help="Of a million tokens; else the encoder's price_per_million."),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Rows to look at.")] = 1000,
    no_encode: Annotated[
        bool, typer.Option("--no-encode", help="Do not encode 256 texts to measure the time.")
    ] = False,
    element_type: Annotated[str, typer.Option(help="vector or halfvec.")] = "vector",
    index: Annotated[str, typer.Option(help="hnsw, or none for exact search.")] = "hnsw",
    m: Annotated[int | None, typer.Option("--m", help="HNSW: links a node. [16]")] = None,
    chunk_size: ChunkSize = None,
    chunk_overlap: ChunkOverlap = 0,
    chunker: ChunkerType = "characters",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="Of the encoder; repeat it."),
    ] = None,
) -> None:
    """Estimate documents, tokens, price, time and storage of a rollout; nothing is written."""
    run = session(ctx)
    spec: dict[str, Any] = {"type": index, **({} if m is None else {"m": m})}
    found = run.collection(name).plan(
        int(encoder) if encoder.isascii() and encoder.isdigit() else encoder,
        element_type=element_type,
        index=spec,
        chunker=chunker_spec(chunker, chunk_size, chunk_overlap),
        price=price,
        sample=sample,
        encode=not no_encode,
        **pairs(option or [], "--option"),
    )
    run.output.emit(found, _human(found))
    if found.version is None:
        run.output.note(f"next: embver version add {name} {encoder}")
    else:
        run.output.note(f"next: embver rollout start {name} {found.version}")


def budget(
    ctx: typer.Context,
    name: Name,
    tokens: Annotated[int | None, typer.Option(min=0, help="At most so many tokens.")] = None,
    requests: Annotated[int | None, typer.Option(min=0, help="At most so many requests.")] = None,
    cost: Annotated[float | None, typer.Option(min=0, help="At most so much money.")] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of a million tokens, for --cost.")
    ] = None,
) -> None:
    """Change the budget of the open rollout, in all; without options, show it."""
    run = session(ctx)
    collection = run.collection(name)
    given = {"tokens": tokens, "requests": requests, "cost": cost, "price_per_million": price}
    chosen = {key: value for key, value in given.items() if value is not None}
    if chosen:
        collection.set_budget(**chosen)
    rollout = next(iter(collection.rollouts()), None)
    lines = [] if rollout is None else spent(rollout)
    run.output.emit(
        {"collection": name, "rollout": rollout},
        "\n".join(lines) or f"{name} has had no rollout with a budget.",
    )
    if chosen and rollout is not None and rollout["state"] == "paused":
        run.output.note(f"next: embver rollout resume {name}")


def spent(rollout: Row) -> list[str]:
    """What a row of ``embver.rollouts`` spent of its budget, a line for people."""
    limits = rollout["budget"]
    if not limits and not rollout["spent_requests"]:
        return []

    def part(name: str, figure: Any) -> str:
        of = f" of {limits[name]:,}" if name in limits else ""
        return f"{figure:,}{of}"

    about = "about " if rollout["spent_is_estimate"] else ""
    line = (
        f"spent {about}{part('tokens', rollout['spent_tokens'])} tokens,"
        f" {part('requests', rollout['spent_requests'])} requests"
    )
    if rollout["spent_cost"] or "cost" in limits:
        line += f", cost {part('cost', round(float(rollout['spent_cost']), 6))}"
    return [f"{line}, for {rollout['spent_documents']:,} documents"]


def _human(found: Plan) -> RenderableType:
    about = "" if found.documents_are_exact else "about "
    of = f" in {about}{found.rows:,} rows" if found.rows != found.documents else ""
    guess = " (a guess: no tokenizer of the model is here)" if found.tokens_are_guessed else ""
    rows: list[list[Any]] = [
        ["documents", f"{about}{found.documents:,}{of}", "counted" if not about else "estimated"],
        *([["chunks", _range(found.vectors), "the sample's"]] if found.chunker else []),
        ["tokens", _range(found.tokens) + guess, f"{found.token_method}, {found.sampled:,} rows"],
    ]
    if found.price is not None:
        rows.append(
            ["price", _range(found.price, 4), f"{found.price_per_million:g} a million tokens"]
        )
    if found.seconds is not None:
        low, value, high = (
            str(timedelta(seconds=round(number)))
            for number in (found.seconds.low, found.seconds.value, found.seconds.high)
        )
        rows.append(["time", f"{value}  ({low} to {high})", "measured, one worker"])
    rows += [
        ["table", _size(found.table_bytes), found.table_formula],
        ["index", _size(found.index_bytes), found.index_formula],
    ]
    parts: list[RenderableType] = [
        Text(
            f"{found.collection}: {found.encoder}, {found.dimensions} dimensions,"
            f"{chunker_name(found.chunker)} {found.element_type}"
        ),
        table(("", "estimate (95 % interval)", "how"), rows),
    ]
    return Group(*parts, *(Text(f"note: {note}") for note in found.notes))


def _range(found: Range, digits: int = 0) -> str:
    low, value, high = (
        f"{round(number, digits):,.{digits}f}" for number in (found.low, found.value, found.high)
    )
    return value if low == value == high else f"{value}  ({low} to {high})"


def _size(count: float) -> str:
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:,.1f} {unit}"
