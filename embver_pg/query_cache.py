"""Vectors of queries that were encoded before, by the space they are of and their exact text."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from embver_pg.errors import InvalidArgument

Vector = NDArray[np.float32]


@runtime_checkable
class QueryCache(Protocol):
    """What a service brings to keep query vectors elsewhere. Threads call it; errors come through.

    A fingerprint names one space, so a vector found under it is right for every version that has
    it and for no other.
    """

    def get(self, fingerprint: str, text: str) -> Any:
        """The vector ``[d] float32`` kept for this text in this space, or None."""

    def put(self, fingerprint: str, text: str, vector: Vector) -> None:
        """Keep a vector; the array must not be changed."""

    def forget(self, fingerprint: str) -> None:
        """Drop everything of a space."""


class LruCache:
    """At most ``entries`` vectors in this process; the one not asked for longest goes first."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._vectors: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, fingerprint: str, text: str) -> Vector | None:
        """See :class:`QueryCache`."""
        key = (fingerprint, text)
        with self._lock:
            found = self._vectors.get(key)
            if found is not None:
                self._vectors.move_to_end(key)
            return found

    def put(self, fingerprint: str, text: str, vector: Vector) -> None:
        """See :class:`QueryCache`."""
        with self._lock:
            self._vectors[fingerprint, text] = vector
            self._vectors.move_to_end((fingerprint, text))
            while len(self._vectors) > self._entries:
                self._vectors.popitem(last=False)

    def forget(self, fingerprint: str) -> None:
        """See :class:`QueryCache`."""
        with self._lock:
            for key in [key for key in self._vectors if key[0] == fingerprint]:
                del self._vectors[key]


class Queries:
    """The client's side of a cache: looks before it encodes, and forgets spaces that ended."""

    def __init__(self, cache: QueryCache | None) -> None:
        self.cache = cache
        self._kept: set[str] = set()
        self._lock = threading.Lock()

    def vector(self, fingerprint: str, text: str, encode: Callable[[], Vector]) -> Vector:
        """The vector of a text in a space: kept, or made by ``encode`` and kept."""
        if self.cache is None:
            return encode()
        found = self.cache.get(fingerprint, text)
        if found is not None:
            return np.asarray(found, dtype=np.float32)
        vector = np.array(encode(), dtype=np.float32)  # our own: a row would keep its whole batch
        vector.flags.writeable = False
        self.cache.put(fingerprint, text, vector)
        with self._lock:
            # After the put: who forgets the space in between meets it again at the next route.
            self._kept.add(fingerprint)
        return vector

    def retain(self, live: Collection[str]) -> None:
        """Forget the spaces used here that no live version has any more."""
        with self._lock:
            ended = self._kept.difference(live)
            self._kept -= ended
        for fingerprint in ended:
            self.forget(fingerprint)

    def forget(self, fingerprint: str) -> None:
        """Drop everything of a space."""
        if self.cache is not None:
            self.cache.forget(fingerprint)


def open_cache(given: int | QueryCache | None) -> QueryCache | None:
    """The cache that ``connect(query_cache=…)`` names.

    Raises:
        InvalidArgument: It is neither a positive number of entries nor a cache.
    """
    if given is None or (not isinstance(given, int) and isinstance(given, QueryCache)):
        return given
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return LruCache(given)
    raise InvalidArgument(
        f"A query cache is a number of entries from 1 on, or an object with get, put and forget;"
        f" not {given!r}.",
        detail={"query_cache": repr(given)},
        hint="connect(query_cache=10_000)",
    )
