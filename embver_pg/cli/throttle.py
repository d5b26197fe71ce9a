"""``embver throttle``: when workers hold back the filling of stores."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embver_pg.cli.params import Reason
from embver_pg.cli.render import table
from embver_pg.cli.session import Session, session

app = typer.Typer(help="When workers hold back the filling of stores.", no_args_is_help=True)


@app.command()
def show(ctx: typer.Context) -> None:
    """Show the conditions, and whether they hold now."""
    _emit(session(ctx))


@app.command("set")
def set_throttle(
    ctx: typer.Context,
    stop: Annotated[
        str | None, typer.Option(metavar="WHY", help="Hold back until this is cleared.")
    ] = None,
    replica_lag: Annotated[
        str | None, typer.Option(metavar="INTERVAL", help="A standby is further behind.")
    ] = None,
    wal_rate: Annotated[
        str | None, typer.Option(metavar="SIZE", help="More WAL a second, such as '16 MB'.")
    ] = None,
    active_backends: Annotated[
        int | None, typer.Option(metavar="N", help="More backends are active.")
    ] = None,
    query: Annotated[
        str | None, typer.Option(metavar="SQL", help="An expression: true, or a reason.")
    ] = None,
    reason: Reason = None,
) -> None:
    """Hold back while one of the conditions holds; replaces what was set before."""
    run = session(ctx)
    given = {
        "stop": stop,
        "replica_lag": replica_lag,
        "wal_rate": wal_rate,
        "active_backends": active_backends,
        "query": query,
    }
    policy: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not policy:
        from embver_pg.cli.failures import UsageProblem

        raise UsageProblem("name a condition, or lift the throttle: embver throttle clear")
    run.embver.set_throttle(policy, reason)
    _emit(run)


@app.command()
def clear(ctx: typer.Context, reason: Reason = None) -> None:
    """Lift the throttle."""
    run = session(ctx)
    run.embver.set_throttle({}, reason)
    _emit(run)


def _emit(run: Session) -> None:
    row = run.embver.throttle()
    cells = [[name, value] for name, value in row["policy"].items()]
    cells.append(["now", row["reason"] or "workers go on"])
    if row["inactive"]:
        cells.append(["not watched", f"{', '.join(row['inactive'])}: GRANT pg_monitor"])
    human = table(("condition", "value"), cells) if row["policy"] else "Nothing holds workers back."
    run.output.emit(dict(row), human)
