"""What the benchmarks share: a server of their own, timing that stands noise, the table of results.

Ratios are taken within a round, in which the variants run in random order one after the other;
the median over the rounds is reported. Other work on the machine slows all variants of a round.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from embver_pg import embedded, schema
from embver_pg.db import open_connection

# Durability would be measured with the writes; autovacuum would fall into some variant's block.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "1GB",
    "maintenance_work_mem": "1GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
}
_ROLES = {"bench_owner": "embver_admin", "bench_reader": "embver_reader"}


@dataclass(frozen=True)
class Servers:
    """A running server with embver-pg installed, for one benchmark.

    Attributes:
        owner: URL for the role that owns the source and administers embver.
        reader: URL for a role that may only search.
    """

    owner: str
    reader: str


@dataclass(frozen=True)
class Cost:
    """What one execution costs.

    Attributes:
        cpu: Backend CPU, seconds; NaN where the system does not tell.
        wall: Seconds as the client sees them.
    """

    cpu: float
    wall: float


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        what: The statement and the variant.
        measure: ``cpu``, ``wall``, ``peak`` for ratios of these; ``MB``.
        value: The ratio, or the amount.
        goal: The most it may be; None where there is no goal.
        base: The denominator of the ratio, microseconds; None for amounts.
        note: What else to know.
    """

    what: str
    measure: str
    value: float
    goal: float | None = None
    base: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met."""
        return None if self.goal is None else self.value <= self.goal


def arguments(description: str | None, **numbers: tuple[int, str]) -> argparse.Namespace:
    """The command line: ``--json``, ``--pg-version`` and whole numbers with their defaults."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--pg-version", type=int, default=embedded.DEFAULT_VERSION)
    for name, (default, text) in numbers.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{text} (default {default})"
        )
    # `make bench` hands the same options to every script; each takes those it knows.
    return parser.parse_known_args()[0]


@contextmanager
def temporary_server(version: int, settings: Mapping[str, str] | None = None) -> Iterator[Servers]:
    """An embedded server in a temporary directory, installed by ordinary roles."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 8 << 30
    root = Path(tempfile.mkdtemp(prefix="embver-bench-", dir=memory if roomy else None))
    root.chmod(0o755)  # the account that runs the server for root has to pass
    data_dir = root / "data"
    try:
        admin = embedded.start(data_dir, version, {**_SETTINGS, **(settings or {})})
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("CREATE ROLE embver_worker NOLOGIN")
            for role, group in _ROLES.items():
                connection.execute(f"CREATE ROLE {role} LOGIN")
                connection.execute(f"CREATE ROLE {group} NOLOGIN")
                connection.execute(f"GRANT {group} TO {role}")
            connection.execute("GRANT embver_worker TO bench_owner")
            connection.execute("GRANT CREATE, TEMPORARY ON DATABASE embver TO bench_owner")
            connection.execute("GRANT CREATE ON SCHEMA public TO bench_owner")
        owner, reader = (_as_role(admin, role) for role in _ROLES)
        schema.init(owner)
        yield Servers(owner, reader)
    finally:
        embedded.stop(data_dir)
        shutil.rmtree(root, ignore_errors=True)


class Session:
    """One connection whose statements are prepared and measured."""

    def __init__(self, url: str) -> None:
        self.connection = open_connection(url)
        self._pid = self.connection.info.backend_pid
        self._names: dict[str, bytes] = {}

    def close(self) -> None:
        self.connection.close()

    def execute(self, query: str, parameters: Sequence[bytes] = (), binary: int = 0) -> Any:
        """Run a prepared statement with libpq itself, so that the client costs little."""
        pgconn = self.connection.pgconn
        if query not in self._names:
            self._names[query] = f"bench_{len(self._names)}".encode()
            _checked(pgconn.prepare(self._names[query], query.encode()))
        formats = [binary] * len(parameters)
        return _checked(pgconn.exec_prepared(self._names[query], list(parameters), formats, 1))

    def measure(self, block: Callable[[], int]) -> Cost:
        """The cost of one execution in a block; the block returns how many it ran."""
        cpu, wall = self._cpu(), time.perf_counter()
        count = block()
        wall, cpu = time.perf_counter() - wall, self._cpu() - cpu
        return Cost(cpu / count, wall / count)

    def _cpu(self) -> float:
        """Seconds the backend has run, from the Linux scheduler."""
        try:
            return int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[0]) / 1e9
        except OSError:
            return float("nan")


def in_rounds(
    rounds: int, variants: Mapping[str, Callable[[], Cost]], seed: int = 0
) -> dict[str, list[Cost]]:
    """Every variant once a round, in random order."""
    order = random.Random(seed)
    costs: dict[str, list[Cost]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name in order.sample(list(variants), len(variants)):
            costs[name].append(variants[name]())
    return costs


def median_ratio(costs: Sequence[Cost], base: Sequence[Cost], measure: str) -> tuple[float, float]:
    """The median over the rounds of cost / base, and the median of the base in microseconds."""
    pairs = [(getattr(a, measure), getattr(b, measure)) for a, b in zip(costs, base, strict=True)]
    return statistics.median(a / b for a, b in pairs), statistics.median(b for _, b in pairs) * 1e6


def report(title: str, results: Sequence[Result], facts: Mapping[str, Any], as_json: bool) -> None:
    """Print the table, or JSON."""
    results = [result for result in results if result.value == result.value]  # no NaN
    if as_json:
        lines = [{**asdict(result), "is_met": result.is_met} for result in results]
        json.dump({"benchmark": title, **facts, "results": lines}, sys.stdout, indent=2)
        print()
        return
    print(f"{title}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    width = max(len(result.what) for result in results)
    for result in results:
        goal = "" if result.goal is None else f"goal ≤ {result.goal:g}"
        verdict = {None: "", True: "met", False: "NOT MET"}[result.is_met]
        base = "" if result.base is None else f"of {result.base:.0f} µs"
        line = (
            f"  {result.what:{width}}  {result.measure:4}  {result.value:7.2f}  {base:14}"
            f"  {goal:12}  {verdict:7}  {result.note}"
        )
        print(line.rstrip())


def log(text: str) -> None:
    """Say on stderr what goes on."""
    print(text, file=sys.stderr, flush=True)


def _as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


def _checked(result: Any) -> Any:
    if result.status not in (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK):
        raise RuntimeError(result.error_message.decode())
    return result
