"""The faults of a schedule. Each begins, lasts for a while, ends, and knows whether it was felt."""

from __future__ import annotations

import random
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from embver_pg.db import open_connection
from tests.chaos.crew import Crew
from tests.chaos.record import Record
from tests.chaos.straggler import Straggler
from tests.chaos.world import World, state_of
from tests.fake_endpoint import FakeEndpoint

POISON = "plum"  # a word of every eighth text or so


@dataclass
class Scene:
    """Where faults are made.

    Attributes:
        world: Server, network, endpoint.
        crew: The workers.
        database: Its name.
        record: Where faults say what they do.
        latency: Seconds of an answer of the endpoint, at least and at most.
    """

    world: World
    crew: Crew
    database: str
    record: Record
    latency: tuple[float, float]

    @property
    def admin_url(self) -> str:
        return self.world.server.url(self.database)

    def heal(self) -> None:
        """The endpoint as it is between faults: slow, and well."""
        self.world.endpoint.heal()
        self.world.endpoint.faults.latency = self.latency

    def ask(self, statement: str, values: dict[str, Any] | None = None) -> int:
        """A figure from the administrator's connection."""
        with open_connection(self.admin_url) as connection:
            row = connection.execute(statement.encode(), values).fetchone()
            return int(next(iter(row.values())) or 0) if row else 0

    def until(self, condition: Callable[[], int], patience: float = 0.5) -> int:
        """Try for a while; the first figure that is not zero, or zero."""
        deadline = time.monotonic() + patience
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return found


class Fault(ABC):
    """One fault; :meth:`end` says how often it was felt."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene = scene
        self.chance = chance

    @abstractmethod
    def begin(self) -> None:
        """Let it happen."""

    @abstractmethod
    def end(self) -> int:
        """Undo it; how often it was felt."""


class Kill(Fault):
    """SIGKILL of a worker."""

    def begin(self) -> None:
        self._felt = self.scene.crew.kill(self.chance.randrange(2))

    def end(self) -> int:
        return self._felt


class Freeze(Fault):
    """SIGSTOP of a worker, often for longer than its lease lasts, and SIGCONT."""

    def begin(self) -> None:
        self._pid = self.scene.crew.freeze(self.chance.randrange(2))

    def end(self) -> int:
        felt = state_of(self._pid) == "T"
        self.scene.crew.thaw(self._pid)
        return felt


class Terminate(Fault):
    """``pg_terminate_backend`` of the workers' connections."""

    def begin(self) -> None:
        self._felt = self.scene.until(
            lambda: self.scene.ask(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'chaos-worker'"
            )
        )

    def end(self) -> int:
        return self._felt


class Expire(Fault):
    """Leases that are under way expire."""

    def begin(self) -> None:
        self._felt = self.scene.until(
            lambda: sum(
                self.scene.ask(
                    f"WITH expired AS (UPDATE embver_docs_v{version}.lease"
                    " SET lease_expires_at = now() - interval '1 s' RETURNING 1)"
                    " SELECT count(*) FROM expired"
                )
                for version in (1, 2, 3)
            )
        )

    def end(self) -> int:
        return self._felt


class Cut(Fault):
    """Connections of the workers are reset, and none comes about."""

    def begin(self) -> None:
        self._felt = self.scene.world.network.cut()

    def end(self) -> int:
        self.scene.world.network.restore()
        return self._felt


class Hold(Fault):
    """Nothing comes through, in silence; then everything, or a reset."""

    def begin(self) -> None:
        self._felt = self.scene.world.network.hold()

    def end(self) -> int:
        if self.chance.random() < 0.5:
            self.scene.world.network.cut()
        self.scene.world.network.restore()
        return self._felt


class Crash(Fault):
    """The server is gone at once, and starts again."""

    def begin(self) -> None:
        self.scene.record.server_goes()
        number = self.chance.choice((signal.SIGQUIT, signal.SIGQUIT, signal.SIGKILL))
        self.scene.world.stop_server(number)

    def end(self) -> int:
        self.scene.world.server.restart()
        self.scene.record.server_is_back()
        return 1


class SlowWrites(Fault):
    """Every vector takes a while to be written."""

    def begin(self) -> None:
        seconds = self.chance.uniform(0.01, 0.06)
        self.scene.ask("UPDATE slow SET seconds = %(s)s RETURNING 1", {"s": seconds})

    def end(self) -> int:
        try:
            return self.scene.ask("UPDATE slow SET seconds = 0 RETURNING 1")
        except psycopg.Error:
            return 0


class Late(Fault):
    """A worker that takes long: its lease may be another's by then, and texts are others."""

    def begin(self) -> None:
        loses = self.chance.random() < 0.5
        url = self.scene.world.server.url(self.scene.database, "embver_w")
        self._straggler = Straggler(url, self.scene.admin_url, self.scene.record, loses=loses)
        self.scene.until(self._straggler.claim)

    def end(self) -> int:
        return self._straggler.complete()


class Provider(Fault):
    """The endpoint fails in one way or another."""

    def begin(self) -> None:
        endpoint: FakeEndpoint = self.scene.world.endpoint
        self._before = endpoint.spoiled
        name, value = self.chance.choice(PROVIDER)
        self.scene.record.say(f"  the endpoint: {name} = {value}")
        for part, setting in {
            name: value,
            **({"retry_after": "0.1"} if value == 429 else {}),
        }.items():
            setattr(endpoint.faults, part, setting)

    def end(self) -> int:
        felt = self.scene.until(lambda: self.scene.world.endpoint.spoiled - self._before, 0.2)
        self.scene.heal()
        return felt


PROVIDER: tuple[tuple[str, Any], ...] = (
    ("status", 429),
    ("status", 500),
    ("status", 503),
    ("status", 401),
    ("hang_up", True),
    ("cut_answer", True),
    ("not_json", True),
    ("missing_vectors", 1),
    ("missing_vectors", -1),
    ("dimensions", 8),
    ("reject_containing", POISON),
    ("reject_containing", POISON),
    ("nan_containing", POISON),
    ("nan_containing", POISON),
)
# How long each lasts, in seconds, and how often it is chosen.
FAULTS: dict[type[Fault], tuple[float, float, float]] = {
    Kill: (0.0, 0.05, 3.0),
    Freeze: (0.1, 1.5, 2.0),
    Terminate: (0.0, 0.05, 2.0),
    Expire: (0.0, 0.05, 2.0),
    Cut: (0.05, 0.4, 1.5),
    Hold: (0.1, 0.6, 1.0),
    Crash: (0.0, 0.2, 0.6),
    SlowWrites: (0.2, 0.6, 1.0),
    Late: (0.2, 0.6, 2.0),
    Provider: (0.2, 0.5, 4.0),
}
