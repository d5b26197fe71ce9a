"""Documents longer than a model reads: counted where they are cut, or refused with their length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embver_pg.encoders import RejectedInputError, load
from embver_pg.encoders.overflow import noting_truncated
from embver_pg.errors import InvalidArgument
from embver_pg.worker.batch import encode_batch

MINILM = "sentence-transformers:sentence-transformers/all-MiniLM-L6-v2"
ENDLESS = "w" * 9000  # one word, and no token for it


@pytest.fixture(scope="module")
def static_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static model of four words, of 4 characters in the median, that reads 3 tokens."""
    model2vec = pytest.importorskip("model2vec")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "wing": 1, "stall": 2, "flap": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    vectors = np.eye(4, dtype=np.float32)
    path = tmp_path_factory.mktemp("static")
    model2vec.StaticModel(vectors, tokenizer, normalize=True).save_pretrained(str(path))
    return path


def test_what_is_cut_is_counted_and_the_rest_is_not() -> None:
    encoder = load("hash:16", max_tokens=3)
    with noting_truncated() as cut:
        encoder.encode_documents(["one two three", "one two three four", "", "a b c d e"])
    assert cut == [1, 3]
    encoder.encode_documents(["one two three four"])  # nobody listens
    with noting_truncated() as cut:
        encoder.encode_queries(["one two three four"])
        load("hash:16").encode_documents(["one two three four"])
    assert cut == []


def test_equal_documents_are_counted_each() -> None:
    outcome = encode_batch(load("hash:16", max_tokens=2), ["a b c", "a b", "a b c"])
    assert outcome.cut == [0, 2]


def test_refused_documents_name_tokens_and_limit() -> None:
    encoder = load("hash:16", max_tokens=3, overflow="refuse")
    outcome = encode_batch(encoder, ["one two three four", "one two", "1 2 3 4 5"])
    assert outcome.failed == {
        0: "the document has 4 tokens and the model reads 3",
        2: "the document has 5 tokens and the model reads 3",
    }
    assert outcome.cut == []
    assert encoder.encode_queries(["one two three four"]).shape == (1, 16)


@pytest.mark.parametrize(
    "uri", ["hash:16", MINILM, pytest.param("openai:fake", id="an endpoint has its own")]
)
def test_the_policy_is_checked_and_is_no_part_of_the_space(uri: str) -> None:
    base = {"base_url": "http://127.0.0.1:9/v1"} if uri.startswith("openai") else {}
    with pytest.raises(InvalidArgument):
        load(uri, overflow="chunk", **base)
    if not base:
        prints = {load(uri).fingerprint}
        prints |= {load(uri, overflow=policy).fingerprint for policy in ("truncate", "refuse")}
        assert len(prints) == 1


def test_fingerprints_of_the_first_release_are_kept() -> None:
    assert load("hash:16").fingerprint == "fd43223e684dfed1263d20de4019788f"
    assert load(MINILM).fingerprint == "e2d5cdcdc2166c4793822473451e3f2d"


def test_sentence_transformers_count_with_the_tokenizer_of_the_model() -> None:
    # [CLS] and [SEP] count: 10 tokens hold 8 words.
    whole, cut = "wing " * 8, "wing " * 9
    encoder = load(MINILM, max_tokens=10)
    with noting_truncated() as noted:
        vectors = encoder.encode_documents([whole, cut, "wing " * 4000, ENDLESS])
    assert noted == [1, 2]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    refusing = load(MINILM, max_tokens=10, overflow="refuse")
    with pytest.raises(RejectedInputError) as refusal:
        refusing.encode_documents([whole, cut, "wing " * 4000])
    assert refusal.value.detail["positions"] == [1, 2]
    assert refusal.value.detail["reasons"] == {
        1: "the document has 11 tokens and the model reads 10",
        2: "the document has 4002 tokens and the model reads 10",
    }
    # The prompt is read too.
    prompted = load(MINILM, max_tokens=10, overflow="refuse", document_prompt="about a ")
    with pytest.raises(RejectedInputError):
        prompted.encode_documents([whole])
    assert prompted.encode_queries([cut]).shape == (1, 384)


def test_model2vec_counts_tokens_and_characters(static_model: Path) -> None:
    encoder = load(f"model2vec:{static_model}", max_tokens=3, batch_size=2)
    texts = ["wing", "wing flap w", "wing wing flap stall", "stall", "w w w w w"]
    with noting_truncated() as cut:
        encoder.encode_documents(texts)
        encoder.encode_queries(texts)
    assert cut == [2, 4]
    refusing = load(f"model2vec:{static_model}", max_tokens=3, overflow="refuse")
    with pytest.raises(RejectedInputError) as refusal:
        refusing.encode_documents(["wing", "wing wing flap stall", "stall " + "w" * 100])
    assert refusal.value.detail["reasons"] == {
        1: "the document has 4 tokens and the model reads 3",
        2: "the document has 106 characters and the model reads 12",
    }
    assert refusing.encode_documents(["wing flap w"]).shape == (1, 4)
