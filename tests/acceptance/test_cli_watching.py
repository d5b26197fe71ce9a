"""A worker that is watched: its metrics over HTTP, its log as JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from urllib.error import URLError

import psycopg

from embver_pg.client import Embver
from embver_pg.db import Row
from tests.conftest import Installed
from tests.waiting import until

COMMAND = [sys.executable, "-m", "embver_pg.cli"]


def test_metrics_and_json_logs(
    installed: Installed, owner: psycopg.Connection[Row], docs: Embver
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = subprocess.Popen(
        [*COMMAND, "worker", "--metrics-port", str(port), "--log-format", "json"],
        env={**os.environ, "EMBVER_DATABASE_URL": installed.owner},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def scraped() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return str(answer.read(), "utf-8")
        except URLError:
            return ""  # it has not begun yet

    written = 'embver_worker_documents_total{outcome="written",store="embver_docs_v1"} 3.0'
    try:
        until(lambda: written in scraped(), "three documents are counted")
        found = scraped()
        assert "embver_database_up 1.0" in found
        assert 'embver_queue_documents{state="ready",store="embver_docs_v1"}' in found
        assert 'embver_worker_encode_seconds_count{store="embver_docs_v1"}' in found
    finally:
        worker.terminate()
        _, log = worker.communicate(timeout=30)
    assert worker.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert any("3 written" in line["message"] for line in lines)
    assert {line["level"] for line in lines} == {"INFO"}
    assert {line["pid"] for line in lines} == {worker.pid}
