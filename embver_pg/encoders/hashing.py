"""The encoder ``hash:<dimensions>``: signed feature hashing of word tokens.

A lexical baseline that needs no model, and a deterministic encoder for tests. After
Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (ICML 2009): each
token adds +1 or -1 at one position, both taken from its hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from embver_pg.encoders.base import EncoderSpec, Vectors
from embver_pg.encoders.checks import unit_rows
from embver_pg.encoders.identity import fingerprint
from embver_pg.encoders.options import checked_options
from embver_pg.encoders.overflow import apply_policy, overflow_policy, tokens_reason
from embver_pg.errors import InvalidArgument

MAX_DIMENSIONS = 16_000  # pgvector's limit for the type vector
_WORD = re.compile(r"\w+")
_IDENTITY = "hash/1"  # changes when the same text would get another vector


class HashEncoder:
    """Signed feature hashing of case-folded words, unit length, the same on every machine."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Take the dimensions from the model's name.

        Raises:
            InvalidArgument: The name is no number from 1 to 16000.
        """
        checked_options(spec, overflow=str)
        self._overflow = overflow_policy(spec)
        if not re.fullmatch(r"[0-9]{1,5}", spec.model) or not (
            1 <= int(spec.model) <= MAX_DIMENSIONS
        ):
            raise InvalidArgument(
                f"A hash encoder has 1 to {MAX_DIMENSIONS} dimensions, not {spec.model!r}.",
                detail={"model": spec.model},
                hint="Write hash:256",
            )
        if spec.dimensions not in (None, int(spec.model)):
            raise InvalidArgument(
                f"hash:{spec.model} has {spec.model} dimensions, not {spec.dimensions}.",
                detail={"model": spec.model, "dimensions": spec.dimensions},
                hint=f"Write hash:{spec.dimensions}",
            )
        self.spec = spec
        self.dimensions = int(spec.model)
        self.fingerprint = fingerprint(spec, self.dimensions, _IDENTITY)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``; none of them is zero.

        Raises:
            RejectedInputError: With ``overflow=refuse``, documents have more than ``max_tokens``
                words.
        """
        prompt = self.spec.document_prompt or ""
        limit = self.spec.max_tokens
        if limit is not None:
            words = np.array([len(_WORD.findall(prompt + text)) for text in texts], dtype=np.int64)
            apply_policy(
                self._overflow, words > limit, limit, lambda i: tokens_reason(int(words[i]), limit)
            )
        return self._encode(texts, prompt)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries, ``[n, d] float32``; none of them is zero."""
        return self._encode(texts, self.spec.query_prompt or "")

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """The words of each document, ``[n] int64``; at least one."""
        prompt = self.spec.document_prompt or ""
        words = (_WORD.findall(prompt + text)[: self.spec.max_tokens] for text in texts)
        return np.fromiter((len(w) or 1 for w in words), dtype=np.int64, count=len(texts))

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        sums = np.zeros((len(texts), self.dimensions), dtype=np.float64)
        for row, text in zip(sums, texts, strict=True):
            text = prompt + text
            words = _WORD.findall(text.casefold())[: self.spec.max_tokens]
            self._add(row, words)
            if not row.any():  # no word, or words that cancel each other
                self._add(row, [" ".join(sorted(words)) or text.strip()])
        return unit_rows(sums) if self.spec.normalize else sums.astype(np.float32)

    def _add(self, row: np.ndarray, tokens: Sequence[str]) -> None:
        hashes = np.fromiter(map(_hash, tokens), dtype=np.uint64, count=len(tokens))
        positions = (hashes % np.uint64(self.dimensions)).astype(np.intp)
        signs = np.where(hashes >> np.uint64(63), -1.0, 1.0)
        # Sums of ones are exact in any order, so the result depends on no platform.
        row += np.bincount(positions, weights=signs, minlength=self.dimensions)


@lru_cache(maxsize=1 << 16)
def _hash(token: str) -> int:
    # Lone surrogates are valid in str and not in UTF-8.
    data = token.encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
