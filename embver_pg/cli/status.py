"""``embver status``: one screen of everything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from embver_pg.cli.render import table
from embver_pg.cli.rollout_status import span
from embver_pg.cli.session import Session, session
from embver_pg.cli.versions import encoder_name

_EVENTS = 8
_QUERIES = {
    "collections": "SELECT * FROM embver.collections ORDER BY name",
    "versions": "SELECT * FROM embver.versions WHERE state <> 'dropped'"
    " ORDER BY collection, version",
    "rollouts": "SELECT * FROM embver.rollouts WHERE state IN ('running', 'paused')"
    " ORDER BY collection",
    "queue": "SELECT o.*, clock_timestamp() - o.oldest_at AS lag"
    " FROM embver_internal.queue_overview() AS o",
    "health": "SELECT * FROM embver.health",
    "workers": "SELECT *, clock_timestamp() - seen_at AS silent FROM embver.workers"
    " ORDER BY started_at",
    "events": f"SELECT * FROM embver.events ORDER BY event_id DESC LIMIT {_EVENTS}",
}


def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks, with --watch.")
    ] = 2.0,
) -> None:
    """Show collections, versions, queues, workers and the last events."""
    run = session(ctx)
    if watch and run.output.json_mode:
        raise typer.BadParameter("--json prints one document", param_hint="--watch")
    if watch:
        _watch(run, interval)
        return
    found, hidden = _facts(run)
    run.output.emit({**found, "hidden": hidden}, _screen(found, hidden))


def _watch(run: Session, interval: float) -> None:
    from rich.live import Live

    with suppress(KeyboardInterrupt):
        if not run.output.console.is_terminal:
            while True:
                run.output.emit(None, _screen(*_facts(run)))
                time.sleep(interval)
        with Live(
            _screen(*_facts(run)), console=run.output.console, screen=True, auto_refresh=False
        ) as live:
            while True:
                time.sleep(interval)
                live.update(_screen(*_facts(run)), refresh=True)


def _facts(run: Session) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """What there is, and the parts that this role may not see."""
    import psycopg

    found: dict[str, list[dict[str, Any]]] = {}
    hidden = []
    for name, query in _QUERIES.items():
        try:
            found[name] = run.embver.database.rows(query)
        except psycopg.errors.InsufficientPrivilege:
            found[name] = []
            hidden.append(name)
    if "versions" in hidden:
        # Not even a reader: say so as every other command does.
        run.embver.database.rows(_QUERIES["versions"])
    return found, hidden


def _screen(found: dict[str, list[dict[str, Any]]], hidden: Sequence[str]) -> RenderableType:
    if not found["collections"]:
        parts: list[RenderableType] = [
            Text("No collection yet: embver collection create NAME --source TABLE --content SQL")
        ]
    else:
        parts = [_versions(found)]
        parts += [_empty(row["name"]) for row in found["collections"] if _unused(row, found)]
    for row in found["rollouts"]:
        reason = f" ({row['pause_reason']})" if row["pause_reason"] else ""
        parts.append(
            Text(
                f"rollout of {row['collection']} to version {row['to_version']}:"
                f" {row['state']}{reason} since {row['started_at']:%Y-%m-%d %H:%M:%S}"
            )
        )
    if found["workers"]:
        columns = ("worker", "host", "pid", "documents", "last heard of")
        rows = (
            [str(w["worker_id"])[:8], w["host"], w["pid"], w["documents"], span(w["silent"])]
            for w in found["workers"]
        )
        parts.append(table(columns, rows, title="workers"))
    elif "workers" not in hidden:
        parts.append(Text("no worker runs"))
    if found["events"]:
        headings = ("at", "who", "collection", "version", "event", "reason")
        rows = (
            [
                f"{e['at']:%m-%d %H:%M:%S}",
                e["actor"],
                e["collection"],
                e["version"],
                e["kind"],
                e["reason"],
            ]
            for e in reversed(found["events"])
        )
        parts.append(table(headings, rows, title="last events"))
    if hidden:
        parts.append(Text(f"this role may not see: {', '.join(hidden)}"))
    return Group(*parts)


def _versions(found: dict[str, list[dict[str, Any]]]) -> RenderableType:
    queues = {(row["collection"], row["version"]): row for row in found["queue"]}
    health = {(row["collection"], row["version"]): row["status"] for row in found["health"]}
    rows = []
    for row in found["versions"]:
        key = (row["collection"], row["version"])
        queue = queues.get(key, {})
        queued = sum(queue[part] for part in ("ready", "waiting", "leased")) if queue else None
        rows.append(
            [
                *key,
                row["state"],
                encoder_name(row["encoder"]),
                queue.get("vectors"),
                queue.get("documents") or None,  # 0: the planner has no figure yet
                queue.get("phase"),
                queued,
                span(queue.get("lag")),
                queue.get("dead"),
                health.get(key),
            ]
        )
    columns = (
        "collection",
        "version",
        "state",
        "encoder",
        "vectors",
        "documents ≈",
        "walk",
        "queued",
        "lag",
        "dead",
        "health",
    )
    return table(columns, rows)


def _unused(row: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> bool:
    return all(version["collection"] != row["name"] for version in found["versions"])


def _empty(name: str) -> Text:
    return Text(f"{name} has no version yet: embver version add {name} ENCODER")
