"""How a worker is watched: the options ``--metrics-port``, ``--log-format``, and traces."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

    from embver_pg.db import Database
    from embver_pg.observability import OnStep


class LogFormat(StrEnum):
    """The form of log lines."""

    text = "text"
    json = "json"


@dataclass(frozen=True)
class Watching:
    """What the command line said.

    Attributes:
        port: Of the metrics; None: they are not served.
        address: The interface they are served on.
        log_format: The form of log lines.
    """

    port: int | None
    address: str
    log_format: LogFormat

    def arguments(self, number: int) -> list[str]:
        """The same for the process of a number, from 0, on a port of its own."""
        found = ["--log-format", self.log_format.value]
        if self.port is not None:
            found += ["--metrics-port", str(self.port + number), "--metrics-address", self.address]
        return found

    def formatter(self) -> logging.Formatter | None:
        """The formatter of log lines; None: the usual one."""
        if self.log_format is LogFormat.text:
            return None
        from embver_pg.observability import json_formatter

        return json_formatter()

    def listener(self, database: Database, log_step: OnStep) -> OnStep:
        """Who is told of the worker's steps: the log, the metrics, and traces if installed."""
        from importlib.util import find_spec

        from embver_pg.observability import WorkerMetrics, all_of, serve_metrics, trace_steps

        listeners = [log_step]
        if self.port is not None:
            metrics = WorkerMetrics(database)
            serve_metrics(metrics, self.port, self.address)
            listeners.append(metrics.listen)
        if find_spec("opentelemetry") is not None:
            listeners.append(trace_steps())
        return all_of(*listeners)
