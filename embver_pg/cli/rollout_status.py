"""``embver rollout status``: how far a rollout is and what blocks its promotion."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from embver_pg.cli import rollout_money
from embver_pg.cli.render import Output, table
from embver_pg.cli.session import Session
from embver_pg.errors import GateFailed

if TYPE_CHECKING:
    from embver_pg.db import Database, Row

_LETTERS = 10
_WALKING = ("pending", "barrier", "documents")


def show(run: Session, name: str) -> None:
    """Write the status of the newest rollout of a collection."""
    collection = run.collection(name)
    database = run.embver.database
    rollout = next(iter(collection.rollouts()), None)
    if rollout is None:
        run.output.emit(
            {"collection": name, "rollout": None},
            f"{name} has had no rollout: embver rollout start {name} VERSION",
        )
        return
    found = _facts(database, name, rollout)
    run.output.emit(found, _human(name, rollout, found))
    _notes(run.output, name, rollout, found)


def _facts(database: Database, name: str, rollout: Row) -> dict[str, Any]:
    number = rollout["to_version"]
    store = database.row(
        "SELECT o.*, clock_timestamp() - o.oldest_at AS lag,"
        " extract(epoch FROM clock_timestamp() - %s)::float8 AS seconds"
        " FROM embver_internal.queue_overview() AS o WHERE o.collection = %s AND o.version = %s",
        (rollout["started_at"], name, number),
    )
    found: dict[str, Any] = {"collection": name, "rollout": rollout, "store": store}
    if store is None:  # retired or dropped since
        return {**found, "readiness": None, "gate": None, "blocked_by": [], "dead_letters": []}
    readiness = database.value(
        "SELECT embver_internal.readiness(%s, %s, %s::interval)",
        (name, number, rollout["options"]["max_lag"]),
    )
    can_be_promoted = rollout["state"] in ("running", "paused") or (
        rollout["state"] == "rolled_back" and store["state"] == "ready"
    )
    gate = _gate_problem(database, name, rollout["rollout_id"]) if can_be_promoted else None
    return {
        **found,
        **_speed(store),
        "readiness": readiness,
        "gate": gate,
        "blocked_by": _blocks(rollout, store, readiness, gate) if can_be_promoted else [],
        "dead_letters": database.rows(
            "SELECT key, error, attempts, at, waived_by, waived_reason FROM embver.dead_letters"
            " WHERE collection = %s AND version = %s ORDER BY waived_reason IS NOT NULL, at"
            " LIMIT %s",
            (name, number, _LETTERS),
        ),
    }


def _gate_problem(database: Database, name: str, rollout_id: int) -> dict[str, Any] | None:
    """Why no gate opens the promotion, as the promotion itself would say it."""
    try:
        database.rows(
            "SELECT embver_internal.check_gate(c, r, t.active)"
            " FROM embver_internal.collection AS c"
            " JOIN embver_internal.rollout AS r ON r.rollout_id = %s"
            " JOIN embver_internal.route AS t ON t.collection = c.name"
            " WHERE c.name = %s AND t.active IS NOT NULL",
            (rollout_id, name),
        )
    except GateFailed as error:
        return {"message": error.message, "detail": error.detail, "hint": error.hint}
    return None


def _blocks(
    rollout: Row, store: Row, readiness: dict[str, Any], gate: dict[str, Any] | None
) -> list[str]:
    found = []
    if rollout["state"] == "paused":
        found.append(f"the rollout is paused: {rollout['pause_reason'] or 'no reason given'}")
    if readiness["barrier"]:
        found.append(f"{len(readiness['barrier'])} transactions older than the capture still write")
    elif readiness["walk"] != "done":
        found.append(f"the walk over the source is not done ({readiness['walk']})")
    if readiness["unaccounted"]:
        found.append(f"{readiness['unaccounted']:,} documents are missing or stale")
    if readiness["dead_letters"]:
        found.append(f"{readiness['dead_letters']:,} dead letters are not waived")
    if not readiness["index"]:
        found.append("the index is not built")
    if store["state"] == "filling" and not found:
        found.append("the version is not marked ready: run a worker as the source's owner")
    if gate is not None:
        found.append(gate["message"])
    return found


def _speed(store: Row) -> dict[str, Any]:
    """Vectors a second since the start and the seconds that remain, while it is filled."""
    queued = store["ready"] + store["waiting"] + store["leased"]
    unseen = max((store["documents"] or 0) - store["seen"], 0) if _walking(store) else 0
    if store["state"] != "filling" or not store["vectors"] or not store["seconds"]:
        return {"rate": None, "eta": None}
    rate = store["vectors"] / store["seconds"]
    return {"rate": rate, "eta": (queued + unseen) / rate}


def _walking(store: Row) -> bool:
    return store["phase"] in _WALKING


def _human(name: str, rollout: Row, found: dict[str, Any]) -> RenderableType:
    source = "nothing" if rollout["from_version"] is None else f"version {rollout['from_version']}"
    parts: list[RenderableType] = [
        Text(
            f"{name}: {source} → version {rollout['to_version']}, {rollout['strategy']},"
            f" {rollout['state']} since {_when(rollout)}"
        )
    ]
    parts += [Text(line) for line in rollout_money.spent(rollout)]
    store = found["store"]
    if store is not None:
        about = f"of about {store['documents']:,}" if store["documents"] else ""
        parts.append(
            Text(
                f"version {store['version']} is {store['state']}; walk {store['phase']},"
                f" {store['seen']:,} documents seen {about}".rstrip()
            )
        )
        columns = ("vectors", "ready", "waiting", "leased", "dead", "waived")
        row = [*(store[column] for column in columns), span(store["lag"])]
        parts.append(table((*columns, "lag"), [row]))
        if found["rate"]:
            left = timedelta(seconds=found["eta"])
            parts.append(Text(f"{found['rate']:,.0f} vectors/s since the start, ETA {span(left)}"))
    if found["dead_letters"]:
        letters = ("key", "error", "attempts", "waived_reason")
        rows = ([row[column] for column in letters] for row in found["dead_letters"])
        parts.append(table(letters, rows, title="dead letters"))
    parts += [Text(f"promotion waits: {reason}") for reason in found["blocked_by"]]
    return Group(*parts)


def _notes(output: Output, name: str, rollout: Row, found: dict[str, Any]) -> None:
    if found["gate"] is not None and len(found["blocked_by"]) == 1:
        output.note(f"next: {found['gate']['hint']}")
    elif found["store"] is not None and found["store"]["state"] == "ready":
        if not found["blocked_by"]:
            output.note(f"next: embver rollout promote {name}")
    elif rollout["state"] == "running":
        output.note(f"next: embver worker --drain, or embver rollout run {name}")


def _when(rollout: Row) -> str:
    moment = rollout["ended_at"] or rollout["paused_at"] or rollout["started_at"]
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def span(value: timedelta | None) -> str | None:
    """A span of time for people, without fractions of a second."""
    return None if value is None else str(timedelta(seconds=round(value.total_seconds())))
