"""The tree of commands, the global options, and the one place where errors become exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from embver_pg.cli import (
    adoption,
    bridges,
    collections,
    database,
    demo,
    evaluate,
    golden,
    limits,
    repair,
    rollouts,
    routes,
    search,
    status,
    throttle,
    versions,
    work,
)
from embver_pg.cli.failures import UsageProblem, explained
from embver_pg.cli.render import Output
from embver_pg.cli.session import Session

_FLAGS = ("--json", "--quiet")
_URL = "--database-url"
_INTERRUPTED = 130

app = typer.Typer(
    name="embver",
    help="Change the embedding model of a live PostgreSQL/pgvector system.",
    epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 a check failed, 4 incompatible schema.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_START = "Start"
_MODELS = "Collections and models"
_QUALITY = "Quality"
_OPERATION = "Operation"
app.command(rich_help_panel=_START)(demo.demo)
app.command(rich_help_panel=_START)(database.init)
app.command(rich_help_panel=_START)(database.upgrade)
app.add_typer(database.embedded_app, name="db", rich_help_panel=_START)
for command in (adoption.adopt, adoption.derive, adoption.check):
    versions.app.command()(command)
app.add_typer(collections.app, name="collection", rich_help_panel=_MODELS)
app.add_typer(versions.app, name="version", rich_help_panel=_MODELS)
app.add_typer(rollouts.app, name="rollout", rich_help_panel=_MODELS)
app.add_typer(routes.app, name="route", rich_help_panel=_MODELS)
app.add_typer(bridges.app, name="bridge", rich_help_panel=_MODELS)
app.command(rich_help_panel=_QUALITY)(search.search)
app.add_typer(golden.app, name="golden", rich_help_panel=_QUALITY)
app.command(rich_help_panel=_QUALITY)(evaluate.evaluate)
app.command(rich_help_panel=_OPERATION)(work.worker)
app.command(rich_help_panel=_OPERATION)(limits.limits)
app.command(rich_help_panel=_OPERATION)(status.status)
app.add_typer(throttle.app, name="throttle", rich_help_panel=_OPERATION)
app.command(rich_help_panel=_OPERATION)(repair.verify)
app.command(rich_help_panel=_OPERATION)(repair.requeue)
app.command(rich_help_panel=_OPERATION)(repair.waive)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"embver-pg {version('embver-pg')}")
        raise typer.Exit


@app.callback()
def _global_options(
    ctx: typer.Context,
    database_url: Annotated[
        str | None,
        typer.Option(
            _URL,
            metavar="URL",
            help="PostgreSQL URL; else EMBVER_DATABASE_URL, else the embedded server.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print results and errors only, no progress.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    ctx.obj = Session(
        Output(json_mode=json, quiet=quiet), database_url, ctx.invoked_subcommand or ""
    )
    ctx.call_on_close(ctx.obj.close)


def run(arguments: Sequence[str]) -> int:
    """Run one command and report what goes wrong.

    Args:
        arguments: What stands after ``embver``. ``--json``, ``--quiet`` and ``--database-url``
            may stand after the command too.

    Returns:
        The exit code.
    """
    ordered = _global_first(arguments)
    output = Output(json_mode="--json" in ordered[: _globals_end(ordered)])
    session = Session(output, _value_of(ordered, _URL), _command(ordered))
    try:
        result = app(ordered, prog_name="embver", standalone_mode=False)
    except KeyboardInterrupt:
        result = _INTERRUPTED
    except typer.Abort:
        result = 1
    except Exception as error:
        found = explained(error, session)
        if found is None:
            raise
        if not (isinstance(found, UsageProblem) and not found.message):
            output.error(found)
        return found.exit_code
    if result == _INTERRUPTED:
        output.note("interrupted")
    return result if isinstance(result, int) else 0


def _global_first(arguments: Sequence[str]) -> list[str]:
    """Global options before the command, wherever they were typed; after ``--`` all is text."""
    moved: list[str] = []
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            kept += [argument, *rest]
        elif argument in _FLAGS or argument.startswith(f"{_URL}="):
            moved.append(argument)
        elif argument == _URL:
            moved += [argument, *(value for value in (next(rest, None),) if value is not None)]
        else:
            kept.append(argument)
    return moved + kept


def _globals_end(ordered: Sequence[str]) -> int:
    position = 0
    while position < len(ordered) and (
        ordered[position] in (*_FLAGS, _URL) or ordered[position].startswith(f"{_URL}=")
    ):
        position += 2 if ordered[position] == _URL else 1
    return position


def _value_of(ordered: Sequence[str], option: str) -> str | None:
    found = None
    for position, argument in enumerate(ordered[: _globals_end(ordered)]):
        if argument.startswith(f"{option}="):
            found = argument.partition("=")[2]
        elif argument == option and position + 1 < len(ordered):
            found = ordered[position + 1]
    return found


def _command(ordered: Sequence[str]) -> str:
    end = _globals_end(ordered)
    return ordered[end] if end < len(ordered) else ""
