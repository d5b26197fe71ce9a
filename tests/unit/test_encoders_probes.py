"""Probes: the same model on other hardware passes, another arithmetic or model does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from embver_pg.encoders import (
    Encoder,
    EncoderRefusedError,
    EncoderSpec,
    RejectedInputError,
    TransientEncoderError,
    Vectors,
    load,
)
from embver_pg.encoders.probes import PROBES, Probes, deviation, encode_probes, tolerance
from embver_pg.errors import DimensionMismatch

MINILM = "sentence-transformers:sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class Changed:
    """An encoder whose vectors somebody changes."""

    change: Any
    inner: Encoder = field(default_factory=lambda: load("hash:64"))
    dimensions: int = 64

    @property
    def spec(self) -> EncoderSpec:
        return self.inner.spec

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        raise NotImplementedError

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        return np.asarray(self.change(list(texts), self.inner.encode_documents(texts)))


def test_the_same_model_is_the_same() -> None:
    for uri in ("hash:1", "hash:8", "hash:384"):
        found = deviation(load(uri), encode_probes(load(uri)))
        assert found.cosine == pytest.approx(1.0)
        assert not found.is_changed
    # Vectors need not have unit length, and the length is no matter of the space of a cosine.
    raw = load("hash:64", normalize=False)
    assert not deviation(raw, encode_probes(raw)).is_changed


def test_the_probes_are_six_different_texts() -> None:
    assert len(set(PROBES)) == 6
    assert min(map(len, PROBES)) < 10
    assert max(map(len, PROBES)) > 2000
    assert any(ord(c) > 0x4E00 for text in PROBES for c in text)


@pytest.mark.parametrize(("share", "is_changed"), [(0.0, False), (1e-3, False), (1e-2, True)])
def test_one_deviating_probe_is_named(share: float, is_changed: bool) -> None:
    def change(texts: list[str], vectors: Vectors) -> Vectors:
        vectors[3] += share * np.roll(vectors[3], 1)
        return vectors

    found = deviation(Changed(change), encode_probes(load("hash:64")))
    assert found.is_changed is is_changed
    assert found.probe == 4 or share == 0.0


@pytest.mark.parametrize(
    ("dtype", "is_changed"), [("float32", False), ("float16", False), ("bfloat16", True)]
)
def test_other_arithmetic(dtype: str, is_changed: bool) -> None:
    """Half precision stands for the differences of hardware, of which it is the upper end."""
    pytest.importorskip("sentence_transformers")
    stored = encode_probes(load(MINILM))
    other = load(MINILM, dtype=dtype)
    again = Changed(lambda texts, _: other.encode_documents(texts), load(MINILM), 384)
    assert deviation(again, stored).is_changed is is_changed


def test_tolerance_follows_who_computes() -> None:
    spec = EncoderSpec("sentence-transformers", "m")
    assert tolerance(spec) == tolerance(EncoderSpec("hash", "8")) == 1e-5
    assert tolerance(replace(spec, options={"dtype": "bfloat16"})) == 1e-3
    assert tolerance(EncoderSpec("openai", "m")) == tolerance(EncoderSpec("plug-in", "m")) == 1e-3


def test_refused_and_empty_probes_are_left_out() -> None:
    def change(texts: list[str], vectors: Vectors) -> Vectors:
        if PROBES[5] in texts:
            raise RejectedInputError("too long")
        for row, text in zip(vectors, texts, strict=True):
            if text == PROBES[2]:
                row[:] = 0
        return vectors

    found = encode_probes(Changed(change))
    assert found.numbers == (1, 2, 4, 5)
    assert not deviation(Changed(change), found).is_changed
    stored = encode_probes(load("hash:64"))
    with pytest.raises(EncoderRefusedError):  # it took that text before
        deviation(Changed(change), stored)


def refuse(texts: list[str], vectors: Vectors) -> Vectors:
    raise RejectedInputError("no")


def away(texts: list[str], vectors: Vectors) -> Vectors:
    raise TransientEncoderError("503")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (refuse, EncoderRefusedError),
        (lambda texts, vectors: vectors * 0, EncoderRefusedError),
        (lambda texts, vectors: vectors * np.nan, EncoderRefusedError),
        (away, TransientEncoderError),
        (lambda texts, vectors: vectors[:, :8], DimensionMismatch),
    ],
)
def test_an_encoder_that_gives_nothing(change: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_probes(Changed(change))


def test_a_zero_vector_is_another_space_and_not_a_refusal() -> None:
    stored = encode_probes(load("hash:64"))
    found = deviation(Changed(lambda texts, vectors: vectors * 0), stored)
    assert (found.cosine, found.is_changed) == (0.0, True)
    short = Probes(stored.texts, stored.vectors[:, :8], stored.numbers)
    assert deviation(load("hash:64"), short).is_changed
