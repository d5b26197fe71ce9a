"""The gate's statistics: against scipy's own test, the published table, and by simulation."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from embver_pg.errors import InvalidArgument
from embver_pg.evaluation.statistics import (
    certifiable_margin,
    compare_paired,
    mean_interval,
    needed_queries,
)

METRIC = st.floats(0, 1, allow_nan=False)
PAIRS = st.lists(st.tuples(METRIC, METRIC), min_size=2, max_size=60)


@settings(max_examples=200, deadline=None)
@given(pairs=PAIRS, alpha=st.sampled_from([0.01, 0.05, 0.1]))
def test_bound_and_verdict_equal_a_one_sided_t_test(
    pairs: list[tuple[float, float]], alpha: float
) -> None:
    new, old = np.array(pairs).T
    found = compare_paired(new, old, delta=0.02, alpha=alpha)
    if np.ptp(new - old) < 1e-6:
        assert found.lower_bound == pytest.approx(found.difference, abs=1e-5)
        return
    test = stats.ttest_rel(new, old, alternative="greater")
    low = test.confidence_interval(1 - alpha).low
    assert found.lower_bound == pytest.approx(low, abs=1e-9)
    assert found.passed == (found.lower_bound > -0.02)
    shifted = stats.ttest_1samp(new - old, -0.02, alternative="greater")
    if abs(shifted.pvalue - alpha) > 1e-9:
        assert found.passed == (shifted.pvalue < alpha)


@pytest.mark.parametrize(
    ("n", "margin"), [(50, 0.116), (100, 0.082), (200, 0.058), (400, 0.041), (1000, 0.026)]
)
def test_certifiable_margin_of_two_different_models(n: int, margin: float) -> None:
    assert round(certifiable_margin(n, 0.33), 3) == margin


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_certifiable_margin_has_the_power_it_states(n: int) -> None:
    """The exact power, by the noncentral t distribution, is the 80 % asked for."""
    margin = certifiable_margin(n, 0.33)
    critical = stats.t.ppf(0.95, n - 1)
    power = stats.nct.sf(critical, n - 1, margin / (0.33 / math.sqrt(n)))
    assert power == pytest.approx(0.8, abs=0.015)


@settings(max_examples=200, deadline=None)
@given(sd=st.floats(0.01, 0.6), delta=st.floats(0.005, 0.2))
def test_needed_queries_reach_the_margin_and_one_fewer_does_not(sd: float, delta: float) -> None:
    needed = needed_queries(delta, sd)
    assert needed is not None
    assert certifiable_margin(needed, sd) <= delta * (1 + 1e-12)
    if needed > 2:
        assert certifiable_margin(needed - 1, sd) > delta


def test_moments() -> None:
    found = compare_paired([0.5, 0.7, 0.9], [0.4, 0.8, 0.5], delta=0.1)
    assert found.n == 3
    assert found.difference == pytest.approx(0.4 / 3)
    assert found.candidate_mean == pytest.approx(0.7)
    assert found.baseline_mean == pytest.approx(1.7 / 3)
    assert found.sd == pytest.approx(np.std([0.1, -0.1, 0.4], ddof=1))


def test_identical_results_pass_any_positive_margin() -> None:
    values = np.linspace(0, 1, 150)
    found = compare_paired(values, values, delta=0.001)
    assert (found.difference, found.sd, found.lower_bound) == (0.0, 0.0, 0.0)
    assert found.passed
    assert found.certifiable_margin == 0.0
    assert found.warnings == ()


def test_a_constant_loss_fails_without_dividing_by_zero() -> None:
    found = compare_paired([0.5] * 150, [0.75] * 150, delta=0.2)
    assert found.lower_bound == found.difference == -0.25
    assert not found.passed


def test_a_bound_on_the_margin_does_not_pass() -> None:
    assert not compare_paired([0.5] * 150, [0.75] * 150, delta=0.25).passed
    assert not compare_paired([0.5] * 150, [0.5] * 150, delta=0.0).passed


def test_few_queries_and_unreachable_margins_are_said() -> None:
    rng = np.random.default_rng(1)
    old = rng.random(60)
    found = compare_paired(rng.random(60), old, delta=0.02)
    assert found.needed is not None
    assert any("60 judged queries are few" in text for text in found.warnings)
    assert f"cannot certify a margin of 0.02 with 60 queries, needs {found.needed}" in (
        found.warnings
    )
    zero = compare_paired(rng.random(200), rng.random(200), delta=0.0)
    assert zero.needed is None
    assert any("no number of queries" in text for text in zero.warnings)
    enough = compare_paired(old.repeat(5) + 0.01, old.repeat(5), delta=0.02)
    assert enough.passed
    assert enough.warnings == ()


def test_too_few_queries_are_refused() -> None:
    one = compare_paired([0.9], [0.1], delta=0.02)
    assert one.refused == "1 judged queries are too few, 2 are required"
    assert not one.passed
    asked = compare_paired([0.9] * 20, [0.1] * 20, delta=0.02, min_queries=30)
    assert asked.refused == "20 judged queries are too few, 30 are required"
    assert asked.lower_bound > -0.02
    assert not asked.passed


def test_detail_is_valid_json_even_without_a_bound() -> None:
    detail = compare_paired([0.9], [0.1], delta=0.02).as_detail()
    parsed = json.loads(json.dumps(detail, allow_nan=False))
    assert parsed["bound"] is None
    assert parsed["certifiable_margin"] is None
    assert parsed["passed"] is False
    full = compare_paired([0.9, 0.8], [0.1, 0.3], delta=0.02).as_detail()
    assert {"difference", "bound", "margin", "certifiable_margin"} <= full.keys()


@pytest.mark.parametrize(
    ("new", "old", "options", "message"),
    [
        ([0.1, 0.2], [0.1], {}, "the candidate has 2 queries and the baseline 1"),
        ([0.1, math.nan], [0.1, 0.2], {}, "candidate has a value that is not finite"),
        ([0.1, 0.2], [0.1, math.inf], {}, "baseline has a value that is not finite"),
        ([], [], {}, "at least one number"),
        ([[0.1]], [[0.1]], {}, "at least one number"),
        (["a"], [0.1], {}, "candidate must be numbers"),
        ([0.1], [0.1], {"delta": -0.1}, "delta must be 0 or more"),
        ([0.1], [0.1], {"delta": math.nan}, "delta must be 0 or more"),
        ([0.1], [0.1], {"alpha": 0.0}, "alpha must be between 0 and 1"),
        ([0.1], [0.1], {"alpha": 5}, "alpha must be between 0 and 1"),
        ([0.1], [0.1], {"power": 80}, "power must be between 0 and 1"),
    ],
)
def test_bad_input_is_refused(
    new: list[float], old: list[float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        compare_paired(new, old, **{"delta": 0.02, **options})


@settings(max_examples=100, deadline=None)
@given(values=st.lists(METRIC, min_size=2, max_size=50))
def test_mean_interval_equals_scipy(values: list[float]) -> None:
    centre, low, high = mean_interval(values)
    assert centre == pytest.approx(np.mean(values))
    if np.ptp(values) < 1e-6:
        assert high - low < 1e-5
        return
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_mean_interval_edges() -> None:
    assert mean_interval([0.4]) == (0.4, -math.inf, math.inf)
    assert mean_interval([0.4, 0.4, 0.4]) == pytest.approx((0.4, 0.4, 0.4))
    with pytest.raises(InvalidArgument, match="at least one number"):
        mean_interval([])
    with pytest.raises(InvalidArgument, match="confidence must be between"):
        mean_interval([0.1, 0.2], confidence=95)


@pytest.mark.parametrize("tail", [-1.0, 1.0], ids=["large losses", "large gains"])
def test_wrong_passes_stay_near_alpha_on_skewed_differences(tail: float) -> None:
    """True difference = -delta: the gate may pass in about 5 % of the draws, 7 % at most."""
    rng = np.random.default_rng(20240601)
    n, trials, delta = 200, 3000, 0.05
    baseline = np.zeros(n)
    wrong = 0
    for _ in range(trials):
        # A centred gamma of skewness 0.9 and standard deviation 0.3.
        noise = tail * (rng.gamma(5.0, 1.0, n) - 5.0) * (0.3 / math.sqrt(5.0))
        wrong += compare_paired(noise - delta, baseline, delta=delta).passed
    assert 0.03 <= wrong / trials <= 0.07


def test_a_clear_improvement_passes_though_the_margin_is_unreachable() -> None:
    rng = np.random.default_rng(7)
    old = rng.random(120) * 0.3
    new = np.clip(old + rng.normal(0.2, 0.3, 120), 0, 1)
    found = compare_paired(new, old, delta=0.02)
    assert found.certifiable_margin > 0.02
    assert found.lower_bound > 0
    assert found.passed
