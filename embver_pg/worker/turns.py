"""Whose turn it is: every store in its turn, and what is searched before what is filled."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from embver_pg.db import Row

T = TypeVar("T")


def rotated(entries: Sequence[T]) -> list[T]:
    """The entries from a random one on: several workers begin at different ones."""
    offset = random.randrange(len(entries)) if entries else 0
    return [*entries[offset:], *entries[:offset]]


class Turns:
    """The order of one round over the stores.

    Each has one turn a round, and so none starves the rest; a turn is a lease of about the same
    time. Stores that are searched go first, and again between two that are filled: a change of a
    document waits for one lease of a backfill, and not for one of each.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody had a turn yet.

        Args:
            interval: Seconds between two looks, within a round, at stores that are searched.
            clock: Seconds that only go up.
        """
        self._interval = interval
        self._clock = clock

    def order(self, targets: Sequence[Row]) -> Iterator[Row]:
        """The stores of a round, one after the other; the time between two is that of a turn."""
        live = [target for target in targets if target["state"] != "filling"]
        filling = [target for target in targets if target["state"] == "filling"]
        yield from rotated(live)
        looked = self._clock()
        for target in rotated(filling):
            if live and self._clock() - looked >= self._interval:
                yield from rotated(live)
                looked = self._clock()
            yield target
