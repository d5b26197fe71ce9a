"""Watching a worker from outside: metrics, traces and structured logs, each with its own extra."""

from embver_pg.observability.logs import json_formatter
from embver_pg.observability.metrics import WorkerMetrics, serve_metrics
from embver_pg.observability.steps import OnStep, all_of
from embver_pg.observability.tracing import trace_steps

__all__ = ["OnStep", "WorkerMetrics", "all_of", "json_formatter", "serve_metrics", "trace_steps"]
