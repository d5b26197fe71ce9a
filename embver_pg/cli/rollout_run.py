"""``embver rollout run``: a drain limited to one collection, with its index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from embver_pg.cli.session import Session
from embver_pg.errors import BudgetExceeded, EmbverError, InvalidTransition, NotReady

if TYPE_CHECKING:
    from embver_pg.client import Collection
    from embver_pg.db import Row

_FILLED = ("ready", "active", "fallback")


def run_until_ready(run: Session, name: str, batch: int) -> None:
    """Fill the open rollout's version.

    Raises:
        InvalidTransition: No rollout is running.
        NotReady: The version could not be made ready; the message says why.
        BudgetExceeded: The budget paused the rollout.
    """
    from embver_pg.cli.filling import log_to, supervised
    from embver_pg.worker import Worker

    collection = run.collection(name)
    target = _target(collection)
    number = target["version"]
    may_build = _may_build(run, target["store"])
    if not may_build:
        run.output.note(
            "This role may not build the index: it fills the version, and the owner of the"
            " source, as an administrator of embver, must finish it."
        )
    log_to(run.output)
    worker = Worker(run.embver.database, batch=batch, poll=0.2, collection=name)
    report, stopped = supervised(worker, run.output, drain=True, collection=name)
    row = collection.version(number)
    data = {
        "collection": name,
        "version": number,
        "state": row["state"],
        "written": report.written,
        "failed": report.failed,
        "seconds": report.seconds,
    }
    if row["state"] not in _FILLED and not stopped:
        raise _unfinished(run, collection, number, may_build)
    run.output.emit(
        data,
        f"Version {number} of {name} is {row['state']}: {report.written:,} vectors written,"
        f" {report.failed:,} documents failed, {report.seconds:.1f} s.",
    )
    if report.failed:
        run.output.note(f"dead letters: embver rollout status {name}")
    if stopped:
        raise typer.Exit(130)
    if row["state"] == "ready":
        active = collection.show()["active"]
        step = f"rollout promote {name}" if active is None else f"evaluate {name}"
        run.output.note(f"next: embver {step}")


def _target(collection: Collection) -> Row:
    """The version of the running rollout."""
    rollout = next(iter(collection.rollouts()), None)
    if rollout is None or rollout["state"] not in ("running", "paused"):
        raise InvalidTransition(
            f"no rollout of {collection.name!r} is under way",
            detail={"collection": collection.name, "allowed": ["start_rollout"]},
            hint=f"embver rollout start {collection.name} VERSION",
        )
    if rollout["state"] == "paused":
        raise InvalidTransition(
            f"the rollout of {collection.name!r} is paused",
            detail={"collection": collection.name, "reason": rollout["pause_reason"]},
            hint=f"embver rollout resume {collection.name}",
        )
    return collection.version(rollout["to_version"])


def _may_build(run: Session, store: str) -> bool:
    from embver_pg import indexing

    with run.embver.database.connection() as connection:
        return indexing.may_build(connection, store)


def _unfinished(run: Session, collection: Collection, number: int, may_build: bool) -> EmbverError:
    name = collection.name
    rollout = next(iter(collection.rollouts()))
    if rollout["state"] == "paused" and (rollout["pause_reason"] or "").startswith("budget"):
        return BudgetExceeded(
            rollout["pause_reason"],
            detail={"collection": name, "version": number, "budget": rollout["budget"]},
            hint=f"embver rollout budget {name}, then: embver rollout resume {name}",
        )
    if rollout["state"] == "paused":
        return NotReady(
            f"Version {number} of {name!r} is not ready: the rollout was paused meanwhile.",
            hint=f"embver rollout resume {name}",
        )
    readiness = run.embver.database.value(
        "SELECT embver_internal.readiness(%s, %s)", (name, number)
    )
    if not may_build:
        owner = run.embver.database.value(
            "SELECT embver_internal.source_owner(source::regclass)::text"
            " FROM embver.collections WHERE name = %s",
            (name,),
        )
        return NotReady(
            f"Version {number} of {name!r} is filled, but this role may not build its index.",
            detail={"owner": owner, "needs": "embver_admin", **readiness},
            hint=f"As a member of {owner} and embver_admin: embver rollout run {name}",
        )
    return NotReady(
        f"Version {number} of {name!r} is not ready.",
        detail=readiness,
        hint=f"embver rollout status {name}",
    )
