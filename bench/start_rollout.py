"""Starting a rollout: the time it takes and the longest stall of a writer, by size of the source.

Writers insert one row after another on a connection of their own while a rollout is started,
walked for its first step and aborted, some times over. Both figures have to stay flat.
"""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field

import _common as common
import psycopg

from embver_pg.client import Collection, Embver
from embver_pg.db import Database

_SIZES = (10_000, 100_000, 1_000_000)
_FLAT = 2.0  # largest over smallest: the rest is noise of a few milliseconds


@dataclass
class Writer:
    """Inserts without pause; its slowest statement while it is watched."""

    url: str
    table: str
    slowest: float = 0.0
    error: psycopg.Error | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Writer:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                while not self._stop.is_set():
                    began = time.perf_counter()
                    connection.execute(f"INSERT INTO {self.table} (body) VALUES ('a')".encode())
                    self.slowest = max(self.slowest, time.perf_counter() - began)
        except psycopg.Error as error:
            self.error = error


def main() -> None:
    args = common.arguments(
        __doc__,
        largest=(_SIZES[-1], "rows of the largest source; 10000000 by hand"),
        rounds=(7, "starts of each"),
    )
    sizes = sorted({*(size for size in _SIZES if size < args.largest), args.largest})
    starts: dict[int, float] = {}
    stalls: dict[int, float] = {}
    with common.temporary_server(args.pg_version) as servers:
        for size in sizes:
            common.log(f"{size} rows")
            with Embver(Database(servers.owner)) as embver:
                starts[size], stalls[size] = _measure(embver, servers.owner, size, args.rounds)
    results = [
        common.Result(what, "ms", figures[size] * 1e3, note=f"{size} rows")
        for what, figures in (("start_rollout", starts), ("longest stall of a writer", stalls))
        for size in sizes
    ]
    for what, figures in (("start_rollout", starts), ("longest stall of a writer", stalls)):
        ratio = figures[sizes[-1]] / figures[sizes[0]]
        note = f"{sizes[-1]} rows over {sizes[0]}"
        results.append(common.Result(what, "wall", ratio, _FLAT, figures[sizes[0]] * 1e6, note))
    facts = {"rounds": args.rounds, "PostgreSQL": args.pg_version}
    common.report("start_rollout", results, facts, args.json)


def _measure(embver: Embver, url: str, size: int, rounds: int) -> tuple[float, float]:
    """Seconds: the median of a start, and the median over the starts of the longest stall."""
    table = f"source_{size}"
    embver.database.rows(
        f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)"
    )
    embver.database.rows(
        f"INSERT INTO {table} (body) SELECT md5(i::text) FROM generate_series(1, {size}) AS i"
    )
    embver.database.rows(f"VACUUM ANALYZE {table}")
    collection = embver.create_collection(table, f"public.{table}", "body")
    collection.add_version("hash:64", index={"type": "none"})
    times, stalls = [], []
    for _ in range(rounds):
        with Writer(url, table) as writer:
            time.sleep(0.2)
            writer.slowest = 0.0
            times.append(_start(embver, collection))
            time.sleep(0.05)
            stalls.append(writer.slowest)
        collection.abort_rollout("again")
    return statistics.median(times), statistics.median(stalls)


def _start(embver: Embver, collection: Collection) -> float:
    began = time.perf_counter()
    collection.start_rollout(1)
    seconds = time.perf_counter() - began
    step = f"SELECT phase FROM embver_{collection.name}_v1.walk_step()"
    while embver.database.value(step) in ("pending", "barrier"):  # older writers end first
        pass
    return seconds


if __name__ == "__main__":
    main()
