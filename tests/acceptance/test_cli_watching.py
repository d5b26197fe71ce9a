"""A worker that is watched: its metrics over HTTP, its log as JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from functools import partial
from urllib.error import URLError

import psycopg

from embver_pg.client import Embver
from embver_pg.db import Row
from tests.conftest import Installed
from tests.waiting import PATIENCE, until

COMMAND = [sys.executable, "-m", "embver_pg.cli"]


def watched_worker(url: str) -> tuple[subprocess.Popen[str], int]:
    """A worker and the port of its metrics: one that was free a moment ago, so it may take two."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        worker = subprocess.Popen(
            [*COMMAND, "worker", "--metrics-port", str(port), "--log-format", "json"],
            env={**os.environ, "EMBVER_DATABASE_URL": url},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(partial(has_begun, worker, port), "it serves its metrics")
        if worker.poll() is None:
            return worker, port
        _, log = worker.communicate()
        assert "metrics cannot be served" in log


def has_begun(worker: subprocess.Popen[str], port: int) -> bool:
    return worker.poll() is not None or "embver_" in scraped(port)


def scraped(port: int) -> str:
    place = f"http://127.0.0.1:{port}/metrics"
    try:
        with urllib.request.urlopen(place, timeout=PATIENCE) as answer:
            return str(answer.read(), "utf-8")
    except URLError:
        return ""  # it has not begun yet


def test_metrics_and_json_logs(
    installed: Installed, owner: psycopg.Connection[Row], docs: Embver
) -> None:
    worker, port = watched_worker(installed.owner)
    written = 'embver_worker_documents_total{outcome="written",store="embver_docs_v1"} 3.0'
    try:
        until(lambda: written in scraped(port), "three documents are counted")
        found = scraped(port)
        assert "embver_database_up 1.0" in found
        assert 'embver_queue_documents{state="ready",store="embver_docs_v1"}' in found
        assert 'embver_worker_encode_seconds_count{store="embver_docs_v1"}' in found
    finally:
        worker.terminate()
        _, log = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert any("3 written" in line["message"] for line in lines)
    assert {line["level"] for line in lines} == {"INFO"}
    assert {line["pid"] for line in lines} == {worker.pid}
