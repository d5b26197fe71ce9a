"""Circuit breakers: what fails is left alone for a while, together with all that shares it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from embver_pg.db import Row
from embver_pg.encoders import EncoderRefusedError, TransientEncoderError

_SLOWEST = 60.0  # seconds of back-off, at most, where the provider names none
_LONGEST = 900.0  # … and where it does


@dataclass(frozen=True)
class Rest:
    """A pause that begins.

    Attributes:
        what: The encoder or the store that rests.
        seconds: How long.
        failures: How often it failed in a row.
        is_news: Whether it rested for another reason before, or not at all.
    """

    what: str
    seconds: float
    failures: int
    is_news: bool


@dataclass
class _Circuit:
    failures: int = 0
    until: float = 0.0
    reason: str = ""
    probing: str | None = None  # the store whose batch tells whether it is over


class Breaker:
    """Who rests: the stores of an encoder together, or one store for a trouble of its own.

    After a rest one store is let through; the others of the encoder wait for what becomes of it.
    Safe to use from several threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """All circuits are closed.

        Args:
            clock: Seconds that only go up.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._circuits: dict[str, _Circuit] = {}

    def admits(self, target: Row) -> bool:
        """Whether a store may be served now.

        If so, :meth:`passed`, :meth:`failed` or :meth:`left` must follow.
        """
        with self._lock:
            circuits = self._open(target)
            now = self._clock()
            if any(circuit.until > now or circuit.probing for circuit in circuits):
                return False
            for circuit in circuits:
                circuit.probing = target["store"]
            return True

    def rests(self, target: Row) -> bool:
        """Whether what was begun for a store should not go on to its encoder."""
        with self._lock:
            now = self._clock()
            return any(
                circuit.until > now or circuit.probing not in (None, target["store"])
                for circuit in self._open(target)
            )

    def passed(self, target: Row) -> None:
        """Note that a store was served; of its encoder nothing is known by that."""
        with self._lock:
            self._end_probe(target)
            self._circuits.pop(target["store"], None)

    def left(self, target: Row) -> None:
        """Note that what a store was admitted for was not tried."""
        with self._lock:
            self._end_probe(target)

    def answered(self, target: Row) -> bool:
        """Note that a store's encoder answered; whether it is back from a rest."""
        with self._lock:
            return self._circuits.pop(encoder_of(target), None) is not None

    def failed(self, target: Row, error: Exception) -> Rest:
        """Let a store, or all stores of its encoder, rest: exponentially, or as was asked for."""
        what = encoder_of(target) if is_of_encoder(error) else target["store"]
        asked = error.retry_after if isinstance(error, TransientEncoderError) else None
        reason = " ".join(str(error).split())
        with self._lock:
            self._end_probe(target)
            circuit = self._circuits.setdefault(what, _Circuit())
            circuit.failures += 1
            backed = random.uniform(0.5, 1.0) * min(
                0.25 * 2.0 ** min(circuit.failures, 16), _SLOWEST
            )
            seconds = min(asked, _LONGEST) if asked else backed
            circuit.until = self._clock() + seconds
            is_news, circuit.reason = circuit.reason != reason, reason
            return Rest(what, seconds, circuit.failures, is_news)

    def _open(self, target: Row) -> list[_Circuit]:
        found = (self._circuits.get(key) for key in (target["store"], encoder_of(target)))
        return [circuit for circuit in found if circuit is not None]

    def _end_probe(self, target: Row) -> None:
        for circuit in self._open(target):
            if circuit.probing == target["store"]:
                circuit.probing = None


def encoder_of(target: Row) -> str:
    """What stores of one encoder have in common: provider, model and endpoint."""
    spec = target["encoder"]
    place = (spec.get("options") or {}).get("base_url")
    return f"{spec['provider']}:{spec['model']}" + (f" at {place}" if place else "")


def is_of_encoder(error: Exception) -> bool:
    """Whether an error says that the encoder answers nobody, rather than something of a store."""
    return isinstance(error, TransientEncoderError | EncoderRefusedError)
