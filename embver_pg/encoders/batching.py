"""Micro-batches for models that run here: sorted by length, cut by a budget of tokens.

A batch is padded to its longest text, so its cost is longest x size. Sorting by length keeps
the padding small, and the budget keeps activations of one size, and so the memory flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.base import Vectors

DEFAULT_TOKEN_BUDGET = 2048  # the fastest of 1024 to 8192 for MiniLM on two cores
_CHARACTERS_PER_TOKEN = 4


def approximate_lengths(texts: Sequence[str], limit: int | None = None) -> NDArray[np.int64]:
    """The lengths of texts in tokens, guessed as a quarter of their characters, ``[n] int64``.

    Args:
        texts: The texts.
        limit: The model's truncation, in tokens.
    """
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    tokens = lengths // _CHARACTERS_PER_TOKEN + 1
    return tokens if limit is None else np.minimum(tokens, limit)


def micro_batches(
    lengths: Sequence[int] | NDArray[np.integer], budget: int
) -> Iterator[NDArray[np.intp]]:
    """The positions of the texts of each batch, the longest texts first.

    Every text is in exactly one batch, and longest x size of each batch is within the budget;
    a text that is longer than the budget is a batch of its own. The longest come first, so
    that memory that does not suffice is noticed at once.

    Args:
        lengths: The length of each text, in tokens.
        budget: The largest padded size of a batch, in tokens.
    """
    tokens = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-tokens, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, int(budget // tokens[order[start]]))
        yield order[start : start + size]
        start += size


def encode_in_batches(
    texts: Sequence[str],
    lengths: Sequence[int] | NDArray[np.integer],
    encode: Callable[[list[str]], Vectors],
    dimensions: int,
    budget: int = DEFAULT_TOKEN_BUDGET,
) -> Vectors:
    """The vectors of texts, encoded in micro-batches, in the order of the texts.

    Args:
        texts: The ``n`` texts.
        lengths: The length of each, in tokens.
        encode: Encodes one batch: ``m`` texts to ``[m, d]``.
        dimensions: The length ``d`` of a vector.
        budget: The largest padded size of a batch, in tokens.

    Returns:
        ``[n, d] float32``.
    """
    vectors = np.empty((len(texts), dimensions), dtype=np.float32)
    for positions in micro_batches(lengths, budget):
        vectors[positions] = encode([texts[i] for i in positions])
    return vectors
