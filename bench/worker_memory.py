"""The memory of a worker process with MiniLM: flat, whatever the size of the collection.

Two collections of texts of 20 to 400 words, one five times the other; a worker process of its own
drains each. What is reported is the peak of its resident memory.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import closing

import _common as common

from embver_pg.client import Embver
from embver_pg.db import DATABASE_URL, Database

_MODEL = "sentence-transformers:sentence-transformers/all-MiniLM-L6-v2"
_DRAIN = (
    "import sys; from embver_pg import connect\n"
    "sys.exit(connect().drain(collection=sys.argv[1]).written != int(sys.argv[2]))"
)
_MOST = 1500.0  # MB
_GROWTH = 1.1  # of five times as many documents; the rest is noise of the allocator


def main() -> None:
    args = common.arguments(__doc__, documents=(10_000, "documents of the larger collection"))
    sizes = {"small": args.documents // 5, "large": args.documents}
    peaks: dict[str, float] = {}
    with (
        common.temporary_server(args.pg_version) as servers,
        closing(Embver(Database(servers.owner))) as embver,
    ):
        for name, documents in sizes.items():
            _fill(embver, name, documents)
            common.log(f"encoding {documents} documents")
            peaks[name] = _peak_of_worker(servers.owner, name, documents)
    results = [
        common.Result(f"peak, {documents} documents", "MB", peaks[name], _MOST)
        for name, documents in sizes.items()
    ]
    growth = peaks["large"] / peaks["small"]
    results.append(common.Result("growth, five times the documents", "peak", growth, _GROWTH))
    common.report(
        "worker_memory",
        results,
        {"model": "all-MiniLM-L6-v2", "PostgreSQL": args.pg_version},
        args.json,
    )


def _fill(embver: Embver, name: str, documents: int) -> None:
    chosen = random.Random(documents)
    words = [f"{stem}{ending}" for stem in _STEMS for ending in ("", "s", "ing", "ed", "ly")]
    embver.database.rows(f"CREATE TABLE {name} (id bigint PRIMARY KEY, body text NOT NULL)")
    with (
        embver.database.connection() as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY {name} FROM STDIN") as copy,
    ):
        for number in range(documents):
            text = " ".join(chosen.choices(words, k=chosen.randint(20, 400)))
            copy.write_row((number, f"{number} {text}"))
    collection = embver.create_collection(name, f"public.{name}", "body")
    collection.start_rollout(collection.add_version(_MODEL, index={"type": "none"}))


_STEMS = (
    *("wing", "stall", "flow", "heat", "plate", "shock", "layer", "drag", "lift", "jet", "nozzle"),
    *("pressure", "surface", "method", "result", "effect", "number", "theory", "measure", "cone"),
    *("cell", "gene", "protein", "patient", "dose", "trial", "risk", "level", "growth", "signal"),
)


def _peak_of_worker(url: str, collection: str, documents: int) -> float:
    """Megabytes; the worker is a process of its own and ends when the queue is empty."""
    worker = subprocess.Popen(
        [sys.executable, "-c", _DRAIN, collection, str(documents)],
        env={**os.environ, DATABASE_URL: url},
    )
    _, status, usage = os.wait4(worker.pid, 0)
    worker.returncode = os.waitstatus_to_exitcode(status)
    if worker.returncode:
        raise RuntimeError(f"the worker ended with {worker.returncode}")
    # Linux counts kilobytes, macOS bytes.
    return usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
