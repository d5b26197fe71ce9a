"""Breakers: stores of one encoder rest together, one probes, and the others go on."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from embver_pg.db import Row
from embver_pg.encoders import EncoderRefusedError, TransientEncoderError
from embver_pg.worker.breaker import Breaker, encoder_of

URL = "http://127.0.0.1:9/v1"


def target(store: str, model: str = "m", **options: Any) -> Row:
    return {"store": store, "encoder": {"provider": "openai", "model": model, "options": options}}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


A, B = target("a", base_url=URL), target("b", base_url=URL, timeout=3)
OTHER_MODEL, OTHER_PLACE = target("c", "n", base_url=URL), target("d", base_url=URL + "/x")
AWAY = TransientEncoderError("503")


def test_an_encoder_is_its_model_and_endpoint() -> None:
    assert encoder_of(A) == encoder_of(B) == f"openai:m at {URL}"
    assert len({encoder_of(one) for one in (A, OTHER_MODEL, OTHER_PLACE)}) == 3
    assert encoder_of({"encoder": {"provider": "hash", "model": "8"}}) == "hash:8"


@pytest.mark.parametrize("error", [AWAY, EncoderRefusedError("401")])
def test_stores_of_one_encoder_rest_together(clock: Clock, error: Exception) -> None:
    breaker = Breaker(clock)
    assert breaker.admits(A)
    rest = breaker.failed(A, error)
    assert rest.what == encoder_of(A)
    assert not breaker.admits(A)
    assert not breaker.admits(B)
    assert breaker.rests(A)
    assert breaker.rests(B)
    assert not breaker.rests(OTHER_MODEL)
    assert breaker.admits(OTHER_MODEL)
    assert breaker.admits(OTHER_PLACE)


def test_one_batch_probes_and_lets_the_others_in(clock: Clock) -> None:
    breaker = Breaker(clock)
    clock.now += breaker.failed(A, AWAY).seconds
    assert breaker.admits(B)  # the probe
    assert not breaker.admits(A)
    assert not breaker.admits(B)  # one batch
    # What was begun before: of the probing store it may go on, of the others it may not.
    assert breaker.rests(A)
    assert not breaker.rests(B)
    assert breaker.answered(B)  # it is back
    assert breaker.admits(A)
    assert not breaker.answered(A)  # which is no news
    assert breaker.failed(A, AWAY).failures == 1


def test_a_probe_that_fails_makes_them_rest_longer(clock: Clock) -> None:
    breaker = Breaker(clock)
    seconds = []
    for failures in range(1, 13):
        rest = breaker.failed(A, AWAY)
        assert rest.failures == failures
        seconds.append(rest.seconds)
        clock.now += rest.seconds
        assert breaker.admits(A)
        assert not breaker.admits(B)
    assert all(0.125 * 2**n <= s <= 0.25 * 2**n for n, s in enumerate(seconds[:7], 1))
    assert max(seconds) <= 60
    assert len(set(seconds)) == len(seconds)  # jitter


def test_a_probe_with_nothing_to_encode_tells_nothing(clock: Clock) -> None:
    breaker = Breaker(clock)
    clock.now += breaker.failed(A, AWAY).seconds
    assert breaker.admits(A)
    breaker.passed(A)
    assert breaker.admits(B)  # its turn to probe
    assert breaker.failed(B, AWAY).failures == 2


def test_a_probe_that_was_not_tried_is_over(clock: Clock) -> None:
    """Another store of the encoder fails late: the probe's lease goes back, and the next comes."""
    breaker = Breaker(clock)
    clock.now += breaker.failed(B, AWAY).seconds
    assert breaker.admits(A)
    rest = breaker.failed(B, AWAY)  # it had been sent before
    assert breaker.rests(A)
    breaker.left(A)
    clock.now += rest.seconds
    assert breaker.admits(B)


def test_the_wait_that_is_asked_for_is_kept(clock: Clock) -> None:
    breaker = Breaker(clock)
    assert breaker.failed(A, TransientEncoderError("429", retry_after=7.0)).seconds == 7.0
    assert breaker.failed(A, TransientEncoderError("429", retry_after=1e6)).seconds == 900.0


def test_trouble_of_a_store_is_its_own(clock: Clock) -> None:
    breaker = Breaker(clock)
    rest = breaker.failed(A, psycopg.errors.LockNotAvailable("it is locked"))
    assert rest.what == "a"
    assert not breaker.admits(A)
    assert breaker.admits(B)
    assert not breaker.answered(B)
    breaker.passed(B)
    clock.now += rest.seconds
    assert breaker.admits(A)
    breaker.passed(A)
    assert breaker.failed(A, psycopg.errors.LockNotAvailable("again")).failures == 1


def test_a_refusal_is_news_once(clock: Clock) -> None:
    breaker = Breaker(clock)
    told = [breaker.failed(A, EncoderRefusedError(text)).is_news for text in ("x", "x", "y", "y")]
    assert told == [True, False, True, False]
