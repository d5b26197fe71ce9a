"""How many tokens texts have: by the model's own tokenizer, or by their bytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.base import Encoder
from embver_pg.encoders.checks import CheckedEncoder

Counts = NDArray[np.int64]
_MARKS = 2  # what some tokenizers put around a text
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of texts.

    Attributes:
        count: ``n`` texts, with their prompt, to ``[n] int64``.
        method: Who counts, for people.
        is_exact: Whether the count is the model's own.
        prompt: What stands before each document and is not counted by ``count``.
    """

    count: Callable[[Sequence[str]], Counts]
    method: str
    is_exact: bool
    prompt: str = ""

    def documents(self, texts: Sequence[str]) -> Counts:
        """The tokens of each document as the model sees it, ``[n] int64``."""
        return self.count([self.prompt + text for text in texts] if self.prompt else texts)


def token_counter(encoder: Encoder) -> TokenCounter:
    """The best estimate: the model's tokenizer, tiktoken, or a quarter of the bytes, a guess.

    Args:
        encoder: An encoder; with a method ``count_tokens`` it is asked itself.
    """
    return _own(encoder) or token_guess(encoder)


def token_guess(encoder: Encoder) -> TokenCounter:
    """A quarter of the bytes, which costs next to nothing to count."""
    return TokenCounter(
        lambda texts: np.maximum(1, -(-_bytes(texts) // _BYTES_PER_TOKEN)),
        "a guess: bytes / 4",
        False,
        encoder.spec.document_prompt or "",
    )


def token_bound(encoder: Encoder) -> TokenCounter:
    """A count that is never too small: the model's tokenizer, or a token for each byte.

    A token of a byte-level vocabulary has at least one byte; two more are the marks that other
    tokenizers put around a text.
    """
    return _own(encoder) or TokenCounter(
        lambda texts: _bytes(texts) + _MARKS,
        "at most: bytes",
        False,
        encoder.spec.document_prompt or "",
    )


def _own(encoder: Encoder) -> TokenCounter | None:
    inner: Any = encoder.inner if isinstance(encoder, CheckedEncoder) else encoder
    if hasattr(inner, "count_tokens"):
        return TokenCounter(inner.count_tokens, "the model's tokenizer", True)
    spec = encoder.spec
    vocabulary = _tiktoken(spec.model) if spec.provider == "openai" else None
    if vocabulary is None:
        return None

    def count(texts: Sequence[str]) -> Counts:
        # Lone surrogates and special tokens are text like any other.
        clean = [text.encode("utf-8", errors="replace").decode() for text in texts]
        return _lengths(vocabulary.encode_ordinary_batch(clean))

    return TokenCounter(count, f"tiktoken {vocabulary.name}", True, spec.document_prompt or "")


@lru_cache(maxsize=16)
def _tiktoken(model: str) -> Any:
    """The vocabulary of a model of OpenAI; None for any other, or where it cannot be had."""
    if importlib.util.find_spec("tiktoken") is None:
        return None
    import tiktoken

    try:
        return tiktoken.encoding_for_model(model)
    except Exception:  # an unknown name; or the vocabulary cannot be downloaded
        return None


def _bytes(texts: Sequence[str]) -> Counts:
    lengths = (len(text.encode("utf-8", errors="replace")) for text in texts)
    return np.fromiter(lengths, dtype=np.int64, count=len(texts))


def _lengths(found: Sequence[Sequence[int]]) -> Counts:
    return np.fromiter(map(len, found), dtype=np.int64, count=len(found))
