"""What goes on and what rests: hears from every stage, and decides what an error means."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from embver_pg.db import Row, is_lost_connection
from embver_pg.encoders import TransientEncoderError
from embver_pg.errors import BudgetExceeded, EmbverError, SpaceChanged
from embver_pg.worker.breaker import Breaker, encoder_of
from embver_pg.worker.lease import OnStep

log = logging.getLogger("embver_pg.worker")
_FAILURES = 8  # in a row, after which a drain gives up


class Judge:
    """Decides for one run of a worker; safe to use from several threads."""

    def __init__(
        self, targets: Callable[[], list[Row]], stop: threading.Event, drain: bool, tell: OnStep
    ) -> None:
        """Begin; nothing rests.

        Args:
            targets: Asks for the versions that the worker writes.
            stop: Set where the worker has to end.
            drain: Whether what no retry helps ends the worker, rather than resting.
            tell: Called with ``resting`` and its figures.
        """
        self.fatal: BaseException | None = None
        self.is_held_back = False  # whether fillings are, by the throttle
        self._breaker = Breaker()
        self._targets = targets
        self._stop = stop
        self._drain = drain
        self._tell = tell
        self._ending = threading.Lock()

    def admits(self, target: Row) -> bool:
        """Whether to serve a store now.

        If so, :meth:`passed`, :meth:`failed` or :meth:`left` must follow.
        """
        return self._breaker.admits(target)

    def wants(self, target: Row) -> bool:
        """Whether what was begun for a store should go on to its encoder."""
        if self._stop.is_set() or (self.is_held_back and target["state"] == "filling"):
            return False
        return not self._breaker.rests(target)

    def left(self, target: Row) -> None:
        """Note that what was begun for a store did not go on."""
        self._breaker.left(target)

    def answered(self, target: Row) -> None:
        """Note that the store's encoder has answered."""
        if self._breaker.answered(target):
            log.info("%s answers again", encoder_of(target))

    def passed(self, target: Row) -> None:
        """Note that a store was served."""
        self._breaker.passed(target)

    def failed(self, target: Row, error: BaseException) -> None:
        """Let a store or its encoder rest; or end the worker, where that is what an error means."""
        try:
            self._judge(target, error)
        except BaseException as own:
            self.end(own)

    def end(self, error: BaseException) -> None:
        """End the worker with an error; the first one counts."""
        with self._ending:
            self.fatal = self.fatal or error
        self._stop.set()

    def _judge(self, target: Row, error: BaseException) -> None:
        if isinstance(error, SpaceChanged) or not isinstance(error, Exception):
            self.passed(target)
            raise error  # whoever started this worker gave it another model
        if isinstance(error, BudgetExceeded):
            self.passed(target)  # its rollout is paused, with the reason; all else goes on
        elif is_lost_connection(error):
            self.passed(target)
            log.warning("connection lost, trying again: %s", _line(error))
        elif self._is_gone(target):
            self.passed(target)  # retired or dropped meanwhile
        else:
            self._rest(target, error)

    def _is_gone(self, target: Row) -> bool:
        try:
            return all(row["store"] != target["store"] for row in self._targets())
        except (EmbverError, psycopg.Error):
            return False

    def _rest(self, target: Row, error: Exception) -> None:
        """Leave a store or its encoder alone for a while; a drain gives up after some."""
        passing = isinstance(error, TransientEncoderError | psycopg.OperationalError)
        rest = self._breaker.failed(target, error)
        is_waiting = isinstance(error, psycopg.errors.LockNotAvailable)
        if self._drain and not is_waiting and (not passing or rest.failures > _FAILURES):
            raise error
        level = logging.WARNING if passing else logging.ERROR
        log.log(
            level if passing or rest.is_news else logging.DEBUG,
            "%s rests for %.1f s: %s",
            rest.what,
            rest.seconds,
            _line(error),
            exc_info=not isinstance(error, EmbverError | psycopg.Error),
        )
        figures: dict[str, Any] = {"what": rest.what, "seconds": rest.seconds}
        self._tell("resting", figures)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
