"""``embver limits``: rates and concurrency that all workers of one encoder share."""

from __future__ import annotations

from typing import Annotated

import typer

from embver_pg.cli.render import table
from embver_pg.cli.session import session

_COLUMNS = (
    "encoder",
    "base_url",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrency",
    "requests_under_way",
)


def limits(
    ctx: typer.Context,
    encoder: Annotated[
        str | None,
        typer.Argument(metavar="[ENCODER]", help="provider:model of some version; none shows all."),
    ] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=1, help="Of all workers together.")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(min=1, help="Of all workers together.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests under way at once, of all workers.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Which endpoint, where versions use several.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove the limits.")] = False,
) -> None:
    """Show or replace what all workers of an encoder may send, on all hosts together."""
    run = session(ctx)
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrency": concurrency,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if (chosen or none) and encoder is None:
        raise typer.BadParameter("name the encoder", param_hint="ENCODER")
    if chosen and none:
        raise typer.BadParameter("it goes with no limit", param_hint="--none")
    if encoder is not None and (chosen or none):
        run.embver.set_encoder_limits(encoder, base_url=base_url, **chosen)
    rows = run.embver.database.rows(
        "SELECT * FROM embver.encoder_limits WHERE %s::text IS NULL OR encoder = %s"
        " ORDER BY encoder, base_url",
        (encoder, encoder),
    )
    shown = table(_COLUMNS, ([row[column] for column in _COLUMNS] for row in rows))
    run.output.emit(rows, shown if rows else "No limits are set.")
