"""How tests wait: for a condition, and longer than the slowest machine needs.

No test sleeps and then looks, or says that something took no longer than so many seconds: what
passes on an idle machine and not on a busy one tests the machine. A limit that is long costs
nothing where the condition comes true.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 120.0  # seconds for anything that ought to happen
NEVER = 3600.0  # seconds that no test lives to see: of leases, pauses and polls to be cut short
_LONGEST = 0.05  # seconds between two looks

Found = TypeVar("Found")


def until(condition: Callable[[], Found], what: str, patience: float = PATIENCE) -> Found:
    """Wait until something is so.

    Returns:
        What the condition found: the first value that is true.

    Raises:
        AssertionError: It does not come about.
    """
    deadline = time.monotonic() + patience
    pause = 0.001
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {patience:.0f} s: {what}"
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
    return found


def join(thread: threading.Thread, what: str | None = None) -> None:
    """Wait for the end of a thread.

    Raises:
        AssertionError: It does not end.
    """
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"not within {PATIENCE:.0f} s: {what or thread.name} ends"
