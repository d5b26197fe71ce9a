"""Counting tokens: the model's tokenizer, tiktoken, and what is never too few."""

from __future__ import annotations

import pytest
import tiktoken

from embver_pg.encoders import Encoder, checked, load
from embver_pg.encoders import tokens as module
from embver_pg.encoders.openai_wire import billed_tokens
from embver_pg.encoders.tokens import token_bound, token_counter

TEXTS = ["", "two words", "größer 𝄞", "<|endoftext|>", "\ud800 alone"]


@pytest.fixture
def endpoint() -> Encoder:
    return load("openai:some-model", base_url="http://127.0.0.1:9/v1", dimensions=8)


def test_an_encoder_counts_itself() -> None:
    encoder = checked(load("hash:8", document_prompt="a prompt "))
    counter = token_counter(encoder)
    assert counter.is_exact
    assert counter.documents(["two words", ""]).tolist() == [4, 2]


def test_bytes_where_there_is_no_tokenizer(endpoint: Encoder) -> None:
    guess, bound = token_counter(endpoint), token_bound(endpoint)
    assert (guess.is_exact, guess.method) == (False, "a guess: bytes / 4")
    assert guess.documents(TEXTS).tolist() == [1, 3, 4, 4, 2]
    assert bound.documents(TEXTS).tolist() == [2, 11, 15, 15, 9]


def test_tiktoken_where_it_knows_the_model(
    endpoint: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vocabulary of the 256 bytes and one pair; the real ones are downloaded."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"wo": 256}
    vocabulary = tiktoken.Encoding(
        "bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 257}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda model: vocabulary)
    module._tiktoken.cache_clear()
    try:
        counter = token_counter(endpoint)
        assert (counter.is_exact, counter.method) == (True, "tiktoken bytes")
        assert counter.documents(TEXTS).tolist() == [0, 9, 13, 13, 7]
        assert token_bound(endpoint).documents(["abc"]).tolist() == [3]
    finally:
        module._tiktoken.cache_clear()


def test_the_vocabulary_cannot_be_had(endpoint: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr(tiktoken, "encoding_for_model", fails)
    module._tiktoken.cache_clear()
    assert not token_counter(endpoint).is_exact
    module._tiktoken.cache_clear()


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (b'{"data": [], "usage": {"prompt_tokens": 7, "total_tokens": 8}}', 8),
        (b'{"usage":{"total_tokens":5},"data":"' + b"A" * 5000 + b'"}', 5),
        (b'{"usage": {"total_tokens": 0}}', None),
        (b'{"data": []}', None),
        (b"", None),
    ],
)
def test_what_a_response_says_was_used(content: bytes, tokens: int | None) -> None:
    assert billed_tokens(content) == tokens
