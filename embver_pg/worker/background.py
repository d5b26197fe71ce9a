"""Calls in daemon threads, so that a worker can stop waiting for what cannot be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
_LOOK = 0.1  # seconds between looks at the stop event; a result wakes at once


class AbandonedError(Exception):
    """The wait was given up; the call may still be running, and nobody takes its result."""


def start(function: Callable[[], T], name: str) -> Future[T]:
    """Run a call in a thread of its own, which does not keep the process from ending."""
    future: Future[T] = Future()
    threading.Thread(target=_settle, args=(future, function), name=name, daemon=True).start()
    return future


class Background:
    """One daemon thread for calls one after another.

    It is always the same thread: libraries for numbers keep a pool of threads for each thread
    that calls them. An executor of the standard library would make the process wait for a call
    that hangs.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[[], T], stop: threading.Event, patience: float) -> T:
        """The result of a call.

        Args:
            function: What to call.
            stop: Once it is set, the call has ``patience`` left.
            patience: Seconds.

        Raises:
            AbandonedError: The result did not come in time after ``stop``.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        future: Future[T] = Future()
        self._calls.put(lambda: _settle(future, function))
        while not stop.is_set():
            if wait([future], _LOOK).done:
                return future.result()
        if not wait([future], patience).done:
            raise AbandonedError
        return future.result()

    def close(self) -> None:
        """End the thread after the call under way."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread = None

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # it holds the last batch


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
