"""The query cache: hits, spaces kept apart and emptied when they end, threads, other people's."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest

from embver_pg.client import Collection, Embver, connect
from embver_pg.db import Database
from embver_pg.encoders import Encoder
from embver_pg.errors import InvalidArgument, SpaceChanged
from embver_pg.query_cache import LruCache, Queries
from tests.conftest import Installed
from tests.sql.support import Connection, run


class Counting:
    """The hash encoder as a client sees it, with a count of what it was asked."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode_queries(self, texts: list[str]) -> Any:
        self.asked.update(texts)
        return self.encoder.encode_queries(texts)


class Foreign:
    """A cache as a service brings it, which gives back plain lists."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, list[float]]] = {}

    def get(self, fingerprint: str, text: str) -> list[float] | None:
        return self.kept.get(fingerprint, {}).get(text)

    def put(self, fingerprint: str, text: str, vector: Any) -> None:
        self.kept.setdefault(fingerprint, {})[text] = vector.tolist()

    def forget(self, fingerprint: str) -> None:
        self.kept.pop(fingerprint, None)


@pytest.fixture
def active(docs: Embver) -> Embver:
    """Version 1 (hash:8) of ``docs`` answers searches."""
    docs.drain()
    docs.collection("docs").promote()
    return docs


def client(installed: Installed, cache: Any) -> tuple[Embver, Collection]:
    embver = Embver(Database(installed.reader), cache)
    return embver, Collection(embver, "docs")


def counted(embver: Embver, collection: Collection, version: int = 1) -> Counting:
    row = collection.version(version)
    counting = Counting(embver.encoder(row["encoder"], row["fingerprint"]))
    embver._encoders[row["fingerprint"]] = cast(Encoder, counting)
    return counting


def test_a_text_is_encoded_once(installed: Installed, active: Embver) -> None:
    embver, collection = client(installed, LruCache(10))
    with embver:
        counting = counted(embver, collection)
        plain = active.collection("docs").search("title 2")
        found = [collection.search("title 2") for _ in range(3)]
        collection.search("Title 2")
        collection.search("title 2 ")
    assert found == [plain] * 3
    assert counting.asked == {"title 2": 1, "Title 2": 1, "title 2 ": 1}  # exactly the text


def test_without_a_cache_every_search_encodes(installed: Installed, active: Embver) -> None:
    embver, collection = client(installed, None)
    with embver:
        counting = counted(embver, collection)
        collection.search("title 2")
        collection.search("title 2")
    assert counting.asked == {"title 2": 2}


def promote_second(active: Embver) -> Collection:
    collection = active.collection("docs")
    collection.add_version("hash:16", index={"type": "none"})
    collection.start_rollout(2)
    active.drain()
    collection.promote(force=True, reason="test")
    return collection


def test_versions_keep_apart_and_a_retired_one_is_emptied(
    installed: Installed, active: Embver
) -> None:
    cache = LruCache(10)
    embver, collection = client(installed, cache)
    with embver:
        assert {hit.version for hit in collection.search("title 2")} == {1}
        owned = promote_second(active)
        old, new = (row["fingerprint"] for row in owned.versions())
        assert {hit.version for hit in collection.search("title 2")} == {2}
        # The old one is live: a rollback may need it.
        assert np.asarray(cache.get(old, "title 2")).shape == (8,)
        assert np.asarray(cache.get(new, "title 2")).shape == (16,)
        owned.retire_version(1)
        assert cache.get(old, "title 2") is not None  # nobody has looked yet
        collection.search("title 3")
        assert cache.get(old, "title 2") is None
        assert cache.get(new, "title 2") is not None


def test_the_space_of_another_live_version_stays(
    installed: Installed, active: Embver, owner: Connection
) -> None:
    """Two collections of one encoder: one gives it up, the other still searches by it."""
    run(owner, "CREATE TABLE more (id bigint PRIMARY KEY, title text)")
    run(owner, "INSERT INTO more VALUES (1, 'title 2')")
    run(owner, "GRANT SELECT ON more TO embver_r")
    other = active.create_collection("more", "public.more", "title")
    other.add_version("hash:8", index={"type": "none"})
    other.start_rollout(1)
    active.drain()
    other.promote()
    cache = LruCache(10)
    embver, collection = client(installed, cache)
    with embver:
        collection.search("title 2")
        (fingerprint,) = {row["fingerprint"] for row in other.versions()}
        assert cache.get(fingerprint, "title 2") is not None
        promote_second(active).retire_version(1)
        collection.search("title 3")
        assert cache.get(fingerprint, "title 2") is not None
        other.retire_version(1, force=True, reason="test")
        collection.search("title 3")
        assert cache.get(fingerprint, "title 2") is None


def test_a_cache_of_ones_own(installed: Installed, active: Embver) -> None:
    cache = Foreign()
    with connect(installed.reader, query_cache=cache) as embver:
        collection = Collection(embver, "docs")
        counting = counted(embver, collection)
        found = [collection.search("title 2") for _ in range(2)]
    assert found[0] == found[1] == active.collection("docs").search("title 2")
    assert counting.asked == {"title 2": 1}
    with connect(installed.reader, query_cache=cache) as embver:  # the next process
        assert Collection(embver, "docs").search("title 2") == found[0]
        assert not embver._encoders, "a hit needs no encoder"


def test_a_changed_model_empties_its_space(
    installed: Installed, active: Embver, owner: Connection
) -> None:
    cache = LruCache(10)
    embver, collection = client(installed, cache)
    with embver:
        collection.search("title 2")
        (row,) = collection.versions()
        assert cache.get(row["fingerprint"], "title 2") is not None
        run(owner, "UPDATE embver_internal.canary SET vector = vector[2:8] || vector[1]")
        embver._encoders.clear()  # as after a restart
        with pytest.raises(SpaceChanged):
            collection.search("another text")
        assert len(cache) == 0


def test_the_one_not_asked_for_longest_goes() -> None:
    cache = LruCache(2)
    one = np.ones(2, dtype=np.float32)
    cache.put("f", "a", one)
    cache.put("f", "b", one)
    cache.get("f", "a")
    cache.put("f", "c", one)
    assert [cache.get("f", text) is not None for text in "abc"] == [True, False, True]
    cache.put("g", "a", one)
    cache.forget("f")
    assert cache.get("f", "c") is None
    assert cache.get("g", "a") is not None


def test_a_kept_vector_cannot_be_changed() -> None:
    queries = Queries(LruCache(2))
    batch = np.ones((3, 2), dtype=np.float32)
    vector = queries.vector("f", "a", lambda: batch[0])
    batch[:] = 7
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 5
    assert queries.vector("f", "a", lambda: batch[1]).tolist() == [1, 1]


def test_a_space_forgotten_while_it_is_encoded_is_met_again() -> None:
    """The put of a slow encoder comes after the space was given up; the next look clears it."""
    cache = LruCache(4)
    queries = Queries(cache)
    queries.vector("f", "first", lambda: np.ones(2, dtype=np.float32))

    def encode() -> Any:
        queries.retain([])  # another thread read the route meanwhile
        return np.ones(2, dtype=np.float32)

    queries.vector("f", "late", encode)
    assert len(cache) == 1
    queries.retain([])
    assert len(cache) == 0


def test_threads_share_it() -> None:
    """Each thread gets its text's own vector, while others evict and forget."""
    queries = Queries(LruCache(7))
    start = threading.Barrier(8)

    def work(number: int) -> int:
        start.wait(60)
        for step in range(400):
            space, text = step * (number + 1) % 3, step * 7 % 11
            wanted = np.array([space, text], dtype=np.float32)
            found = queries.vector(f"f{space}", str(text), wanted.copy)
            assert found.tolist() == wanted.tolist()
            if step % 50 == number:
                queries.retain(["f0", "f1"])
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 8
    assert isinstance(queries.cache, LruCache)
    assert len(queries.cache) <= 7
    queries.retain([])
    assert len(queries.cache) == 0


@pytest.mark.parametrize("given", [0, -1, True, "100", 1.5, object()])
def test_what_is_no_cache_is_refused(given: Any) -> None:
    with pytest.raises(InvalidArgument):
        connect("postgresql://nowhere.invalid/x", query_cache=given)
