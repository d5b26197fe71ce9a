"""A batch: equal texts once, poisoned ones found, everything else no fault of a document."""

from __future__ import annotations

import hashlib
import random
import threading
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
from embver_pg.worker.background import AbandonedError, Background
from embver_pg.worker.batch import Item, encode_batch, stacked
from tests.waiting import NEVER, PATIENCE


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


def items(texts: Sequence[str]) -> list[Item]:
    return [
        Item(number, text, hashlib.sha256(text.encode()).digest())
        for number, text in enumerate(texts, 1)
    ]


def test_equal_texts_are_encoded_once() -> None:
    provider = Provider()
    outcome = encode_batch(checked(provider), items(["a", "b", "a", "a"]))
    assert provider.calls == [["a", "b"]]
    by_number = {item.number: row for item, row in zip(outcome.items, outcome.vectors, strict=True)}
    assert sorted(by_number) == [1, 2, 3, 4]
    np.testing.assert_array_equal(by_number[1], by_number[4])
    np.testing.assert_array_equal(by_number[2], load("hash:8").encode_documents(["b"])[0])


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
    outcome = encode_batch(checked(provider), items(texts))
    assert {item.content for item, _ in outcome.failed} == bad
    assert {item.content for item in outcome.items} == set(texts) - bad
    answered = [text for call in provider.calls if not bad & set(call) for text in call]
    assert len(answered) == len(set(answered)) == count - len(bad)  # billed once
    # A refused call has one poisoned text at least: log2(50) halvings for each.
    assert len(provider.calls) <= (2 if names_them else 1 + 2 * 6 * len(bad))


def test_what_is_no_fault_of_a_document_is_raised() -> None:
    for error in (TransientEncoderError("later"), EncoderRefusedError("the key")):
        provider = Provider(lambda texts, error=error: error)  # type: ignore[misc]
        with pytest.raises(type(error)):
            encode_batch(checked(provider), items(["a", "b"]))
        assert len(provider.calls) == 1


def test_an_exception_of_a_library_is_looked_into() -> None:
    provider = Provider(lambda texts: ValueError("bad \0 token \ud800") if "b" in texts else None)
    outcome = encode_batch(checked(provider), items(["a", "b", "c"]))
    assert [item.content for item in outcome.items] == ["a", "c"]
    assert [(item.content, reason) for item, reason in outcome.failed] == [
        ("b", "ValueError: bad \N{REPLACEMENT CHARACTER} token ?")
    ]
    with pytest.raises(MemoryError):
        encode_batch(checked(Provider(lambda texts: MemoryError())), items(["a", "b"]))


def test_reasons_are_short() -> None:
    outcome = encode_batch(
        checked(Provider(lambda texts: RejectedInputError("x" * 9999))), items(["a"])
    )
    assert len(outcome.failed[0][1]) == 1000


def test_nothing_to_stack() -> None:
    assert stacked([], 8).shape == (0, 8)
    assert stacked([np.ones(8, dtype=np.float32)], 8).shape == (1, 8)


class TestBackground:
    def test_results_and_errors_come_back(self) -> None:
        background, never = Background("test"), threading.Event()
        names = {background.run(lambda: threading.current_thread().name, never, PATIENCE)}
        names |= {background.run(lambda: threading.current_thread().name, never, PATIENCE)}
        assert names == {"test"}
        with pytest.raises(ZeroDivisionError):
            background.run(lambda: 1 // 0, never, PATIENCE)
        background.close()

    def test_a_stop_leaves_the_patience(self) -> None:
        background, stop, release = Background("test"), threading.Event(), threading.Event()
        stop.set()
        assert background.run(lambda: "in time", stop, PATIENCE) == "in time"
        with pytest.raises(AbandonedError):
            background.run(lambda: release.wait(NEVER), stop, 0.2)
        release.set()
        background.close()
