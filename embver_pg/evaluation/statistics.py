"""The statistics of a gate: non-inferiority of paired means, and intervals of a mean.

The gate asks whether the mean of the paired differences d_i = candidate(q_i) - baseline(q_i)
is above -delta. It passes where the one-sided lower t bound is. Rank tests (Wilcoxon, sign)
answer another question and accept inferior means, so there are none here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embver_pg.errors import InvalidArgument

MIN_QUERIES = 2
"""Below it there is no standard deviation, hence no bound."""

FEW_QUERIES = 100
"""Below it the t bound is unreliable on skewed differences."""


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """A non-inferiority test of a candidate against a baseline on the same queries.

    Attributes:
        n: Number of queries.
        candidate_mean: Mean of the candidate's metric.
        baseline_mean: Mean of the baseline's metric.
        difference: Mean of candidate - baseline.
        sd: Standard deviation of the differences (n - 1); infinite for a single query.
        lower_bound: One-sided lower t bound of the difference at level 1 - alpha.
        delta: The margin: by how much the candidate may be worse.
        alpha: Error rate of a wrong pass.
        power: Power that the certifiable margin and ``needed`` refer to.
        certifiable_margin: Smallest margin that n queries certify with this power when there
            is no true difference.
        needed: Number of queries that certify ``delta``; None where no number does.
        refused: Why the test must not pass, whatever the bound; None where it may.
        warnings: What a reader of the verdict should know.
    """

    n: int
    candidate_mean: float
    baseline_mean: float
    difference: float
    sd: float
    lower_bound: float
    delta: float
    alpha: float
    power: float
    certifiable_margin: float
    needed: int | None
    refused: str | None
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate is shown to be no worse than the baseline by delta or more."""
        return self.refused is None and self.lower_bound > -self.delta

    def as_detail(self) -> dict[str, Any]:
        """A JSON-safe form for an error's detail and for the gate's row; infinite is None."""

        def finite(value: float) -> float | None:
            return value if math.isfinite(value) else None

        return {
            "passed": self.passed,
            "n": self.n,
            "candidate_mean": self.candidate_mean,
            "baseline_mean": self.baseline_mean,
            "difference": self.difference,
            "sd": finite(self.sd),
            "bound": finite(self.lower_bound),
            "margin": self.delta,
            "alpha": self.alpha,
            "power": self.power,
            "certifiable_margin": finite(self.certifiable_margin),
            "needed": self.needed,
            "refused": self.refused,
            "warnings": list(self.warnings),
        }


def compare_paired(
    candidate: ArrayLike,
    baseline: ArrayLike,
    *,
    delta: float,
    alpha: float = 0.05,
    power: float = 0.8,
    min_queries: int = MIN_QUERIES,
) -> PairedComparison:
    """Test whether ``candidate`` is worse than ``baseline`` by less than ``delta`` on average.

    Args:
        candidate: Metric of each query, ``[n]``.
        baseline: Metric of the same queries in the same order, ``[n]``.
        delta: Margin of non-inferiority, 0 or more, in units of the metric.
        alpha: One-sided error rate.
        power: Power of the certifiable margin.
        min_queries: Fewer queries than this are refused.

    Raises:
        InvalidArgument: Lengths differ, a value is not finite, there is no query, or a
            parameter is out of its range.
    """
    new, old = _values(candidate, "candidate"), _values(baseline, "baseline")
    if new.size != old.size:
        raise InvalidArgument(
            f"the candidate has {new.size} queries and the baseline {old.size}",
            detail={"candidate": new.size, "baseline": old.size},
            hint="Evaluate both versions on the same golden set.",
        )
    _check_share("alpha", alpha)
    if not (math.isfinite(delta) and delta >= 0):
        raise InvalidArgument(
            f"delta must be 0 or more, not {delta}",
            detail={"delta": str(delta)},
            hint="Try delta = 0.02.",
        )
    differences = new - old
    n = differences.size
    sd = _sd(differences)
    margin = certifiable_margin(n, sd, alpha=alpha, power=power)
    needed = needed_queries(delta, sd, alpha=alpha, power=power)
    refused = None
    if n < max(min_queries, MIN_QUERIES):
        refused = f"{n} judged queries are too few, {max(min_queries, MIN_QUERIES)} are required"
    return PairedComparison(
        n=n,
        candidate_mean=float(new.mean()),
        baseline_mean=float(old.mean()),
        difference=float(differences.mean()),
        sd=sd,
        lower_bound=_lower_bound(differences, sd, alpha),
        delta=float(delta),
        alpha=alpha,
        power=power,
        certifiable_margin=margin,
        needed=needed,
        refused=refused,
        warnings=_warnings(n, delta, margin, needed),
    )


def certifiable_margin(n: int, sd: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest margin that n paired queries certify when there is no true difference.

    ``(z[1 - alpha] + z[power]) * sd / sqrt(n)``: the normal approximation, about 2 % below the
    exact figure at n = 50 and 0.2 % at n = 500. Infinite for fewer than two queries.

    Raises:
        InvalidArgument: ``alpha`` or ``power`` is out of its range.
    """
    factor = _power_factor(alpha, power)
    return factor * sd / math.sqrt(n) if n >= MIN_QUERIES else math.inf


def needed_queries(
    delta: float, sd: float, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Number of queries whose certifiable margin is ``delta``; None where no number is enough.

    Raises:
        InvalidArgument: ``alpha`` or ``power`` is out of its range.
    """
    factor = _power_factor(alpha, power)
    if sd == 0:
        return MIN_QUERIES
    if delta <= 0 or not math.isfinite(sd):
        return None
    return max(MIN_QUERIES, math.ceil((factor * sd / delta) ** 2))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of ``values`` ([n]) with its two-sided t interval.

    Returns:
        ``(mean, low, high)``; the interval of a single value is ``(-inf, inf)``.

    Raises:
        InvalidArgument: There is no value, one is not finite, or ``confidence`` is not a share.
    """
    from scipy import stats

    _check_share("confidence", confidence)
    data = _values(values, "values")
    centre, sd = float(data.mean()), _sd(data)
    if not math.isfinite(sd):
        return centre, -math.inf, math.inf
    t = float(stats.t.ppf((1 + confidence) / 2, data.size - 1))
    half = t * sd / math.sqrt(data.size)
    return centre, centre - half, centre + half


def _lower_bound(differences: NDArray[np.float64], sd: float, alpha: float) -> float:
    from scipy import stats

    n = differences.size
    if not math.isfinite(sd):
        return -math.inf
    t = float(stats.t.ppf(1 - alpha, n - 1))
    return float(differences.mean()) - t * sd / math.sqrt(n)


def _sd(values: NDArray[np.float64]) -> float:
    if values.size < MIN_QUERIES:
        return math.inf
    # Rounding gives equal values a tiny deviation; say 0.
    return float(values.std(ddof=1)) if np.ptp(values) > 0 else 0.0


def _warnings(n: int, delta: float, margin: float, needed: int | None) -> tuple[str, ...]:
    found = []
    if n < FEW_QUERIES:
        found.append(
            f"{n} judged queries are few: below {FEW_QUERIES} the bound is unreliable where the "
            "differences are skewed"
        )
    if margin > delta:
        reach = f"needs {needed}" if needed is not None else "no number of queries does"
        found.append(f"cannot certify a margin of {delta:g} with {n} queries, {reach}")
    return tuple(found)


def _power_factor(alpha: float, power: float) -> float:
    from scipy import stats

    _check_share("alpha", alpha)
    _check_share("power", power)
    return float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(power))


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InvalidArgument(
            f"{name} must be between 0 and 1, not {value}",
            detail={name: str(value)},
            hint="Use a share such as 0.05, not a percentage.",
        )


def _values(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        data = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"{name} must be numbers", detail={"argument": name, "error": str(error)}
        ) from error
    if data.ndim != 1 or data.size == 0:
        raise InvalidArgument(
            f"{name} must be a list of at least one number, one for each query",
            detail={"argument": name, "shape": list(data.shape)},
            hint="Import a golden set with judged queries and evaluate it first.",
        )
    if not np.isfinite(data).all():
        raise InvalidArgument(
            f"{name} has a value that is not finite",
            detail={"argument": name, "position": int(np.flatnonzero(~np.isfinite(data))[0])},
            hint="Evaluate the version again.",
        )
    return data
