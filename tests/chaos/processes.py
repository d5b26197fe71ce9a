"""Worker processes under control, and what must hold when the dust has settled."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embver_pg.db import Row
from embver_pg.encoders import load
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


class WorkerProcess:
    """A running :mod:`tests.chaos.worker_process`."""

    def __init__(self, url: str, **config: Any) -> None:
        self.popen = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.chaos.worker_process",
                json.dumps({"url": url, **config}),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.steps: list[dict[str, Any]] = []
        self.stderr: list[str] = []
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._errors = threading.Thread(target=self._read_errors, daemon=True)
        self._errors.start()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, *names: str) -> dict[str, Any]:
        """The next of these steps."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{names} not reached: {self._story()}") from None
            if line is None:
                raise AssertionError(f"ended before {names}: {self._story()}")
            self.steps.append(line)
            if line["step"] in names:
                return line

    def go(self) -> None:
        """Let it go on from where it pauses."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def go_for_good(self) -> None:
        """Let it go on, and pause no more."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.popen.wait(PATIENCE)

    def terminate(self) -> None:
        """SIGTERM."""
        self.popen.send_signal(signal.SIGTERM)

    def finish(self) -> dict[str, Any]:
        """Its report, once it has ended by itself and all that it said is read."""
        report = self.wait_for("ended")
        self.popen.wait(PATIENCE)
        self._errors.join(PATIENCE)
        return report

    def close(self) -> None:
        if self.popen.poll() is None:
            self.kill()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        try:
            for line in self.popen.stdout:
                self._lines.put(json.loads(line))
        except ValueError:  # closed, or cut off by a kill
            pass
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.popen.stderr is not None
        with suppress(ValueError):
            self.stderr.extend(self.popen.stderr)

    def _story(self) -> str:
        return f"{self.steps[-20:]} {''.join(self.stderr)[-3000:]}"


@contextmanager
def worker_process(url: str, **config: Any) -> Iterator[WorkerProcess]:
    """A worker process that does not outlive the block."""
    process = WorkerProcess(url, **config)
    try:
        yield process
    finally:
        process.close()


def encoded(log: Path) -> Counter[str]:
    """How often each text was encoded."""
    if not log.exists():
        return Counter()
    lines = log.read_text().splitlines()
    return Counter(text for line in lines for text in json.loads(line))


def assert_whole(
    connection: psycopg.Connection[Row], version: int = 1, dimensions: int = 16
) -> None:
    """Invariant 1, to the last float, and nothing left in the queue or the ledger."""
    store = f"embver_docs_v{version}"
    counts = connection.execute("SELECT * FROM embver.verify('docs', %s)", (version,)).fetchone()
    assert counts == {"missing": 0, "stale": 0, "orphaned": 0}
    status = connection.execute(f"SELECT * FROM {store}.queue_status()").fetchone()
    assert status is not None
    assert (status["ready"], status["waiting"], status["leased"]) == (0, 0, 0)
    rows = connection.execute(
        "SELECT d.id, d.title || E'\\n' || d.body AS content, e.embedding::text AS embedding"
        f" FROM docs d LEFT JOIN {store}.embedding e ON e.id = d.id AND e.chunk = 0 ORDER BY d.id"
    ).fetchall()
    if rows:
        expected = load(f"hash:{dimensions}").encode_documents([row["content"] for row in rows])
        found = np.array([json.loads(row["embedding"]) for row in rows])
        np.testing.assert_allclose(found, expected, atol=1e-6)


def backends(connection: psycopg.Connection[Row], pattern: str) -> list[Row]:
    """Other backends of this database whose statement matches."""
    return connection.execute(
        "SELECT pid, state, wait_event_type, query FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend' AND query ~ %s",
        (pattern,),
    ).fetchall()
