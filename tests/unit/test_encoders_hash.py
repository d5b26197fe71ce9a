"""The hash encoder and micro-batches: what must hold for any text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from embver_pg.encoders import EncoderSpec, Vectors
from embver_pg.encoders.batching import approximate_lengths, encode_in_batches, micro_batches
from embver_pg.encoders.hashing import HashEncoder

# Surrogates included: str allows them, UTF-8 does not.
any_text = st.text(st.characters(exclude_categories=[]))


def hashing(dimensions: int, **fields: object) -> HashEncoder:
    return HashEncoder(EncoderSpec("hash", str(dimensions), **fields))  # type: ignore[arg-type]


@given(st.lists(any_text, max_size=8), st.integers(1, 300))
@example(["", " ", "\n", "…", "🤖", "\ud800", "\0"], 1)
def test_vectors_are_unit_length_and_deterministic(texts: list[str], dimensions: int) -> None:
    vectors = hashing(dimensions).encode_documents(texts)
    assert vectors.shape == (len(texts), dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-6)
    alone = [hashing(dimensions).encode_queries([text])[0] for text in texts]
    assert all(np.array_equal(a, b) for a, b in zip(vectors, alone, strict=True))


@given(st.lists(st.text("abcxyzß", min_size=1, max_size=8), min_size=1, max_size=20))
@example(["p", "qkuyan"])  # these two cancel each other in 64 dimensions
def test_order_case_and_punctuation_do_not_matter(words: list[str]) -> None:
    first, second = hashing(64).encode_documents(
        [" ".join(words), ", ".join(w.upper() for w in reversed(words)) + "!"]
    )
    assert np.array_equal(first, second)


def test_words_that_cancel_each_other_leave_no_zero_vector() -> None:
    encoder = hashing(1)
    sign = {w: float(encoder.encode_documents([w])[0, 0]) for w in ("a", "b", "c", "d", "e", "f")}
    plus = next(w for w, s in sign.items() if s > 0)
    minus = next(w for w, s in sign.items() if s < 0)
    assert abs(encoder.encode_documents([f"{plus} {minus}"])[0, 0]) == 1


def test_similar_texts_are_near() -> None:
    near, far, query = hashing(256).encode_documents(
        ["how do wings stall", "recipes for onion soup", "why wings stall"]
    )
    assert query @ near > query @ far + 0.3


def test_prompts_truncation_and_scale_are_followed() -> None:
    plain = hashing(64)
    prompted = hashing(64, query_prompt="query ")
    assert np.array_equal(prompted.encode_queries(["a"]), plain.encode_documents(["query a"]))
    assert np.array_equal(prompted.encode_documents(["a"]), plain.encode_documents(["a"]))
    cut = hashing(64, max_tokens=2)
    assert np.array_equal(cut.encode_documents(["a b c"]), plain.encode_documents(["a b"]))
    raw = hashing(64, normalize=False).encode_documents(["a a a"])
    assert np.abs(raw).sum() == 3
    assert len({plain.fingerprint, prompted.fingerprint, cut.fingerprint}) == 3


def test_another_process_gets_the_same_vectors() -> None:
    program = (
        "import sys, hashlib; from embver_pg.encoders import load;"
        "v = load('hash:64').encode_documents(['Grüße an alle', 'x y z', '…']);"
        "sys.stdout.write(hashlib.sha256(v.astype('<f4').tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**environment, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    # Frozen: stored vectors must stay comparable with new ones in every release.
    assert digests == {"b15c6855d1f5458bddb6d9edf67fc860da3252f20455d6725c4dc35db4bb0b1c"}


@given(st.lists(st.integers(0, 3000), max_size=200), st.integers(1, 4096))
def test_micro_batches_hold_each_text_once_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = [b.tolist() for b in micro_batches(lengths, budget)]
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(1, *(lengths[i] for i in batch), 1)
        assert longest * len(batch) <= budget or len(batch) == 1
    flat = [max(1, lengths[i]) for batch in batches for i in batch]  # as they are counted
    assert flat == sorted(flat, reverse=True)


@given(st.lists(st.text(max_size=60), max_size=60), st.integers(1, 64))
def test_micro_batches_restore_the_order(texts: list[str], budget: int) -> None:
    seen: list[str] = []

    def encode(batch: list[str]) -> Vectors:
        seen.extend(batch)
        return np.array([[len(t), hash(t) % 997] for t in batch], dtype=np.float32)

    vectors = encode_in_batches(texts, approximate_lengths(texts), encode, 2, budget)
    assert vectors.tolist() == [[len(t), hash(t) % 997] for t in texts]
    assert sorted(seen) == sorted(texts)


def test_lengths_are_capped_by_the_truncation() -> None:
    assert approximate_lengths(["", "abcd" * 10, "x" * 10_000], 256).tolist() == [1, 11, 256]
