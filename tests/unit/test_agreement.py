"""The comparison of existing vectors with their encoder: figures, interval, what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from embver_pg.agreement import Agreement, compare, refusal, wilson_interval
from embver_pg.db import Row
from embver_pg.encoders import RejectedInputError, load
from embver_pg.errors import DimensionMismatch, InvalidArgument

HASH = load("hash:16")
TEXTS = [f"text number {i} of several words" for i in range(20)]


def rows(vectors: np.ndarray[Any, Any]) -> list[Row]:
    return [
        {"content": text, "dimensions": len(vector), "vector_values": vector.tolist()}
        for text, vector in zip(TEXTS, vectors, strict=True)
    ]


def test_the_interval_is_wilsons() -> None:
    assert wilson_interval(64, 64) == pytest.approx((0.9434, 1.0), abs=1e-4)
    assert wilson_interval(0, 40) == pytest.approx((0.0, 0.0876), abs=1e-4)
    assert wilson_interval(32, 40) == pytest.approx((0.6524, 0.8950), abs=1e-4)


def test_vectors_of_the_encoder_agree() -> None:
    vectors = HASH.encode_documents(TEXTS)
    figures = compare(rows(vectors), HASH, "l2", Agreement(), "embedding")
    assert (figures["passed"], figures["agree"], figures["share"]) == (True, 20, 1.0)
    longer = rows(vectors * 3)
    assert compare(longer, HASH, "cosine", Agreement(), "embedding")["passed"]
    assert not compare(longer, HASH, "ip", Agreement(), "embedding")["passed"]


def test_the_share_decides() -> None:
    vectors = HASH.encode_documents(TEXTS)
    vectors[:2] = -vectors[:2]
    figures = compare(rows(vectors), HASH, "cosine", Agreement(), "embedding")
    assert (figures["passed"], figures["agree"]) == (False, 18)
    assert figures["lowest_cosine"] == pytest.approx(-1)
    assert refusal(figures, "docs", "embedding").detail["reason"] == "mixed"
    assert compare(rows(vectors), HASH, "cosine", Agreement(min_share=0.9), "e")["passed"]
    figures = compare(rows(-vectors), HASH, "cosine", Agreement(), "embedding")
    assert refusal(figures, "docs", "embedding").detail["reason"] == "other_model"


class Squeamish:
    """Rejects a batch that holds one of its texts."""

    spec, dimensions, fingerprint = HASH.spec, HASH.dimensions, HASH.fingerprint

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)

    def encode_documents(self, texts: Sequence[str]) -> Any:
        if self.bad & set(texts):
            raise RejectedInputError("one of them is too long")
        return HASH.encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> Any:
        return HASH.encode_queries(texts)


def test_what_cannot_be_compared_is_left_out() -> None:
    sample = rows(HASH.encode_documents(TEXTS))
    sample[0]["vector_values"] = [0.0] * 16
    sample[1] = {**sample[1], "dimensions": 3, "vector_values": [1.0, 2.0, 3.0]}
    figures = compare(sample, Squeamish(TEXTS[2], TEXTS[3]), "cosine", Agreement(), "embedding")
    assert (figures["passed"], figures["documents"], figures["agree"]) == (True, 16, 16)
    assert (figures["other_dimensions"], figures["rejected"]) == (1, 2)
    with pytest.raises(DimensionMismatch):
        compare(sample, load("hash:8"), "cosine", Agreement(), "embedding")
    for nothing in ([], sample[:1]):
        with pytest.raises(InvalidArgument):
            compare(nothing, HASH, "cosine", Agreement(), "embedding")
    with pytest.raises(InvalidArgument):
        compare(sample, Squeamish(*TEXTS), "cosine", Agreement(), "embedding")
