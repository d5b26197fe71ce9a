"""``embver demo``: the whole journey on a live table, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embver_pg.cli.session import session


def demo(
    ctx: typer.Context,
    beir: Annotated[
        Path | None, typer.Option("--beir", metavar="DIR", help="A collection in BEIR layout.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the server up and print its psql line.")
    ] = False,
    documents: Annotated[
        int | None, typer.Option(min=1, help="Take so many documents at most.")
    ] = None,
) -> None:
    """Watch a live collection move from one embedding model to a better one."""
    from embver_pg.demo.run import run_demo

    run = session(ctx)
    if run.given_url is not None:
        raise typer.BadParameter("the demo has a server of its own", param_hint="--database-url")
    raise typer.Exit(run_demo(run.output, beir=beir, keep=keep, documents=documents))
