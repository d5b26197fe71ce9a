"""The client that searches without pause: a process of its own, which keeps every outcome."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embver_pg.client import connect
from embver_pg.demo.material import TABLE
from embver_pg.demo.processes import Process
from embver_pg.demo.site import DemoFailedError, Site

K = 10
_LOAD_SECONDS = 180.0


@dataclass(frozen=True)
class Search:
    """One search.

    Attributes:
        began: On the machine's monotonic clock, in seconds.
        ended: The same.
        version: That answered.
        error: Why it failed, if it did.
    """

    began: float
    ended: float
    version: int | None
    error: str | None


class Searcher:
    """The process, seen from the demo."""

    def __init__(self, site: Site, questions: Sequence[str]) -> None:
        self._outcomes = site.directory / "searches.jsonl"
        self._read = 0  # bytes
        self._searches: list[Search] = []
        self._failed = 0
        asked = site.directory / "questions.json"
        asked.write_text(json.dumps(list(questions)), encoding="utf-8")
        self._process = Process(
            "searching client",
            site,
            ["-m", "embver_pg.demo.searcher", str(asked), str(self._outcomes)],
        )

    def wait_until_searching(self) -> None:
        """Return after its first search.

        Raises:
            DemoFailedError: It died, or does not begin.
        """
        deadline = time.monotonic() + _LOAD_SECONDS
        while not self.searches():
            self._process.check()
            if time.monotonic() > deadline:
                raise DemoFailedError(
                    "The searching client does not begin.", detail={"log": self._process.said()}
                )
            time.sleep(0.05)

    def searches(self) -> list[Search]:
        """What was searched so far, in order."""
        if self._outcomes.exists():
            with self._outcomes.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the last line may be half written
            self._read += len(whole)
            made = [Search(*json.loads(line)) for line in whole.splitlines()]
            self._searches += made
            self._failed += sum(search.error is not None for search in made)
        return self._searches

    def so_far(self) -> str:
        """Counts, for people."""
        return f"{len(self.searches()):,} searches, {self._failed} failed"

    def stop(self) -> str | None:
        """End it; what went wrong, if the process did not live and end as it should."""
        died = self._process.popen.poll() is not None
        code = self._process.stop(terminate=False)
        if died or code != 0:
            return f"the searching client died (exit code {code}): {self._process.said()}"
        return None


@dataclass(frozen=True)
class Searches:
    """All searches of a run.

    Attributes:
        made: How many.
        failed: How many raised an error or answered with less than asked for.
        errors: The first messages.
        by_version: Answers by version.
        longest_stall: Longest time without an answer, in seconds.
        median: Of the time a search took, in seconds.
        p99: The 99th percentile of it.
    """

    made: int
    failed: int
    errors: tuple[str, ...]
    by_version: dict[int, int]
    longest_stall: float
    median: float
    p99: float


def summarize(searches: Sequence[Search]) -> Searches:
    """Counts and times."""
    errors = [search.error for search in searches if search.error is not None]
    took = [search.ended - search.began for search in searches]
    answered = [search.ended for search in searches if search.error is None]
    counted = Counter(search.version for search in searches if search.version is not None)
    return Searches(
        made=len(searches),
        failed=len(errors),
        errors=tuple(errors[:5]),
        by_version=dict(sorted(counted.items())),
        longest_stall=max((b - a for a, b in itertools.pairwise(answered)), default=0.0),
        median=float(np.median(took)) if took else 0.0,
        p99=float(np.quantile(took, 0.99)) if took else 0.0,
    )


def stall_around(searches: Sequence[Search], began: float, ended: float) -> float:
    """The longest time without an answer that touches a span of time, in seconds."""
    answered = [search.ended for search in searches if search.error is None]
    return max(
        (b - a for a, b in itertools.pairwise(answered) if b >= began and a <= ended), default=0.0
    )


def search_without_pause(questions: Sequence[str], outcomes: Path) -> None:
    """Search until the standard input closes.

    The encoders of all versions are loaded first, as an application would load the new model
    before it is needed.
    """
    stop = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    with connect() as embver, outcomes.open("w", encoding="utf-8", buffering=1) as file:
        docs = embver.collection(TABLE)
        for row in docs.versions():
            embver.encoder(row["encoder"], row["fingerprint"]).encode_queries(["warm"])
        for question in itertools.cycle(questions):
            if stop.is_set():
                return
            version = error = None
            began = time.monotonic()
            try:
                hits = docs.search(question, k=K)
                version = hits[0].version if hits else None
                if len(hits) < K:
                    error = f"{len(hits)} documents instead of {K}"
            except Exception as failure:
                # Whatever it is, it counts, and the next search is tried.
                error = f"{type(failure).__name__}: {failure}"
                stop.wait(0.05)
            file.write(json.dumps([began, time.monotonic(), version, error]) + "\n")


if __name__ == "__main__":
    search_without_pause(
        json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    )
