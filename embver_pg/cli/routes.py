"""``embver route``: which versions answer searches, and how."""

from __future__ import annotations

from typing import Annotated

import typer

from embver_pg.cli.params import Name, Reason
from embver_pg.cli.render import table
from embver_pg.cli.session import Session, session
from embver_pg.cli.versions import encoder_name

app = typer.Typer(help="The read pointer of a collection.", no_args_is_help=True)


@app.command()
def show(ctx: typer.Context, name: Name) -> None:
    """Show which versions a query must be encoded for, now."""
    emit_route(session(ctx), name)


@app.command("set")
def set_route(
    ctx: typer.Context,
    name: Name,
    mode: Annotated[str, typer.Argument(metavar="MODE", help="single, split, fused or bridged.")],
    share: Annotated[
        float | None, typer.Option(help="Share of the new version, with mode split.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Weight of the older version, with mode fused.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="A route key that split always sends to the new version; repeatable."),
    ] = None,
    reason: Reason = None,
) -> None:
    """Change how searches are answered."""
    run = session(ctx)
    options: dict[str, object] = {} if weight is None else {"weight": weight}
    if allow:
        options["allow"] = allow
    run.collection(name).set_route(mode, share, reason, options)
    emit_route(run, name)


def emit_route(run: Session, name: str) -> None:
    """Write the route of a collection as the result."""
    collection = run.collection(name)
    rows = collection.route()
    data = {**collection.show(), "route": rows}
    cells = (
        [row["version"], row["mode"], row["share"], encoder_name(row["encoder"]), row["dimensions"]]
        for row in rows
    )
    human = table(("version", "mode", "share", "encoder", "dimensions"), cells)
    run.output.emit(data, human if rows else f"{name} has no active version yet.")
