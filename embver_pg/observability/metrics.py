"""Prometheus metrics of a worker: what it did, and what waits in the queues it serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from embver_pg.db import Database, store_function
from embver_pg.errors import EmbverError, InvalidArgument
from embver_pg.observability.steps import require

_FRESH = 5.0  # seconds that the figures of the queues are good for
_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)  # seconds


class WorkerMetrics:
    """Counts the steps of a worker; :meth:`listen` is its ``on_step``.

    Attributes:
        registry: The ``prometheus_client.CollectorRegistry`` that holds them.
    """

    def __init__(self, database: Database) -> None:
        """Make the registry.

        Args:
            database: Asked for the queues when somebody scrapes, at most every five seconds.

        Raises:
            InvalidArgument: prometheus-client is not installed.
        """
        client = require("prometheus_client", "prometheus-client")
        self.registry = client.CollectorRegistry()
        self._documents = client.Counter(
            "embver_worker_documents",
            "Documents by what became of them: written, failed (dead letters) or returned.",
            ("store", "outcome"),
            registry=self.registry,
        )
        self._leases = client.Counter(
            "embver_worker_leases",
            "Leases by how they ended: completed, given_back or lost.",
            ("store", "outcome"),
            registry=self.registry,
        )
        self._seconds = {
            stage: client.Histogram(
                f"embver_worker_{stage}_seconds",
                text,
                ("store",),
                buckets=_BUCKETS,
                registry=self.registry,
            )
            for stage, text in (
                ("encode", "Time the encoder took for the documents of a lease."),
                ("write", "Time that writing the vectors of a lease took."),
            )
        }
        core = require("prometheus_client.core", "prometheus-client")
        self.registry.register(_Queues(core.GaugeMetricFamily, database))

    def listen(self, name: str, figures: dict[str, Any]) -> None:
        """Take a step of the worker."""
        store = figures.get("store")
        if name == "encoded":
            self._seconds["encode"].labels(store).observe(figures["seconds"])
        elif name == "completed":
            self._seconds["write"].labels(store).observe(figures["seconds"])
            for outcome in ("written", "failed", "returned"):
                self._documents.labels(store, outcome).inc(figures[outcome])
        if name in ("completed", "given_back", "lost"):
            self._leases.labels(store, name).inc()


def serve_metrics(metrics: WorkerMetrics, port: int, address: str = "127.0.0.1") -> None:
    """Serve the metrics over HTTP, in a thread that ends with the process.

    Args:
        metrics: Of the worker.
        port: Where Prometheus asks.
        address: The interface to listen on.

    Raises:
        InvalidArgument: The port is taken or forbidden.
    """
    client = require("prometheus_client", "prometheus-client")
    try:
        client.start_http_server(port, addr=address, registry=metrics.registry)
    except OSError as error:
        raise InvalidArgument(
            f"The metrics cannot be served on {address}:{port}: {error.strerror}.",
            detail={"address": address, "port": port},
            hint="choose another port: --metrics-port",
        ) from error


class _Queues:
    """The queues of the live stores, read when somebody asks."""

    def __init__(self, gauge: Any, database: Database) -> None:
        self._gauge = gauge
        self._database = database
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._rows: list[dict[str, Any]] = []

    def describe(self) -> list[Any]:
        """Nothing: registering must not ask the database."""
        return []

    def collect(self) -> Iterator[Any]:
        """The gauges."""
        with self._lock:
            is_up = self._read()
            rows = list(self._rows)
        yield self._gauge("embver_database_up", "Whether the database answered.", value=is_up)
        jobs = self._gauge(
            "embver_queue_documents",
            "Jobs by state: ready, waiting (due later), leased, dead (letters not waived).",
            labels=("store", "state"),
        )
        lag = self._gauge(
            "embver_queue_lag_seconds", "Age of the oldest job of a store.", labels=("store",)
        )
        for row in rows:
            for state in ("ready", "waiting", "leased", "dead"):
                jobs.add_metric((row["store"], state), row[state])
            lag.add_metric((row["store"],), row["lag"])
        yield jobs
        yield lag

    def _read(self) -> bool:
        """Refresh the figures; without a database there are none, rather than old ones."""
        if time.monotonic() - self._read_at < _FRESH:
            return True
        self._rows = []
        try:
            targets = self._database.rows("SELECT store FROM embver_internal.writable_versions()")
            for target in targets:
                self._rows += self._database.rows(
                    psycopg.sql.SQL(
                        "SELECT %s AS store, q.*, coalesce("
                        "extract(epoch FROM clock_timestamp() - q.oldest_at), 0)::float8 AS lag"
                        " FROM {}() AS q"
                    ).format(store_function(target["store"], "queue_status")),
                    (target["store"],),
                )
        except (psycopg.Error, EmbverError):
            return False
        self._read_at = time.monotonic()
        return True
