"""Approximate search measured: the index of a version against an exact scan, query by query."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from embver_pg import codec
from embver_pg.db import Database, Row
from embver_pg.errors import InvalidArgument, NotReady
from embver_pg.evaluation.sampling import QuerySample
from embver_pg.evaluation.statistics import mean_interval
from embver_pg.indexing import index_state

SETTINGS = (40, 60, 100, 200, 400)
"""Of ``ef_search``: what is tried where nobody says what to try."""

QUERIES = 300
GOAL = 0.95


@dataclass(frozen=True)
class AnnSetting:
    """What one setting finds.

    Attributes:
        value: Of the search option.
        recall: Mean share of the exact answers that the index finds.
        low: Of the two-sided 95 % t interval of the mean.
        high: Likewise.
        seconds: Median time of a search.
        is_default: Whether searches that set nothing use it.
    """

    value: int
    recall: float
    low: float
    high: float
    seconds: float
    is_default: bool


@dataclass(frozen=True)
class AnnReport:
    """A comparison of index and exact search.

    Attributes:
        version: The version.
        k: How many documents a search asked for.
        setting: The search option that was varied.
        settings: What each value finds, in rising order.
        golden: Queries of the golden set.
        stored: Queries that are stored vectors with noise.
        goal: The recall that is wanted.
        exact_seconds: Median time of an exact search.
    """

    version: int
    k: int
    setting: str
    settings: tuple[AnnSetting, ...]
    golden: int
    stored: int
    goal: float
    exact_seconds: float

    @property
    def suggested(self) -> int | None:
        """The smallest value whose lower bound reaches the goal."""
        return next((each.value for each in self.settings if each.low >= self.goal), None)


def measure_ann(
    database: Database,
    collection: str,
    version: Row,
    sample: QuerySample,
    *,
    k: int = 10,
    values: Sequence[int] | None = None,
    goal: float = GOAL,
    advance: Callable[[int], None] = lambda count: None,
) -> AnnReport:
    """Compare the index of a version with exact search, and keep the figures.

    A document counts as found where it is as near as the k-th exact answer, so that ties do not
    look like errors. Exact and indexed searches of one query see the same snapshot.

    Args:
        database: Where the collection is.
        collection: Its name.
        version: A row of ``embver.versions``.
        sample: Queries in its space.
        k: How many documents.
        values: Of the search option; the one that searches use by default is tried in any case.
        goal: The recall that is wanted.
        advance: Told how many queries are done.

    Raises:
        InvalidArgument: The version has no index, or an argument is out of its range.
        NotReady: The index is not valid (yet).
    """
    if not 0 < goal <= 1:
        raise InvalidArgument(
            f"The recall wanted is above 0 and at most 1, not {goal}.",
            detail={"goal": goal},
            hint="Try 0.95.",
        )
    default = database.row(
        "SELECT setting, value FROM embver_internal.search_setting(%s, %s)",
        (Jsonb(version["index_spec"]), k),
    )
    if default is None or default["setting"] is None:
        raise InvalidArgument(
            f"Version {version['version']} of {collection!r} has no index: its searches are exact.",
            detail={"collection": collection, "version": version["version"]},
            hint="There is nothing to compare.",
        )
    setting = str(default["setting"])
    tried = sorted({default["value"], *(values if values is not None else SETTINGS)})
    tried = [value for value in tried if value >= min(k, default["value"])]
    with database.connection() as connection:
        state = index_state(connection, version["store"])
        if state != "valid":
            raise NotReady(
                f"The index of version {version['version']} of {collection!r} is {state}.",
                detail={"collection": collection, "version": version["version"], "index": state},
                hint="Let the workers finish: embver worker --drain",
            )
        started_at = database.value("SELECT clock_timestamp()")
        recalls, seconds = _compare(
            connection, collection, version["version"], sample, k, setting, tried, advance
        )
    settings = []
    for number, value in enumerate(tried, start=1):
        mean, low, high = mean_interval(recalls[number])
        settings.append(
            AnnSetting(
                value,
                min(mean, 1.0),
                low,
                high,
                median(seconds[number]),
                value == default["value"],
            )
        )
    database.rows(
        "SELECT embver_internal.record_ann_recall(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            collection,
            version["version"],
            k,
            setting,
            tried,
            [each.recall for each in settings],
            [min(each.low, each.recall) for each in settings],
            [max(each.high, each.recall) for each in settings],
            [each.seconds for each in settings],
            sample.golden,
            sample.stored,
            started_at,
        ),
    )
    return AnnReport(
        version["version"],
        k,
        setting,
        tuple(settings),
        sample.golden,
        sample.stored,
        goal,
        median(seconds[0]),
    )


def recall_of(exact: Sequence[float], found: Sequence[float]) -> float:
    """The share of the exact answers that was found, by distances in rising order."""
    limit = exact[-1] + 1e-9 * max(1.0, abs(exact[-1]))
    return min(1.0, sum(distance <= limit for distance in found) / len(exact))


def _compare(
    connection: psycopg.Connection[Row],
    collection: str,
    version: int,
    sample: QuerySample,
    k: int,
    setting: str,
    values: Sequence[int],
    advance: Callable[[int], None],
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], list[list[float]]]:
    """Recall ``[1 + settings, queries]`` and times likewise; the first row is the exact search."""
    query = sql.SQL(
        "SELECT h.distance FROM {search}(ARRAY[embver.query(%s, %s, %s)], %s, mode => 'single',"
        " options => %s) AS h ORDER BY h.rank"
    ).format(search=sql.Identifier(f"embver_{collection}", "search"))
    options = [Jsonb({"exact": True}), *(Jsonb({setting: value}) for value in values)]
    recalls = np.ones((len(options), len(sample)), dtype=np.float64)
    seconds: list[list[float]] = [[] for _ in options]
    for number, vector in enumerate(sample.vectors[0]):
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            exact: list[float] = []
            for row, each in enumerate(options):
                began = time.perf_counter()
                found = connection.execute(
                    query, (collection, version, codec.Vector(vector), k, each)
                ).fetchall()
                seconds[row].append(time.perf_counter() - began)
                distances = [float(hit["distance"]) for hit in found]
                if row == 0:
                    exact = distances
                elif exact:
                    recalls[row, number] = recall_of(exact, distances)
        advance(1)
    return recalls, seconds
