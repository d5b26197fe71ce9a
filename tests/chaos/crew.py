"""Two workers in processes of their own, and whoever starts them again when they are gone."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.record import Record
from tests.chaos.world import World, state_of

ROLES = ("embver_owner", "embver_w")
OPTIONS: dict[str, Any] = {"batch": 8, "lease": 1.2, "poll": 0.05, "grace": 0.5}
# What workers may report: that the server, the network or the provider was away, or a lock held.
_EXPECTED = re.compile(
    r"endpoint|encoder returned|vectors of|connect|terminat|starting up|shutting down"
    r"|recovery mode|cannot be reached|lock timeout|deadlock"
)


@dataclass
class Crew:
    """The workers of one schedule.

    Attributes:
        world: Where they run.
        database: What they work on.
        log: Where they write what worries them.
        pids: The process in each place.
    """

    world: World
    database: str
    record: Record
    log: Path
    options: dict[str, Any] = field(default_factory=lambda: dict(OPTIONS))
    pids: list[int] = field(default_factory=list)

    def start(self) -> None:
        """Two of them."""
        self.pids = [self._new(role) for role in ROLES]

    def tend(self) -> None:
        """Start again who has ended, as any supervisor of processes does."""
        for place, pid in enumerate(self.pids):
            if self.world.nursery.status(pid) is not None:
                self.pids[place] = self._new(ROLES[place])
                self.record.count("restarts")

    def kill(self, place: int) -> bool:
        """SIGKILL; whether there was somebody to kill."""
        pid = self.pids[place]
        alive = state_of(pid) not in ("", "Z")
        self._signal(pid, signal.SIGKILL)
        return alive

    def freeze(self, place: int) -> int:
        """SIGSTOP; the process."""
        self._signal(self.pids[place], signal.SIGSTOP)
        return self.pids[place]

    def thaw(self, pid: int) -> None:
        """SIGCONT."""
        self._signal(pid, signal.SIGCONT)

    def dismiss(self) -> None:
        """Kill them all; nobody is started again."""
        for pid in self.pids:
            self._signal(pid, signal.SIGKILL)

    def judge(self) -> None:
        """Report what workers complained of that the schedule does not explain."""
        if not self.log.exists():
            return
        for text in self.log.read_text().splitlines():
            with suppress(ValueError):  # cut off by a kill
                line = json.loads(text)
                self.record.count(f"worker {line['level'].lower()}s")
                is_bad = line["level"] in ("ERROR", "CRITICAL")
                if is_bad and not _EXPECTED.search(line["message"]):
                    self.record.violate(f"a worker: {line['message']} {line['trace'] or ''}")

    def story(self) -> str:
        """The last that workers wrote."""
        return self.log.read_text()[-4000:] if self.log.exists() else "(the workers say nothing)"

    def _new(self, role: str) -> int:
        url = self.world.through_network(self.database, role)
        return self.world.nursery.start(url, self.log, **self.options)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        if self.world.nursery.status(pid) is None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
