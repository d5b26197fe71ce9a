"""Metrics, traces and JSON logs of a worker's steps."""

from __future__ import annotations

import json
import logging
import socket
import sys
import urllib.request
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from embver_pg.db import Database
from embver_pg.errors import InvalidArgument
from embver_pg.observability import WorkerMetrics, json_formatter, serve_metrics, trace_steps
from embver_pg.observability.tracing import _Spans
from tests.waiting import PATIENCE

STORE = "embver_docs_v1"
STEPS: list[tuple[str, dict[str, Any]]] = [
    ("registered", {"worker": "w"}),
    ("walk", {"store": STORE, "phase": "done"}),
    ("claimed", {"store": STORE, "lease": 1, "documents": 5}),
    ("claimed", {"store": STORE, "lease": 2, "documents": 4}),
    ("encoded", {"store": STORE, "lease": 1, "seconds": 0.4}),
    (
        "completed",
        {"store": STORE, "lease": 1, "written": 3, "failed": 1, "returned": 1, "seconds": 0.03},
    ),
    ("encoded", {"store": STORE, "lease": 2, "seconds": 0.2}),
    ("lost", {"store": STORE, "lease": 2}),
    ("claimed", {"store": STORE, "lease": 3, "documents": 4}),
    ("given_back", {"store": STORE, "lease": 3}),
]


@pytest.fixture
def metrics() -> WorkerMetrics:
    """Of a worker whose database does not answer."""
    return WorkerMetrics(Database("postgresql://127.0.0.1:1/nowhere?connect_timeout=1"))


def test_metrics_of_the_steps(metrics: WorkerMetrics) -> None:
    for name, figures in STEPS:
        metrics.listen(name, figures)

    def sample(name: str, **labels: str) -> Any:
        return metrics.registry.get_sample_value(
            f"embver_worker_{name}", {"store": STORE, **labels}
        )

    assert sample("documents_total", outcome="written") == 3
    assert sample("documents_total", outcome="failed") == 1
    assert sample("documents_total", outcome="returned") == 1
    for outcome in ("completed", "given_back", "lost"):
        assert sample("leases_total", outcome=outcome) == 1
    assert sample("encode_seconds_count") == 2
    assert sample("encode_seconds_sum") == pytest.approx(0.6)
    assert sample("write_seconds_sum") == pytest.approx(0.03)
    assert metrics.registry.get_sample_value("embver_database_up") == 0


def test_metrics_are_served(metrics: WorkerMetrics) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve_metrics(metrics, port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        assert b"embver_database_up 0.0" in answer.read()
    with pytest.raises(InvalidArgument, match="cannot be served on") as failure:
        serve_metrics(metrics, port)
    assert "--metrics-port" in str(failure.value.hint)


def test_spans_of_the_steps() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = _Spans(_Trace(provider))
    for name, figures in STEPS:
        spans.listen(name, figures)
    found = exporter.get_finished_spans()
    assert [span.name for span in found] == [
        *("embver.encode", "embver.write", "embver.lease"),
        *("embver.encode", "embver.lease", "embver.lease"),
    ]
    leases = {(span.attributes or {})["embver.lease"]: span for span in found if not span.parent}
    assert [leases[number].status.description for number in (1, 2, 3)] == [
        None,
        "lease lost",
        "given back",
    ]
    encode = found[0]
    assert encode.parent is not None
    assert encode.parent == leases[1].get_span_context()
    assert encode.start_time is not None
    assert encode.end_time is not None
    assert encode.end_time - encode.start_time == 400_000_000


def test_leases_without_an_end_are_not_kept() -> None:
    spans = _Spans(trace)
    for number in range(1000):
        spans.listen("claimed", {"store": STORE, "lease": number, "documents": 1})
    assert len(spans._open) <= 64


def test_without_a_tracer_provider_nothing_happens() -> None:
    listen = trace_steps()
    for name, figures in STEPS:
        listen(name, figures)


def test_log_lines_are_json() -> None:
    record = logging.LogRecord(
        "embver_pg.worker", logging.INFO, __file__, 1, "%s ist fertig: ü", ("docs",), None
    )
    record.store = STORE
    line = json.loads(json_formatter().format(record))
    assert line["message"] == "docs ist fertig: ü"
    assert line["level"] == "INFO"
    assert line["store"] == STORE
    assert line["at"].endswith("Z")


@pytest.mark.parametrize(
    ("module", "package", "use"),
    [
        ("prometheus_client", "prometheus-client", lambda: WorkerMetrics(cast(Any, None))),
        ("opentelemetry.trace", "opentelemetry-api", trace_steps),
        ("pythonjsonlogger.json", "python-json-logger", json_formatter),
    ],
    ids=["metrics", "traces", "logs"],
)
def test_a_missing_package_is_named(
    module: str, package: str, use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidArgument, match=package) as failure:
        use()
    assert failure.value.hint == "pip install 'embver-pg[observability]'"


class _Trace:
    """The module ``opentelemetry.trace`` with a provider of the test's own."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def __getattr__(self, name: str) -> Any:
        return getattr(trace, name)

    def get_tracer(self, name: str) -> Any:
        return self._provider.get_tracer(name)
