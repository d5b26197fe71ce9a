"""OpenTelemetry spans of a worker: one for each lease, with its encoding and its writing."""

from __future__ import annotations

import threading
import time
from typing import Any

from embver_pg.observability.steps import OnStep, require

_SPAN_ENDS = {"completed": None, "given_back": "given back", "lost": "lease lost"}
_OPEN = 64  # leases; one whose end is never told must not be kept for ever


def trace_steps() -> OnStep:
    """A listener that records spans with whatever tracer provider the process has set up.

    ``embver.lease`` spans have the children ``embver.encode`` and ``embver.write``.

    Raises:
        InvalidArgument: opentelemetry-api is not installed.
    """
    return _Spans(require("opentelemetry.trace", "opentelemetry-api")).listen


class _Spans:
    def __init__(self, trace: Any) -> None:
        self._trace = trace
        self._tracer = trace.get_tracer("embver_pg.worker")
        self._open: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def listen(self, name: str, figures: dict[str, Any]) -> None:
        """Take a step of the worker."""
        if "lease" not in figures:
            return
        key = (figures["store"], figures["lease"])
        with self._lock:
            if name == "claimed":
                self._begin(key, figures["documents"])
            elif key in self._open:
                self._go_on(key, name, figures)

    def _begin(self, key: tuple[str, int], documents: int) -> None:
        if len(self._open) >= _OPEN:
            self._open.pop(next(iter(self._open))).end()
        store, lease = key
        attributes = {"embver.store": store, "embver.lease": lease, "embver.documents": documents}
        self._open[key] = self._tracer.start_span("embver.lease", attributes=attributes)

    def _go_on(self, key: tuple[str, int], name: str, figures: dict[str, Any]) -> None:
        span = self._open[key]
        part = {"encoded": "embver.encode", "completed": "embver.write"}.get(name)
        if part is not None:
            now = time.time_ns()
            child = self._tracer.start_span(
                part,
                context=self._trace.set_span_in_context(span),
                start_time=now - int(figures["seconds"] * 1e9),
            )
            child.end(now)
        if name in _SPAN_ENDS:
            if (problem := _SPAN_ENDS[name]) is not None:
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, problem))
            self._open.pop(key).end()
