"""Log lines as JSON objects, one a line."""

from __future__ import annotations

import logging
import time

from embver_pg.observability.steps import require

_FIELDS = {
    "asctime": "at",
    "levelname": "level",
    "name": "logger",
    "process": "pid",
    "threadName": "thread",
}


def json_formatter() -> logging.Formatter:
    """A formatter that writes ``at``, ``level``, ``logger``, ``pid``, ``thread``, ``message``.

    Fields passed as ``extra=`` are kept. Times are ISO 8601 in UTC.

    Raises:
        InvalidArgument: python-json-logger is not installed.
    """
    found = require("pythonjsonlogger.json", "python-json-logger")
    formatter: logging.Formatter = found.JsonFormatter(
        " ".join(f"%({name})s" for name in (*_FIELDS, "message")),
        rename_fields=_FIELDS,
        json_ensure_ascii=False,
        timestamp=False,
    )
    formatter.converter = time.gmtime
    formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
    formatter.default_msec_format = "%s.%03dZ"
    return formatter
