"""Worker processes that start in milliseconds: forks of one process that has imported everything.

``python -m tests.chaos.nursery`` reads a JSON line a worker from its standard input and answers
with lines ``{"born": pid}`` and ``{"ended": pid, "status": n}``. What a worker logs from WARNING
on goes to the file ``log`` of its configuration, one JSON object a line.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.chaos.processes import ROOT
from tests.waiting import PATIENCE


class Nursery:
    """The process that forks workers, from the outside."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._born: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._ended: dict[int, int] = {}
        self._starting = threading.Lock()
        threading.Thread(target=self._read, name="nursery", daemon=True).start()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()  # ends it, and its children
        self._popen.wait(PATIENCE)

    def start(self, url: str, log: Path, **options: Any) -> int:
        """Start a worker; the number of its process."""
        assert self._popen.stdin is not None
        with self._starting:
            line = json.dumps({"url": url, "log": str(log), "options": options})
            self._popen.stdin.write(line + "\n")
            self._popen.stdin.flush()
            pid = self._born.get(timeout=PATIENCE)
        assert pid is not None, "the nursery has ended"
        return pid

    def status(self, pid: int) -> int | None:
        """How a worker has ended, as ``waitpid`` says it; None while it lives."""
        return self._ended.get(pid)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            said = json.loads(line)
            if "born" in said:
                self._born.put(said["born"])
            else:
                self._ended[said["ended"]] = said["status"]
        self._born.put(None)


class _Journal(logging.Handler):
    """Warnings as lines of JSON."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.WARNING)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        line = {
            "at": time.time(),
            "pid": os.getpid(),
            "level": record.levelname,
            "message": record.getMessage()[:400],
            "trace": self.format(record)[-3000:] if record.exc_info else None,
        }
        with Path(self._path).open("a") as file:
            file.write(json.dumps(line) + "\n")


def _work(config: dict[str, Any]) -> int:
    """Be a worker until SIGTERM; the status to end with."""
    from embver_pg.db import Database
    from embver_pg.worker import Worker, stop_on_signals

    log = logging.getLogger()
    log.handlers = [_Journal(config["log"])]
    try:
        worker = Worker(Database(config["url"]), **config["options"])
        with stop_on_signals(worker.stop):
            worker.run()
    except Exception as error:
        log.critical("the worker ended: %s", error, exc_info=True)
        return 1
    return 0


def main() -> None:
    """Fork workers for as long as the standard input is open."""
    # Imported before the forks, so that no worker pays for it: nothing here uses them.
    import openai
    import psycopg_pool  # noqa: F401 (for the forked workers)

    import embver_pg.client  # noqa: F401 (for the forked workers)

    # The library loads this part when the attribute is first read.
    openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1").embeddings  # noqa: B018
    children: set[int] = set()
    pending = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        if readable:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    os.close(0)
                    os._exit(_work(json.loads(line)))
                children.add(pid)
                print(json.dumps({"born": pid}), flush=True)
        for pid in list(children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                children.discard(pid)
                print(json.dumps({"ended": pid, "status": status}), flush=True)
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
