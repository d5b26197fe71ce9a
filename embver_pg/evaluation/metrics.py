"""Ranking metrics of one query and their mean, as trec_eval defines them.

A document is relevant when its grade is 1 or more. Documents without a judgment, and those
with a grade of 0 or less, are not relevant and gain nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embver_pg.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class QueryMetrics:
    """The metrics at one cutoff k, of one query or averaged over queries; each in [0, 1].

    Attributes:
        ndcg: nDCG@k with linear gain.
        recall: Share of the relevant documents that are in the first k.
        mrr: Reciprocal rank of the first relevant document, 0 where none is in the first k.
    """

    ndcg: float
    recall: float
    mrr: float


def score_query(ranking: Sequence[str], judgments: Mapping[str, int], k: int) -> QueryMetrics:
    """Score one ranking against the judgments of its query.

    nDCG is that of Järvelin and Kekäläinen (2002) in trec_eval's form (``ndcg_cut``): gain =
    grade, discount = 1 / log2(rank + 1), ideal = the judged documents by falling grade.

    Args:
        ranking: Document ids, best first, each once; may be shorter or longer than ``k``.
        judgments: Grade of each judged document.
        k: Cutoff, at least 1.

    Returns:
        The metrics; all 0 for a query without any relevant document. Such a query says nothing
        about a ranking, so :mod:`embver_pg.evaluation.golden_files` leaves it out.

    Raises:
        InvalidArgument: ``k`` is below 1, or a document is ranked twice.
    """
    if k < 1:
        raise InvalidArgument(f"k must be at least 1, not {k}", detail={"k": k}, hint="Try k = 10.")
    if len(set(ranking)) != len(ranking):
        raise InvalidArgument(
            "the ranking names a document more than once",
            detail={"ranked": len(ranking), "distinct": len(set(ranking))},
            hint="Keep the best chunk of each document before scoring.",
        )
    gains = np.array([max(judgments.get(doc, 0), 0) for doc in ranking[:k]], dtype=np.float64)
    ideal = np.array(sorted((g for g in judgments.values() if g > 0), reverse=True), np.float64)
    if ideal.size == 0:
        return QueryMetrics(0.0, 0.0, 0.0)
    hits = np.flatnonzero(gains)
    return QueryMetrics(
        # The two sums may round differently: a perfect ranking must not exceed 1.
        ndcg=min(_dcg(gains) / _dcg(ideal[:k]), 1.0),
        recall=float(hits.size / ideal.size),
        mrr=float(1.0 / (hits[0] + 1)) if hits.size else 0.0,
    )


def mean(scores: Sequence[QueryMetrics]) -> QueryMetrics:
    """Mean of each metric over queries.

    Raises:
        InvalidArgument: There is no score to average.
    """
    if not scores:
        raise InvalidArgument(
            "no query was scored",
            detail={"queries": 0},
            hint="Import a golden set with at least one judged query.",
        )
    table = np.array([(s.ndcg, s.recall, s.mrr) for s in scores], dtype=np.float64)
    ndcg, recall, mrr = table.mean(axis=0).tolist()
    return QueryMetrics(ndcg, recall, mrr)


def _dcg(gains: NDArray[np.float64]) -> float:
    """Discounted cumulative gain of ``gains`` ([n] float64) in rank order."""
    return float(gains @ (1.0 / np.log2(np.arange(2, gains.size + 2, dtype=np.float64))))
