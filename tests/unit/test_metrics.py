"""Metrics against pytrec_eval (trec_eval itself) and against cases worked by hand."""

from __future__ import annotations

import math

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from embver_pg.errors import InvalidArgument
from embver_pg.evaluation.metrics import QueryMetrics, mean, score_query

DOCS = [f"d{i}" for i in range(40)]
RANKINGS = st.lists(st.sampled_from(DOCS), unique=True, max_size=40)
JUDGMENTS = st.dictionaries(st.sampled_from(DOCS), st.integers(-3, 4), min_size=1, max_size=30)
# pytrec_eval 0.5.11 crashes the process on grades below -1, so the oracle stops there.
TREC_JUDGMENTS = st.dictionaries(st.sampled_from(DOCS), st.integers(-1, 4), min_size=1, max_size=30)


def oracle(ranking: list[str], judgments: dict[str, int], k: int) -> QueryMetrics:
    names = {f"ndcg_cut.{k}", f"recall.{k}", "recip_rank"}
    run = {doc: float(len(ranking) - i) for i, doc in enumerate(ranking[:k])}
    found = pytrec_eval.RelevanceEvaluator({"q": judgments}, names).evaluate({"q": run})["q"]
    return QueryMetrics(found[f"ndcg_cut_{k}"], found[f"recall_{k}"], found["recip_rank"])


@settings(max_examples=600, deadline=None)
@given(ranking=RANKINGS, judgments=TREC_JUDGMENTS, k=st.integers(1, 50))
def test_equals_trec_eval(ranking: list[str], judgments: dict[str, int], k: int) -> None:
    ours, theirs = score_query(ranking, judgments, k), oracle(ranking, judgments, k)
    assert ours.ndcg == pytest.approx(theirs.ndcg, abs=1e-9)
    assert ours.recall == pytest.approx(theirs.recall, abs=1e-9)
    assert ours.mrr == pytest.approx(theirs.mrr, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(ranking=RANKINGS, judgments=JUDGMENTS, k=st.integers(1, 50))
def test_any_grade_below_one_is_no_judgment(
    ranking: list[str], judgments: dict[str, int], k: int
) -> None:
    positive = {doc: grade for doc, grade in judgments.items() if grade > 0}
    assert score_query(ranking, judgments, k) == score_query(ranking, positive, k)


@settings(max_examples=200, deadline=None)
@given(judgments=JUDGMENTS, k=st.integers(1, 50))
def test_the_ideal_ranking_scores_one(judgments: dict[str, int], k: int) -> None:
    ranking = sorted(judgments, key=lambda doc: -judgments[doc])
    found = score_query(ranking, judgments, k)
    positives = sum(grade > 0 for grade in judgments.values())
    expected = 1.0 if positives else 0.0
    assert found.ndcg == pytest.approx(expected, abs=1e-12)
    assert found.ndcg <= 1.0
    assert found.mrr == expected
    assert found.recall == (min(k, positives) / positives if positives else 0.0)


def test_worked_by_hand() -> None:
    found = score_query(["x", "b", "a", "c"], {"a": 3, "b": 1, "c": 2, "z": 0}, 3)
    dcg = 1 / math.log2(3) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert found.ndcg == pytest.approx(dcg / ideal)
    assert found.recall == pytest.approx(2 / 3)
    assert found.mrr == 0.5


@pytest.mark.parametrize("judgments", [{}, {"a": 0}, {"a": -1, "b": 0}])
def test_a_query_without_positives_scores_zero(judgments: dict[str, int]) -> None:
    assert score_query(["a", "b"], judgments, 10) == QueryMetrics(0.0, 0.0, 0.0)


def test_an_empty_ranking_scores_zero() -> None:
    assert score_query([], {"a": 1}, 10) == QueryMetrics(0.0, 0.0, 0.0)


def test_a_relevant_document_after_k_does_not_count() -> None:
    assert score_query(["x", "y", "a"], {"a": 1}, 2) == QueryMetrics(0.0, 0.0, 0.0)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(InvalidArgument, match="k must be at least 1"):
        score_query(["a"], {"a": 1}, k)


def test_a_document_ranked_twice_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="more than once"):
        score_query(["a", "b", "a"], {"a": 1}, 10)


def test_mean() -> None:
    found = mean([QueryMetrics(1.0, 0.5, 0.25), QueryMetrics(0.0, 0.0, 0.75)])
    assert found == QueryMetrics(0.5, 0.25, 0.5)
    with pytest.raises(InvalidArgument, match="no query"):
        mean([])
