"""A clean end on SIGTERM and SIGINT."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on the first SIGTERM or SIGINT; a second one acts as it did before.

    Args:
        stop: Such as :meth:`embver_pg.worker.Worker.stop`.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        # The main thread may be inside the lock of the very event that stop sets.
        threading.Thread(target=stop, name="embver-stop", daemon=True).start()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
