"""``embver bridge``: the map from an older version's vectors into a newer version's space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from embver_pg.cli.params import Name
from embver_pg.cli.render import table
from embver_pg.cli.session import session

if TYPE_CHECKING:
    from embver_pg.db import Row

app = typer.Typer(help="Maps from an older model's vectors to a newer one's.", no_args_is_help=True)
NewerVersion = Annotated[
    int | None,
    typer.Argument(metavar="[VERSION]", help="The newer version. [the rollout's target]"),
]


@app.command()
def fit(
    ctx: typer.Context,
    name: Name,
    version: NewerVersion = None,
    older: Annotated[
        int | None,
        typer.Option("--from", help="The older version. [the rollout's, or the active one]"),
    ] = None,
) -> None:
    """Fit the map from documents that are in both versions, and compute its norms.

    Again whenever more documents are in the newer version: searches change over to the new fit
    when it is complete.
    """
    run = session(ctx)
    row = run.collection(name).fit_bridge(version, older)
    run.output.emit(row, _table([row]))


@app.command()
def show(ctx: typer.Context, name: Name, version: NewerVersion = None) -> None:
    """Show every fit with its held-out figures, and why there is none."""
    run = session(ctx)
    rows = [row for row in run.collection(name).bridges() if version in (None, row["version"])]
    human = _table(rows) if rows else f"{name} has no bridge: embver bridge fit {name}"
    run.output.emit(rows, human)


def _table(rows: Iterable[Row]) -> RenderableType:
    columns = ("from_version", "version", "state", "pairs", "cosine", "cosine_low", "coverage")
    return table(
        ("from", "to", "state", "pairs", "cosine", "5 % below", "coverage", "reason"),
        ([*(row[column] for column in columns), row["reason"]] for row in rows),
    )
