"""Stages, paces and turns, without a database: barriers and counters instead of clocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from embver_pg.encoders import RejectedInputError, load
from embver_pg.worker.hands import Hands
from embver_pg.worker.pace import Pace
from embver_pg.worker.recent import Recent
from embver_pg.worker.turns import Turns
from tests.unit.test_worker_batch import Provider
from tests.waiting import PATIENCE, until


@dataclass
class Bench:
    """Hands whose work waits for a permit."""

    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    begun: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.hands: Hands[str] = Hands("test", self.work, 2, self.changed, self.failures.append)

    def work(self, task: str) -> None:
        self.begun.append(task)
        self.threads.add(threading.current_thread().name)
        assert self.permits.acquire(timeout=PATIENCE)
        if task == "broken":
            raise RuntimeError(task)


@pytest.fixture
def bench() -> Iterator[Bench]:
    found = Bench()
    yield found
    found.permits.release(100)
    found.hands.close()


class TestHands:
    def test_two_wait_and_the_third_is_not_taken(self, bench: Bench) -> None:
        bench.hands.hand("a")
        until(lambda: bench.begun == ["a"], "the first is worked on")
        bench.hands.hand("b")
        bench.hands.hand("c")
        assert not bench.hands.has_room
        handed = threading.Event()

        def hand() -> None:
            bench.hands.hand("d")
            handed.set()

        threading.Thread(target=hand, daemon=True).start()
        assert bench.begun == ["a"]
        assert not handed.is_set()  # and cannot be: there is no room before a permit
        bench.permits.release()
        assert handed.wait(PATIENCE)
        bench.permits.release(3)
        assert bench.hands.wait_idle(PATIENCE)
        assert bench.begun == ["a", "b", "c", "d"]
        assert bench.threads == {"test"}

    def test_who_raises_is_told_of_and_not_lost(self, bench: Bench) -> None:
        bench.permits.release(2)
        bench.hands.hand("broken")
        bench.hands.hand("next")
        assert bench.hands.wait_idle(PATIENCE)
        assert bench.begun == ["broken", "next"]
        assert [str(error) for error in bench.failures] == ["broken"]

    def test_a_lower_rank_goes_first(self, bench: Bench) -> None:
        bench.hands.hand("a", 1)
        until(lambda: bench.begun == ["a"], "the first is worked on")
        bench.hands.hand("backfill", 1)
        bench.hands.hand("live", 0)
        bench.permits.release(3)
        assert bench.hands.wait_idle(PATIENCE)
        assert bench.begun == ["a", "live", "backfill"]

    def test_what_waits_can_be_taken_back(self, bench: Bench) -> None:
        bench.hands.hand("a")
        until(lambda: bench.hands.current == "a", "the first is worked on")
        bench.hands.hand("b")
        bench.hands.hand("c")
        assert bench.hands.take_back() == ["b", "c"]
        assert not bench.hands.is_idle
        assert not bench.hands.wait_idle(0)
        bench.permits.release()
        assert bench.hands.wait_idle(PATIENCE)
        assert bench.begun == ["a"]

    def test_a_call_that_hangs_is_left_behind(self, bench: Bench) -> None:
        bench.hands.hand("hangs")
        until(lambda: bench.begun == ["hangs"], "it hangs")
        bench.hands.close()
        assert bench.hands.is_idle
        bench.permits.release(2)
        bench.hands.hand("next")
        assert bench.hands.wait_idle(PATIENCE)
        assert bench.begun == ["hangs", "next"]


class TestPace:
    def test_the_first_lease_is_sized_by_the_canary(self) -> None:
        pace = Pace(1000, 2.0)
        assert pace.size("a") == 16
        pace.begin("a", 100.0)
        assert pace.size("a") == 200
        pace.begin("a", 5.0)  # known by now
        assert pace.size("a") == 200
        pace.begin("b", 1.0)
        pace.begin("c", 1e6)
        pace.begin("d", None)
        assert [pace.size(store) for store in "bcd"] == [16, 1000, 16]

    def test_it_goes_by_steps_towards_the_seconds(self) -> None:
        pace = Pace(1000, 2.0)
        sizes = []
        for _ in range(8):
            size = pace.size("a")
            sizes.append(size)
            pace.saw("a", size, size / 150)  # 150 documents a second
        assert sizes == [16, 32, 64, 128, 256, 300, 300, 300]
        pace.saw("a", 300, 60.0)  # ten times as slow: longer documents
        assert pace.size("a") == 150
        for _ in range(9):
            pace.saw("a", pace.size("a"), 1e-9)
        assert pace.size("a") == 1000

    def test_a_lease_with_little_to_encode_tells_nothing(self) -> None:
        pace = Pace(1000, 2.0)
        pace.begin("a", 100.0)
        pace.saw("a", 49, 1e-9)
        assert pace.size("a") == 200

    def test_bytes_bound_it_too(self) -> None:
        pace = Pace(1000, 2.0)
        pace.begin("a", 1e6)
        pace.filled("a", 40)
        assert pace.size("a") == 40

    def test_the_batch_is_the_upper_bound(self) -> None:
        pace = Pace(4, 2.0)
        assert pace.size("a") == 4
        pace.begin("a", 1e6)
        assert pace.size("a") == 4


def names(turns: Turns, live: int, filling: int, after: list[float]) -> list[str]:
    """The order of a round, where the clock goes on by so much with each turn."""
    targets = [{"store": f"f{n}", "state": "filling"} for n in range(filling)]
    targets += [{"store": f"l{n}", "state": "active"} for n in range(live)]
    found = []
    for target in turns.order(targets):
        found.append(target["store"])
        after[0] += 1.0
    return found


class TestTurns:
    def test_each_has_one_turn(self) -> None:
        now = [0.0]
        turns = Turns(1000.0, lambda: now[0])
        for _ in range(20):
            order = names(turns, 2, 3, now)
            assert sorted(order) == ["f0", "f1", "f2", "l0", "l1"]
            assert sorted(order[:2]) == ["l0", "l1"]

    def test_what_is_searched_goes_between_what_is_filled(self) -> None:
        now = [0.0]
        order = names(Turns(1.0, lambda: now[0]), 1, 4, now)
        assert [name[0] for name in order] == list("lflflflf")

    def test_nothing_searched_is_no_trouble(self) -> None:
        now = [0.0]
        assert sorted(names(Turns(1.0, lambda: now[0]), 0, 3, now)) == ["f0", "f1", "f2"]
        assert names(Turns(1.0, lambda: now[0]), 0, 0, now) == []


class TestRecent:
    def test_a_text_on_its_way_is_encoded_once(self) -> None:
        provider, recent = Provider(), Recent(2)
        first = recent.encode("a", provider, ["x", "y"])
        recent.remember("a", ["x", "y"], first)
        second = recent.encode("a", provider, ["z", "y", "z"])
        recent.encode("b", provider, ["y"])  # of another store nothing is known
        assert provider.calls == [["x", "y"], ["z"], ["y"]]
        np.testing.assert_array_equal(
            second.vectors, load("hash:8").encode_documents(["z", "y", "z"])
        )
        recent.forget()
        recent.encode("a", provider, ["y"])
        assert provider.calls[-1] == ["y"]

    def test_what_failed_is_tried_again(self) -> None:
        bad = RejectedInputError("no")
        provider, recent = Provider(lambda texts: bad if "bad" in texts else None), Recent(2)
        first = recent.encode("a", provider, ["x", "bad"])
        recent.remember("a", ["x", "bad"], first)
        again = recent.encode("a", provider, ["x", "y", "bad"])
        assert (first.failed, again.failed) == ({1: "no"}, {2: "no"})
        assert sum("x" in texts for texts in provider.calls) == 2  # refused with the other, alone
