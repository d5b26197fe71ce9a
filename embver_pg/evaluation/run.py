"""Evaluations: a golden set through the SQL search of a version, and the gate between two."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from embver_pg import codec
from embver_pg.db import Database, Row
from embver_pg.encoders import Encoder, Vectors
from embver_pg.errors import InvalidArgument
from embver_pg.evaluation.golden import read_stored
from embver_pg.evaluation.golden_files import GoldenQuery
from embver_pg.evaluation.metrics import QueryMetrics, mean, score_query
from embver_pg.evaluation.statistics import PairedComparison, compare_paired

_CHUNK = 256  # queries encoded at once: bounds memory


@dataclass(frozen=True)
class Evaluation:
    """One measured run.

    Attributes:
        id: Number in ``embver.evaluations``.
        version: The version searched.
        golden_set_id: The golden set.
        k: Depth of the metrics.
        query_ids: The queries, in order.
        metrics: Per query, in the same order.
        seconds: Search time per query.
    """

    id: int
    version: int
    golden_set_id: int
    k: int
    query_ids: tuple[str, ...]
    metrics: tuple[QueryMetrics, ...]
    seconds: tuple[float, ...]

    @property
    def mean(self) -> QueryMetrics:
        """Means over the queries."""
        return mean(self.metrics)

    def values(self, metric: str) -> np.ndarray[Any, Any]:
        """One metric per query, ``[n] float64``."""
        return np.array([getattr(each, metric) for each in self.metrics], dtype=np.float64)


@dataclass(frozen=True)
class Gate:
    """The kept decision of a comparison."""

    id: int
    metric: str
    comparison: PairedComparison


def evaluate_version(
    database: Database,
    collection: str,
    version: Row,
    encoder: Encoder,
    *,
    golden_set: str | None = None,
    k: int = 10,
    exact: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Run every query of a golden set through ``embver_<collection>.search``.

    Args:
        database: Where the collection is.
        collection: Its name.
        version: A row of ``embver.versions``.
        encoder: The version's encoder.
        golden_set: Its name; default the newest.
        k: Depth of the metrics.
        exact: Scan every vector in place of the index.
        advance: Told how many queries are done.

    Raises:
        InvalidArgument: There is no golden set.
        RouteChanged: The version is not live.
    """
    golden_set_id, queries = read_stored(database, collection, golden_set)
    started_at = database.value("SELECT clock_timestamp()")
    metrics: list[QueryMetrics] = []
    seconds: list[float] = []
    for start in range(0, len(queries), _CHUNK):
        chunk = queries[start : start + _CHUNK]
        vectors = encoder.encode_queries([query.text for query in chunk])
        for query, ranking, took in _ranked(
            database, collection, version["version"], chunk, vectors, k, exact
        ):
            metrics.append(score_query(ranking, query.judgments, k))
            seconds.append(took)
        advance(len(chunk))
    identifier = database.value(
        "SELECT embver_internal.record_evaluation(%s, %s, %s, 'single', %s, %s, %s, %s, %s, %s,"
        " %s, %s)",
        (
            collection,
            version["version"],
            golden_set_id,
            exact,
            k,
            started_at,
            [query.id for query in queries],
            [each.ndcg for each in metrics],
            [each.recall for each in metrics],
            [each.mrr for each in metrics],
            seconds,
        ),
    )
    return Evaluation(
        identifier,
        version["version"],
        golden_set_id,
        k,
        tuple(query.id for query in queries),
        tuple(metrics),
        tuple(seconds),
    )


def record_gate(
    database: Database,
    collection: str,
    candidate: Evaluation,
    baseline: Evaluation,
    *,
    metric: str = "ndcg",
    margin: float | None = None,
    alpha: float | None = None,
) -> Gate:
    """Compare two evaluations of one golden set, and keep the decision.

    Args:
        database: Where the collection is.
        collection: Its name.
        candidate: Of the version to promote.
        baseline: Of the active version.
        metric: ``ndcg``, ``recall`` or ``mrr``.
        margin: How much worse the candidate may be; default the open rollout's, else .02.
        alpha: One-sided error; default the open rollout's, else .05.

    Raises:
        InvalidArgument: The evaluations are of different golden sets or depths.
    """
    if metric not in ("ndcg", "recall", "mrr"):
        raise InvalidArgument(
            f"There is no metric {metric!r}.",
            detail={"metric": metric},
            hint="Use ndcg, recall or mrr.",
        )
    if (candidate.golden_set_id, candidate.k) != (baseline.golden_set_id, baseline.k):
        raise InvalidArgument(
            "The two evaluations are not of the same queries and depth.",
            detail={"candidate": candidate.id, "baseline": baseline.id},
            hint="Evaluate both versions in one call.",
        )
    options = database.value(
        "SELECT coalesce((SELECT options FROM embver.rollouts WHERE collection = %s"
        " ORDER BY rollout_id DESC LIMIT 1), embver_internal.rollout_options('{}'))",
        (collection,),
    )
    delta = float(options["margin"] if margin is None else margin)
    level = float(options["alpha"] if alpha is None else alpha)
    comparison = compare_paired(
        candidate.values(metric), baseline.values(metric), delta=delta, alpha=level
    )
    identifier = database.value(
        "SELECT embver_internal.record_gate(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            collection,
            candidate.id,
            baseline.id,
            metric,
            delta,
            level,
            comparison.n,
            comparison.difference,
            comparison.lower_bound,
            comparison.certifiable_margin,
        ),
    )
    return Gate(identifier, metric, comparison)


def _ranked(
    database: Database,
    collection: str,
    version: int,
    queries: Sequence[GoldenQuery],
    vectors: Vectors,
    k: int,
    exact: bool,
) -> list[tuple[GoldenQuery, list[str], float]]:
    """The documents found for each query, by the names that judgments use, and the time taken."""
    names = database.value(
        "SELECT key_columns FROM embver.collections WHERE name = %s", (collection,)
    )
    key = sql.SQL(", ").join(sql.SQL("h.{}::text").format(sql.Identifier(name)) for name in names)
    query = sql.SQL(
        "SELECT embver_internal.key_as_text(jsonb_build_array({key})) AS name"
        " FROM {search}(ARRAY[embver.query(%s, %s, %s)], %s, mode => 'single', options => %s) AS h"
        " ORDER BY h.rank"
    ).format(key=key, search=sql.Identifier(f"embver_{collection}", "search"))
    options = Jsonb({"exact": True} if exact else {})
    found = []
    with database.connection() as connection:
        for judged, vector in zip(queries, vectors, strict=True):
            began = time.perf_counter()
            rows = connection.execute(
                query, (collection, version, codec.Vector(vector), k, options)
            ).fetchall()
            took = time.perf_counter() - began
            found.append((judged, [row["name"] for row in rows], took))
    return found
