"""A random sample of a source, and totals estimated from it with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from embver_pg.db import Database
from embver_pg.errors import NotReady

EXACT_BYTES = 256 << 20  # of a table, TOAST included, that is counted and not estimated
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Range:
    """An estimate and its 95 % interval.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """The range of a multiple."""
        return Range(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Sample:
    """Random rows of a source.

    Attributes:
        rows: Rows of the source, the empty ones too.
        is_exact: Whether rows and documents are counted; else the planner's figure.
        documents: Rows with content.
        weights: How many rows each sampled one stands for, ``[n] float64``.
        texts: Their content; None where there is nothing to encode.
        key_bytes: Size of the key columns.
    """

    rows: int
    is_exact: bool
    documents: int
    weights: NDArray[np.float64]
    texts: tuple[str | None, ...]
    key_bytes: int

    @property
    def contents(self) -> list[str]:
        """The texts there are."""
        return [text for text in self.texts if text is not None]

    def total(self, values: Sequence[float] | NDArray[np.integer]) -> Range:
        """The sum over the whole source of a value that is known of the sampled rows.

        A ratio estimate, for rows stand for pages of different numbers of rows; Student's t over
        its linearised residuals, with the finite population correction where all were listed.

        Args:
            values: One a sampled row with content, in their order.
        """
        y = np.zeros(len(self.texts))
        y[[i for i, text in enumerate(self.texts) if text is not None]] = values
        return weighted_total(self.weights, y, self.rows, whole=self.is_exact)


def weighted_total(
    weights: NDArray[np.float64], y: NDArray[np.float64], rows: int, *, whole: bool
) -> Range:
    """``rows`` times the weighted mean of ``y`` ``[n]``, with its interval."""
    from scipy import stats

    n = len(y)
    if n == 0:
        return Range(0.0, 0.0, 0.0)
    ratio = float((weights * y).sum() / weights.sum())
    if whole and n >= rows:
        return Range(rows * ratio, rows * ratio, rows * ratio)
    if n == 1:
        return Range(rows * ratio, 0.0, math.inf)
    residuals = weights * (y - ratio)
    error = math.sqrt(n / (n - 1) * float((residuals**2).sum())) / float(weights.sum())
    if whole:
        error *= math.sqrt(1 - n / rows)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Range(rows * ratio, rows * max(0.0, ratio - half), rows * (ratio + half))


def draw(database: Database, collection: str, size: int, exact_bytes: int = EXACT_BYTES) -> Sample:
    """Take a sample; reads at most ``exact_bytes`` of the table, or some ``size`` pages.

    Args:
        database: Where the collection is.
        collection: Its name.
        size: Rows, at most.
        exact_bytes: Tables up to this size are read whole.

    Raises:
        NotReady: Nothing was found in a table that is not empty; ANALYZE is missing.
    """
    known = database.row("SELECT * FROM embver_internal.source_size(%s)", (collection,))
    assert known is not None
    schema = sql.Identifier(f"embver_{collection}")
    sampling = sql.SQL("SELECT * FROM {}.sample_documents(%s, %s)").format(schema)
    if known["bytes"] <= exact_bytes:
        counted = database.row(sql.SQL("SELECT * FROM {}.count_documents()").format(schema))
        assert counted is not None
        found = database.rows(sampling, (size, None))
        rows, documents, is_exact = counted["rows"], counted["documents"], True
    else:
        # Somewhat more pages than rows wanted: some are empty, and their number varies.
        percent = min(100.0, 110.0 * size / max(1, known["pages"]))
        found = database.rows(sampling, (size, percent))
        if not found:
            raise NotReady(
                f"No row was found in {size} random pages of the source of {collection!r}.",
                detail={"collection": collection, "pages": known["pages"]},
                hint="Take a larger --sample, or VACUUM ANALYZE the table.",
            )
        density = sum(row["weight"] for row in found) / len(found)
        rows = round(known["rows_estimate"] or density * known["pages"])
        documents, is_exact = rows, False
    sample = Sample(
        rows,
        is_exact,
        documents,
        np.array([row["weight"] for row in found], dtype=np.float64),
        tuple(row["content"] for row in found),
        known["key_bytes"],
    )
    if is_exact:
        return sample
    share = sample.total([1.0] * len(sample.contents)).value
    return Sample(rows, False, round(share), sample.weights, sample.texts, sample.key_bytes)
