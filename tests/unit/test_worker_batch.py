"""A batch: equal texts once, poisoned ones found, everything else no fault of a document."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from embver_pg.encoders import (
    Encoder,
    EncoderRefusedError,
    EncoderSpec,
    RejectedInputError,
    TransientEncoderError,
    Vectors,
    checked,
    load,
)
from embver_pg.worker.batch import encode_batch


@dataclass
class Provider:
    """The hash encoder behind a provider that may refuse a call."""

    refuse: Callable[[list[str]], Exception | None] = lambda texts: None
    calls: list[list[str]] = field(default_factory=list)
    inner: Encoder = field(default_factory=lambda: load("hash:8"))

    @property
    def spec(self) -> EncoderSpec:
        return self.inner.spec

    @property
    def dimensions(self) -> int:
        return 8

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self.inner.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        error = self.refuse(list(texts))
        if error is not None:
            raise error
        return self.inner.encode_documents(texts)


def test_equal_texts_are_encoded_once() -> None:
    provider = Provider()
    outcome = encode_batch(checked(provider), ["a", "b", "a", "a"])
    assert provider.calls == [["a", "b"]]
    a, b = load("hash:8").encode_documents(["a", "b"])
    np.testing.assert_array_equal(outcome.vectors, [a, b, a, a])


def test_each_of_equal_texts_fails_and_is_cut() -> None:
    bad = RejectedInputError("no")
    provider = Provider(lambda texts: bad if "b" in texts else None)
    outcome = encode_batch(checked(provider), ["a", "b", "c", "b"])
    assert outcome.failed == {1: "no", 3: "no"}
    np.testing.assert_array_equal(
        outcome.vectors[[0, 2]], load("hash:8").encode_documents(["a", "c"])
    )
    nothing = encode_batch(checked(provider), ["b", "b"])
    assert (sorted(nothing.failed), nothing.vectors.shape) == ([0, 1], (2, 8))
    assert encode_batch(checked(provider), []).vectors.shape == (0, 8)


@pytest.mark.parametrize("count", [1, 2, 3, 50])
@pytest.mark.parametrize("poisoned", [1, 3])
@pytest.mark.parametrize("names_them", [False, True])
def test_bisection_buries_the_poisoned_alone(count: int, poisoned: int, names_them: bool) -> None:
    texts = [f"text {i}" for i in range(count)]
    bad = set(random.Random(count * poisoned).sample(texts, min(poisoned, count)))

    def refuse(call: list[str]) -> Exception | None:
        positions = [i for i, text in enumerate(call) if text in bad]
        if not positions:
            return None
        detail = {"positions": positions, "exact": True} if names_them else {}
        return RejectedInputError("no", detail=detail)

    provider = Provider(refuse)
    outcome = encode_batch(checked(provider), texts)
    assert {texts[position] for position in outcome.failed} == bad
    good = [position for position in range(count) if position not in outcome.failed]
    np.testing.assert_array_equal(
        outcome.vectors[good],
        load("hash:8").encode_documents([texts[position] for position in good]),
    )
    answered = [text for call in provider.calls if not bad & set(call) for text in call]
    assert len(answered) == len(set(answered)) == count - len(bad)  # billed once
    # A refused call has one poisoned text at least: log2(50) halvings for each.
    assert len(provider.calls) <= (2 if names_them else 1 + 2 * 6 * len(bad))


def test_what_is_no_fault_of_a_document_is_raised() -> None:
    for error in (TransientEncoderError("later"), EncoderRefusedError("the key")):
        provider = Provider(lambda texts, error=error: error)  # type: ignore[misc]
        with pytest.raises(type(error)):
            encode_batch(checked(provider), ["a", "b"])
        assert len(provider.calls) == 1


def test_an_exception_of_a_library_is_looked_into() -> None:
    provider = Provider(lambda texts: ValueError("bad \0 token \ud800") if "b" in texts else None)
    outcome = encode_batch(checked(provider), ["a", "b", "c"])
    assert outcome.failed == {1: "ValueError: bad \N{REPLACEMENT CHARACTER} token ?"}
    with pytest.raises(MemoryError):
        encode_batch(checked(Provider(lambda texts: MemoryError())), ["a", "b"])


def test_reasons_are_short() -> None:
    outcome = encode_batch(checked(Provider(lambda texts: RejectedInputError("x" * 9999))), ["a"])
    assert len(outcome.failed[0]) == 1000
