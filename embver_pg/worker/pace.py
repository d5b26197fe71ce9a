"""How many documents a lease has: as many as the encoder takes for some seconds."""

from __future__ import annotations

_LEAST = 16  # documents; fewer make more trips to the database than they are worth
_STEP = 2.0  # how much the size changes, at most, from one lease to the next
_TELLING = 0.25  # of the size: a lease with less to encode says little of the rate


class Pace:
    """Sizes of the leases of each store.

    A lease that takes about the same time for every store makes turns fair: an encoder that is
    slow gets few documents a turn, and no more of the worker than a fast one.
    """

    def __init__(self, most: int, seconds: float) -> None:
        """Nothing is known of any store.

        Args:
            most: Documents a lease, at most.
            seconds: How long the encoder should be busy with a lease.
        """
        self._most = most
        self._least = min(_LEAST, most)
        self._seconds = seconds
        self._sizes: dict[str, float] = {}

    def begin(self, store: str, rate: float | None) -> None:
        """Size the first lease of a store.

        Args:
            store: The store.
            rate: Texts a second that the canary took, where it was asked.
        """
        if rate is not None:
            self._sizes.setdefault(store, self._bounded(rate * self._seconds))

    def size(self, store: str) -> int:
        """Documents to lease next."""
        return int(self._sizes.get(store, self._least))

    def saw(self, store: str, documents: int, seconds: float) -> None:
        """Note how long the encoder took.

        Args:
            store: The store.
            documents: How many it encoded.
            seconds: How long it took.
        """
        size = self._sizes.get(store, float(self._least))
        if documents < _TELLING * size:
            return
        wanted = documents * self._seconds / max(seconds, 1e-6)
        self._sizes[store] = self._bounded(min(max(wanted, size / _STEP), size * _STEP))

    def filled(self, store: str, documents: int) -> None:
        """Note that so many documents were all that a lease may hold, by their bytes."""
        self._sizes[store] = self._bounded(float(documents))

    def _bounded(self, size: float) -> float:
        return min(max(size, float(self._least)), float(self._most))
