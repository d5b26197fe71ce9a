"""Probe texts, and whether an encoder still says of them what it said before.

The name of a model does not tell when another one answers to it; its vectors do.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.base import (
    Encoder,
    EncoderRefusedError,
    EncoderSpec,
    RejectedInputError,
    Vectors,
)
from embver_pg.encoders.blame import blaming
from embver_pg.encoders.checks import CheckedEncoder, validate

# Each shows something that another model, tokenizer or truncation would do otherwise. Versions
# keep the texts that they were probed with: a change here touches new versions only.
PROBES = (
    "aileron",
    "How long may a wing be flown at a high angle of attack before it stalls?",
    "向量数据库把文字变成数字。Векторы двух моделей нельзя сравнивать. لا تخلط المتجهات.",
    "def mean(xs: list[float]) -> float:\n    return sum(xs) / len(xs)  # SELECT avg(x) FROM t;",
    "Invoice no. 2024-00817: 3 × 19.99 € = 59.97 €, due 2024-03-31; https://example.org/?id=817",
    # Longer than the 512 tokens at which many models cut, and its end is not like its beginning.
    " ".join(
        f"In chapter {n} the air flows past wing number {n} at {7 * n} m/s." for n in range(40)
    ),
)
# The same float32 weights on other hardware, with other threads, batches or in TF32: 1 - cosine
# below 2e-6 (float16, measured with MiniLM). bfloat16: 3e-5 to 9e-5, and another space to us.
_EXACT = 1e-5
# Endpoints choose their arithmetic and their batches for themselves, and two answers of one model
# differ by as much as two runs in half precision do. int8: .06; another model: .1 and more.
_LOOSE = 1e-3
_OURS = frozenset({"hash", "model2vec", "sentence-transformers"})


@dataclass(frozen=True)
class Probes:
    """Texts and what they were encoded to.

    Attributes:
        texts: The ``n`` texts.
        vectors: ``[n, d] float32``.
        numbers: The number of each, from 1.
    """

    texts: tuple[str, ...]
    vectors: Vectors
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Deviation:
    """How far an encoder is from what was stored.

    Attributes:
        cosine: The worst of the probes; 0 where vectors have another length.
        probe: The number of that probe.
        tolerance: What 1 - cosine may be.
    """

    cosine: float
    probe: int
    tolerance: float

    @property
    def is_changed(self) -> bool:
        """Whether it is another space; a cosine that is no number is one too."""
        return not self.cosine >= 1.0 - self.tolerance


def encode_probes(encoder: Encoder, texts: Sequence[str] = PROBES) -> Probes:
    """What an encoder says of probe texts, without those that it refuses or has no vector for.

    Args:
        encoder: The encoder, checked or not.
        texts: The texts.

    Raises:
        EncoderRefusedError: It refuses them all.
        EmbverError: It cannot answer, or does not return one vector a text.
    """
    try:
        found = list(enumerate(_encode(encoder, texts), 1))
    except RejectedInputError as error:
        found = _one_by_one(encoder, texts)
        if not found:
            raise _refused(error) from error
    kept = [(number, vector) for number, vector in found if vector.any()]
    if not kept:
        raise EncoderRefusedError(
            "The encoder returns zero for every probe text.",
            hint="Check the model: embver search shows nothing with such vectors.",
        )
    return Probes(
        tuple(texts[number - 1] for number, _ in kept),
        np.stack([vector for _, vector in kept]),
        tuple(number for number, _ in kept),
    )


def deviation(encoder: Encoder, stored: Probes) -> Deviation:
    """Encode the probes again and compare each with what was stored.

    Raises:
        EncoderRefusedError: It refuses a text that it took before.
        EmbverError: It cannot answer, or does not return one vector a text.
    """
    try:
        found = _encode(encoder, stored.texts)
    except RejectedInputError as error:
        raise _refused(error) from error
    cosines = _cosines(found, stored.vectors)
    worst = int(np.argmin(np.nan_to_num(cosines, nan=-1.0)))
    return Deviation(float(cosines[worst]), stored.numbers[worst], tolerance(encoder.spec))


def tolerance(spec: EncoderSpec) -> float:
    """What 1 - cosine may be between two runs of one encoder."""
    exact = spec.provider in _OURS and spec.options.get("dtype", "float32") == "float32"
    return _EXACT if exact else _LOOSE


def _one_by_one(encoder: Encoder, texts: Sequence[str]) -> list[tuple[int, Vectors]]:
    """Number and vector of each text that is not refused."""
    found = []
    for number, text in enumerate(texts, 1):
        with suppress(RejectedInputError):
            found.append((number, _encode(encoder, [text])[0]))
    return found


def _encode(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    # A zero vector, which the check for the cosine metric refuses, is an answer here.
    inner = encoder.inner if isinstance(encoder, CheckedEncoder) else encoder
    with blaming(encoder.spec):
        found, dimensions = inner.encode_documents(list(texts)), encoder.dimensions
    return validate(found, len(texts), dimensions)


def _cosines(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    """``[n]``; 0 where a vector is zero or the lengths differ."""
    if one.shape != other.shape:
        return np.zeros(len(other))
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products: NDArray[np.float64] = np.einsum("nd,nd->n", a, b)
    cosines: NDArray[np.float64] = np.zeros(len(a))
    np.divide(products, lengths, out=cosines, where=lengths > 0)
    return cosines


def _refused(error: RejectedInputError) -> EncoderRefusedError:
    return EncoderRefusedError(
        f"The encoder refuses probe texts: {error.message}",
        detail=error.detail,
        hint="Nothing was written; check the model and its limits.",
    )
