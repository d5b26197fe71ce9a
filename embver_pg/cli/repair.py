"""``embver verify``, ``requeue`` and ``waive``: what differs, and what to do about it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embver_pg.cli.params import Name, Version, json_or_text
from embver_pg.cli.progress import progress
from embver_pg.cli.render import table
from embver_pg.cli.session import session

_LIVE = ("filling", "ready", "active", "fallback")
_STEP = 10_000  # documents a statement


def verify(
    ctx: typer.Context,
    name: Name,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", help="Default every live version.")
    ] = None,
) -> None:
    """Count missing, stale and orphaned vectors, exactly; exit code 3 where there is one.

    What waits in the queue counts as missing or stale: drain first, or wait. Large tables are read
    in steps, all in the snapshot of the beginning.
    """
    run = session(ctx)
    collection = run.collection(name)
    chosen = (
        [version]
        if version is not None
        else [row["version"] for row in collection.versions() if row["state"] in _LIVE]
    )
    rows = []
    for each in chosen:
        with progress(run.output, f"checking version {each}", None, "documents") as meter:
            counts = collection.verify(each, step=_STEP, advance=meter.advance)
        rows.append({"version": each, **counts})
    kinds = ("missing", "stale", "orphaned")
    clean = not any(row[kind] for row in rows for kind in kinds)
    human = table(("version", *kinds), ([row["version"], *(row[k] for k in kinds)] for row in rows))
    run.output.emit(
        {"collection": name, "clean": clean, "versions": rows},
        human if rows else f"{name} has no live version.",
    )
    if not clean:
        raise typer.Exit(3)


def requeue(
    ctx: typer.Context,
    name: Name,
    version: Version,
    only: Annotated[str, typer.Option(help="failed, missing, stale or all.")] = "failed",
) -> None:
    """Enqueue documents of a version again."""
    run = session(ctx)
    count = run.collection(name).requeue(version, only)
    run.output.emit(
        {"collection": name, "version": version, "only": only, "jobs": count},
        f"{count:,} documents: the workers encode all of them again, from their next walk on."
        if only == "all"
        else f"{count:,} documents enqueued.",
    )


def waive(
    ctx: typer.Context,
    name: Name,
    version: Version,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it may be missing.")],
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", help='The key, of several columns a JSON object {"a": 1}.'),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every dead letter of the version.")
    ] = False,
) -> None:
    """Accept a dead letter, so that it does not block a promotion."""
    run = session(ctx)
    collection = run.collection(name)
    if (key is None) != everything:
        raise typer.BadParameter("give a key, or --all", param_hint="KEY")
    if key is None:
        collection.version(version)
        keys = [
            row["key"]
            for row in run.embver.database.rows(
                "SELECT key FROM embver.dead_letters"
                " WHERE collection = %s AND version = %s AND waived_reason IS NULL",
                (name, version),
            )
        ]
    else:
        keys = [_key(key, collection.show()["key_columns"])]
    for each in keys:
        collection.waive(version, each, reason)
    run.output.emit(
        {"collection": name, "version": version, "waived": keys},
        f"{len(keys):,} dead letters waived.",
    )


def _key(given: str, columns: list[str]) -> dict[str, Any]:
    found = json_or_text(given)
    if isinstance(found, dict):
        if set(found) != set(columns):
            raise typer.BadParameter(f"name the columns {', '.join(columns)}", param_hint="KEY")
        return found
    if len(columns) != 1:
        raise typer.BadParameter(
            f'{given!r} is not {{"{columns[0]}": …, "{columns[1]}": …}}', param_hint="KEY"
        )
    return {columns[0]: given}
