"""What the demo found out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embver_pg.demo.searcher import Searches
from embver_pg.evaluation.run import Evaluation
from embver_pg.evaluation.statistics import mean_interval

METRICS = ("ndcg", "recall", "mrr")


@dataclass(frozen=True)
class Interval:
    """A mean over the questions with its 95 % t interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_share(self.mean)} ({_share(self.low)}–{_share(self.high)})"


@dataclass(frozen=True)
class Quality:
    """One line of the table of quality."""

    what: str
    version: int
    coverage: float
    questions: int
    ndcg: Interval
    recall: Interval
    mrr: Interval


@dataclass(frozen=True)
class Gate:
    """The decision between two versions; ``error`` is that of the refused promotion."""

    candidate: int
    baseline: int
    difference: float
    lower_bound: float
    margin: float
    passed: bool
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Writes:
    """What was written while the rollout ran: statements by kind, and documents."""

    statements: dict[str, int]
    documents: int
    found: int


@dataclass(frozen=True)
class KilledWorker:
    """The worker that was killed, and what became of its work."""

    pid: int
    coverage: float
    documents: int
    settled: int
    taken_over_after_seconds: float | None


@dataclass(frozen=True)
class Switch:
    """One change of the active version.

    Attributes:
        what: ``promote``, ``rollback``, ``forward``.
        to_version: The version that is active after it.
        milliseconds: How long the call took.
        stall_milliseconds: Longest time without an answer around it.
        later_documents: Documents written after the first promotion.
        found: How many of them this version finds.
    """

    what: str
    to_version: int
    milliseconds: float
    stall_milliseconds: float
    later_documents: int
    found: int


@dataclass(frozen=True)
class Verified:
    """A statement anyone can run again, and what it answered."""

    sql: str
    missing: int
    stale: int
    orphaned: int


@dataclass(frozen=True)
class Kept:
    """The server that was left up."""

    directory: str
    url: str
    psql: str
    stop: str


@dataclass(frozen=True)
class Report:
    """Everything; ``failures`` is empty where the demo kept its promises."""

    corpus: str
    documents: int
    questions: int
    server: str
    quality: tuple[Quality, ...]
    gate: Gate
    refused: Gate
    searches: Searches
    writes: Writes
    slowest_write_seconds: float
    killed_worker: KilledWorker | None
    switches: tuple[Switch, ...]
    verified: tuple[Verified, ...]
    phases: dict[str, float]
    seconds: float
    failures: tuple[str, ...]
    kept: Kept | None


def quality(what: str, evaluation: Evaluation, coverage: float = 1.0) -> Quality:
    """A line of the table, from an evaluation."""
    ndcg, recall, mrr = (Interval(*mean_interval(evaluation.values(name))) for name in METRICS)
    return Quality(what, evaluation.version, coverage, len(evaluation.query_ids), ndcg, recall, mrr)


def _share(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)
