"""A stage of the worker: one thread that takes up what is handed to it, while a little waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Hands(Generic[T]):
    """One daemon thread for calls one after another, behind a short queue.

    It is always the same thread: libraries for numbers keep a pool of threads for each thread
    that calls them. It keeps no process from ending: a call that hangs cannot be interrupted.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        room: int,
        changed: threading.Condition,
        failed: Callable[[BaseException], None],
    ) -> None:
        """Prepare; the thread begins with the first task.

        Args:
            name: Of the thread.
            work: Takes a task.
            room: How many tasks wait, at most.
            changed: Notified whenever a task comes or goes; stages share one.
            failed: Told what ``work`` raised, which has answers of its own to what may go wrong;
                without it everybody would wait for a thread that is gone.
        """
        self._name = name
        self._work = work
        self._room = room
        self._changed = changed
        self._failed = failed
        self._waiting: list[tuple[int, int, T]] = []
        self._count = 0
        self._current: T | None = None
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> T | None:
        """What it works on now."""
        return self._current

    @property
    def has_room(self) -> bool:
        """Whether another task may wait."""
        return len(self._waiting) < self._room

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return self._current is None and not self._waiting

    def hand(self, task: T, rank: int = 0) -> None:
        """Wait for room, and leave a task; a lower rank is taken up first."""
        with self._changed:
            self._changed.wait_for(lambda: self.has_room)
            self._count += 1
            self._waiting.append((rank, self._count, task))
            self._waiting.sort(key=lambda entry: entry[:2])
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take_back(self) -> list[T]:
        """The tasks that wait; they are not taken up any more."""
        with self._changed:
            found = [task for _, _, task in self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        return found

    def wait_idle(self, seconds: float | None = None) -> bool:
        """Wait until there is nothing to do; False where it took longer than so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_idle, seconds)

    def close(self) -> None:
        """End the thread after what it does now."""
        with self._changed:
            self._thread = None
            self._current = None
            self._changed.notify_all()

    def _serve(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._thread is not me)
                if self._thread is not me:
                    return
                task = self._waiting.pop(0)[2]
                self._current = task
                self._changed.notify_all()
            try:
                self._work(task)
            except BaseException as error:
                self._failed(error)
            del task  # it holds a batch
            with self._changed:
                if self._thread is me:
                    self._current = None
                self._changed.notify_all()
