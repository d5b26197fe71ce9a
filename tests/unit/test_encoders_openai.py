"""The openai encoder against a real server that has faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from embver_pg.encoders import (
    Encoder,
    EncoderRefusedError,
    RejectedInputError,
    TransientEncoderError,
    checked,
    load,
)
from embver_pg.encoders.openai_wire import retry_after
from embver_pg.errors import DimensionMismatch, InvalidArgument
from tests.fake_endpoint import FakeEndpoint
from tests.waiting import PATIENCE


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeEndpoint(dimensions=16) as server:
        yield server


def encoder_of(endpoint: FakeEndpoint, **options: Any) -> Encoder:
    given = {"max_attempts": 1, "timeout": PATIENCE, "base_url": endpoint.base_url, **options}
    return load("openai:fake", **given)


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
def test_vectors_come_back_in_order(endpoint: FakeEndpoint, encoding_format: str) -> None:
    encoder = encoder_of(endpoint, max_batch=3, encoding_format=encoding_format)
    texts = [f"text {i}" for i in range(8)]
    expected = load("hash:16").encode_documents(texts)
    for reverse in (False, True):
        endpoint.faults.reverse = reverse
        vectors = checked(encoder, cosine=True).encode_documents(texts)
        assert vectors.dtype == np.float32
        assert np.allclose(vectors, expected, atol=1e-6)
    assert [len(r["input"]) for r in endpoint.requests] == [3, 3, 2] * 2
    assert encoder.encode_documents([]).shape == (0, 16)


def test_batches_are_bounded_by_count_and_bytes(endpoint: FakeEndpoint) -> None:
    encoder = encoder_of(endpoint, max_batch=4, max_bytes=100, dimensions=16)
    encoder.encode_documents(["é" * 30, "b" * 40, "c", "d", "e" * 300, "f", "g", "h", "i", "j"])
    assert [len(r["input"]) for r in endpoint.requests] == [2, 2, 1, 4, 1]
    assert {r["dimensions"] for r in endpoint.requests} == {16}


def test_dimensions_are_asked_for_or_found_out(endpoint: FakeEndpoint) -> None:
    asked = encoder_of(endpoint, dimensions=8)
    assert (asked.dimensions, endpoint.calls) == (8, 0)
    assert asked.encode_queries(["a"]).shape == (1, 8)
    endpoint.forget()
    found = encoder_of(endpoint)
    assert endpoint.calls == 0
    assert (found.dimensions, found.dimensions, endpoint.calls) == (16, 16, 1)
    learned = encoder_of(endpoint)
    learned.encode_documents(["a"])
    assert (learned.dimensions, endpoint.calls) == (16, 2)


def test_prompts_and_fingerprints(endpoint: FakeEndpoint) -> None:
    encoder = encoder_of(endpoint, query_prompt="q: ", document_prompt="d: ", dimensions=16)
    encoder.encode_queries(["a"])
    encoder.encode_documents(["a"])
    assert [r["input"] for r in endpoint.requests] == [["q: a"], ["d: a"]]
    moved = load("openai:fake", base_url="http://127.0.0.1:1/v1", dimensions=16)
    assert moved.fingerprint == encoder_of(endpoint, dimensions=16).fingerprint
    assert moved.fingerprint != encoder.fingerprint


def test_a_passing_fault_is_waited_for(endpoint: FakeEndpoint) -> None:
    encoder = encoder_of(endpoint, dimensions=16, max_attempts=3)
    endpoint.fail_next(429, times=2, retry_after=0.2)
    assert encoder.encode_documents(["a", "b"]).shape == (2, 16)
    first, _, last = endpoint.arrivals
    assert last - first >= 0.35  # two waits, and the first request may have been late
    assert (endpoint.calls, endpoint.texts) == (3, 2)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_a_lasting_fault_is_transient(endpoint: FakeEndpoint, status: int) -> None:
    endpoint.faults.status, endpoint.faults.retry_after = status, "0.05"
    with pytest.raises(TransientEncoderError) as caught:
        encoder_of(endpoint, max_attempts=2, dimensions=16).encode_documents(["a"])
    assert caught.value.retry_after == 0.05
    assert caught.value.detail["status"] == status
    assert endpoint.calls == 2


def test_a_long_wait_is_left_to_the_caller(endpoint: FakeEndpoint) -> None:
    endpoint.fail_next(429, retry_after=90, code="rate_limit_exceeded")
    with pytest.raises(TransientEncoderError) as caught:
        encoder_of(endpoint, max_attempts=5, dimensions=16).encode_documents(["a"])
    assert (caught.value.retry_after, endpoint.calls) == (90, 1)
    assert caught.value.detail["reason"] == "rate_limit_exceeded"


def test_time_outs_and_lost_connections_are_transient(endpoint: FakeEndpoint) -> None:
    answered = endpoint.faults.held = threading.Event()
    with pytest.raises(TransientEncoderError, match="cannot be reached"):
        encoder_of(endpoint, timeout=0.1, dimensions=16).encode_documents(["a"])
    endpoint.heal()
    answered.set()
    endpoint.faults.hang_up = True
    with pytest.raises(TransientEncoderError):
        encoder_of(endpoint, dimensions=16).encode_documents(["a"])
    nobody = load("openai:fake", base_url="http://127.0.0.1:9/v1", max_attempts=1)
    with pytest.raises(TransientEncoderError) as caught:
        nobody.encode_documents(["a"])
    assert caught.value.retry_after is None
    with pytest.raises(TransientEncoderError):
        _ = nobody.dimensions


def test_a_refused_input_is_located(endpoint: FakeEndpoint) -> None:
    endpoint.faults.reject_containing = "poison"
    encoder = encoder_of(endpoint, max_batch=2, dimensions=16, max_attempts=3)
    with pytest.raises(RejectedInputError) as caught:
        encoder.encode_documents(["a", "b", "c", "poison", "d"])
    assert caught.value.detail == {"status": 400, "positions": [2, 3], "exact": False}
    assert endpoint.calls == 2
    with pytest.raises(RejectedInputError) as caught:
        encoder.encode_documents(["poison"])
    assert caught.value.detail["exact"] is True
    assert encoder.encode_documents(["c"]).shape == (1, 16)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_these_refuse_the_input(endpoint: FakeEndpoint, status: int) -> None:
    endpoint.fail_next(status)
    with pytest.raises(RejectedInputError):
        encoder_of(endpoint, dimensions=16).encode_documents(["a"])


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405])
def test_these_refuse_everything(endpoint: FakeEndpoint, status: int) -> None:
    endpoint.fail_next(status)
    with pytest.raises(EncoderRefusedError) as caught:
        encoder_of(endpoint, dimensions=16, max_attempts=3).encode_documents(["a"])
    assert caught.value.detail["status"] == status
    assert endpoint.calls == 1


@pytest.mark.parametrize("param", ["model", "dimensions", "encoding_format"])
def test_a_400_about_the_request_is_no_fault_of_the_input(
    endpoint: FakeEndpoint, param: str
) -> None:
    endpoint.fail_next(400, param=param)
    with pytest.raises(EncoderRefusedError):
        encoder_of(endpoint, dimensions=16).encode_documents(["a"])


def test_a_wrong_address_is_refused(endpoint: FakeEndpoint) -> None:
    wrong = encoder_of(endpoint, base_url=endpoint.base_url.removesuffix("/v1"), dimensions=16)
    with pytest.raises(EncoderRefusedError) as caught:
        wrong.encode_documents(["a"])
    assert "/v1" in str(caught.value.hint)
    endpoint.faults.not_json = True
    with pytest.raises(EncoderRefusedError) as caught:
        encoder_of(endpoint, dimensions=16).encode_documents(["a"])
    assert "base_url" in str(caught.value.hint)


@pytest.mark.parametrize("missing", [1, -1, 3])
def test_a_wrong_count_is_refused(endpoint: FakeEndpoint, missing: int) -> None:
    endpoint.faults.missing_vectors = missing
    with pytest.raises(InvalidArgument) as caught:
        encoder_of(endpoint, dimensions=16).encode_documents(["a", "b", "c"])
    assert caught.value.detail == {"returned": 3 - missing, "expected": 3}


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
def test_wrong_vectors_are_refused(endpoint: FakeEndpoint, encoding_format: str) -> None:
    encoder = encoder_of(endpoint, dimensions=16, max_batch=2, encoding_format=encoding_format)
    endpoint.faults.nan_containing = "bad"
    with pytest.raises(RejectedInputError) as caught:
        encoder.encode_documents(["a", "b", "c", "bad", "bad"])
    assert caught.value.detail["positions"] == [3, 4]
    endpoint.heal()
    endpoint.faults.zero_containing = "bad"
    with pytest.raises(RejectedInputError) as caught:
        checked(encoder, cosine=True).encode_documents(["a", "b", "bad"])
    assert caught.value.detail["positions"] == [2]
    endpoint.heal()
    endpoint.faults.dimensions = 12
    with pytest.raises(DimensionMismatch) as mismatch:
        encoder.encode_documents(["a"])
    assert mismatch.value.detail == {"returned": 12, "expected": 16}


def test_the_key_comes_from_the_environment_alone(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArgument, match="OPENAI_API_KEY is not set"):
        load("openai:fake")
    with pytest.raises(InvalidArgument, match="holds a secret"):
        load("openai:fake", api_key="sk-very-secret", base_url=endpoint.base_url)
    encoder_of(endpoint, dimensions=16).encode_queries(["a"])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    encoder = encoder_of(endpoint, dimensions=16)
    encoder.encode_queries(["a"])
    assert endpoint.keys == ["-", "sk-very-secret"]
    assert "sk-very-secret" not in json.dumps(encoder.spec.to_json()) + repr(encoder.spec)
    endpoint.key = "another"
    with pytest.raises(EncoderRefusedError) as caught:
        encoder.encode_queries(["a"])
    error = caught.value
    assert "sk-very-secret" not in f"{error} {error.detail} {error.__cause__}"
    assert "OPENAI_API_KEY" in str(error.hint)


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "127.0.0.1:80"},
        {"base_url": 8},
        {"timeout": 0},
        {"max_batch": -1},
        {"max_batch": True},
        {"max_attempts": 1.5},
        {"encoding_format": "int8"},
        {"max_tokens": 100},
        {"colour": "red"},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        load("openai:fake", **{"base_url": "http://127.0.0.1:9/v1", **options})


def test_the_wait_asked_for_is_read_in_every_form() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "7", "retry-after-ms": "250"}) == 0.25
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after({"retry-after": date}) or 0) <= 30
    assert retry_after({"retry-after": "-3"}) == 0
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}):
        assert retry_after(nothing) is None
