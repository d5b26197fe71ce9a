"""Watching a version fill, with what is done to it on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import sql

from embver_pg.client import Collection
from embver_pg.demo.material import TABLE
from embver_pg.demo.output import Meter
from embver_pg.demo.processes import Process
from embver_pg.demo.site import DemoFailedError

_PATIENCE = 120.0  # seconds without any progress
_TICK = 0.2


@dataclass(frozen=True)
class Milestone:
    """Something to do once when a share of the documents is covered.

    Attributes:
        share: From 0 to 1.
        act: Is told the share.
    """

    share: float
    act: Callable[[float], None]


def coverage(collection: Collection, version: int) -> tuple[int, int]:
    """How many vectors a version has, and how many documents there are."""
    row = collection.embver.database.row(
        sql.SQL(
            "SELECT (SELECT count(*) FROM {}.embedding) AS vectors,"
            " (SELECT count(*) FROM {}) AS documents"
        ).format(sql.Identifier(f"embver_{collection.name}_v{version}"), sql.Identifier(TABLE))
    )
    assert row is not None
    return row["vectors"], row["documents"]


def wait_until_ready(
    collection: Collection,
    version: int,
    worker: Process,
    meter: Meter,
    *,
    milestones: Sequence[Milestone] = (),
    remark: Callable[[], str] = lambda: "",
) -> None:
    """Wait until workers have filled a version, built its index and made it ready.

    Args:
        collection: The collection.
        version: The version that fills.
        worker: The worker that must live.
        meter: Is told how far it is.
        milestones: What to do on the way, by rising share.
        remark: Called at each look; text to show beside the progress.

    Raises:
        DemoFailedError: The worker died, or nothing moves.
    """
    seen, moved = -1, time.monotonic()
    ahead = list(milestones)
    while collection.version(version)["state"] == "filling":
        worker.check()
        vectors, documents = coverage(collection, version)
        meter.update(vectors, documents, remark())
        if ahead and vectors >= ahead[0].share * documents:
            ahead.pop(0).act(vectors / documents)
            moved = time.monotonic()
            continue
        if vectors != seen:
            seen, moved = vectors, time.monotonic()
        elif time.monotonic() - moved > _PATIENCE:
            raise DemoFailedError(
                f"Version {version} does not fill any further.",
                detail={"vectors": vectors, "documents": documents, "log": worker.said()},
            )
        time.sleep(_TICK)
