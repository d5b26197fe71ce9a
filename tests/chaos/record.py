"""What happened in a schedule: its timeline, the server's outages, and what must not have been."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Record:
    """Shared by everybody in a schedule; safe between threads.

    Attributes:
        lines: The timeline.
        violations: What breaks a promise of the design.
        counts: What else is worth a figure.
    """

    lines: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _outages: list[list[float]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, line: str) -> None:
        """Add to the timeline."""
        with self._lock:
            self.lines.append(f"{time.monotonic() - self._began:6.3f} {line}")

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + number

    def violate(self, what: str) -> None:
        """Something that must never be."""
        self.say(f"VIOLATION {what}")
        self.violations.append(what)

    def server_goes(self) -> None:
        """Until :meth:`server_is_back` every lost connection is the schedule's own doing."""
        self._outages.append([time.monotonic(), float("inf")])

    def server_is_back(self) -> None:
        self._outages[-1][1] = time.monotonic()

    def excuses(self, since: float) -> bool:
        """Whether the server was away at some time since then."""
        return any(ended >= since for _, ended in self._outages)
