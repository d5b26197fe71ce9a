"""Calls in daemon threads, so that a worker can stop waiting for what cannot be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class AbandonedError(Exception):
    """The wait was given up; the call may still be running, and nobody takes its result."""


def start(function: Callable[[], T], name: str) -> Future[T]:
    """Run a call in a thread of its own, which does not keep the process from ending."""
    future: Future[T] = Future()
    threading.Thread(target=_settle, args=(future, function), name=name, daemon=True).start()
    return future


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
