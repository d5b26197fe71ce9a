"""The operator of a schedule: verbs of the lifecycle in plausible orders, some of them refused."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

import psycopg
from psycopg import errors

from embver_pg.db import Row, is_lost_connection, open_connection
from embver_pg.errors import InvalidArgument
from tests.chaos.record import Record
from tests.waiting import PATIENCE

VERBS = {
    "start": "SELECT embver.start_rollout('docs', %(version)s)",
    "pause": "SELECT embver.pause_rollout('docs', 'chaos')",
    "resume": "SELECT embver.resume_rollout('docs')",
    "abort": "SELECT embver.abort_rollout('docs', 'chaos')",
    "promote": "SELECT embver.promote('docs', true, 'chaos')",
    "rollback": "SELECT embver.rollback('docs', 'chaos')",
    "requeue missing": "SELECT embver.requeue('docs', %(version)s, 'missing')",
    "requeue all": "SELECT embver.requeue('docs', %(version)s, 'all')",
    "requeue failed": "SELECT embver.requeue('docs', %(version)s, 'failed')",
    "refresh": "SELECT embver.refresh_collection('docs')",
}
# What is done in one go. A version becomes ready through the workers meanwhile.
PLANS: Sequence[tuple[str, ...]] = (
    ("abort", "start"),
    ("start", "pause", "resume"),
    ("abort", "start", "promote"),
    ("promote", "rollback", "promote"),
    ("rollback", "promote"),
    ("pause", "resume"),
    ("promote",),
    ("requeue missing", "requeue failed"),
    ("requeue all",),
    ("refresh",),
)


class Operator(threading.Thread):
    """Uses verbs until it is stopped."""

    def __init__(self, url: str, chance: random.Random, record: Record) -> None:
        super().__init__(name="operator", daemon=True)
        self._url = url
        self._chance = chance
        self._record = record
        self._done = threading.Event()

    def stop(self) -> None:
        self._done.set()
        self.join(PATIENCE)
        if self.is_alive():
            self._record.violate("the operator hangs")

    def run(self) -> None:
        while not self._done.wait(self._chance.uniform(0.0, 0.1)):
            version = self._chance.choice((1, 2, 2, 3, 3))
            for verb in self._chance.choice(PLANS):
                self._use(verb, version)
                if self._done.wait(self._chance.uniform(0.0, 0.25)):
                    return

    def _use(self, verb: str, version: int) -> None:
        began = time.monotonic()
        try:
            with open_connection(self._url) as connection:
                connection.execute("SET lock_timeout = '2s'")
                self._execute(connection, verb, version)
        except errors.LockNotAvailable:
            self._record.say(f"operator: {verb} {version}: lock timeout")
            self._record.count("operator lock timeouts")
        except (InvalidArgument, psycopg.Error) as error:
            lost = isinstance(error, InvalidArgument) or is_lost_connection(error)
            if lost and self._record.excuses(began):
                return
            self._record.violate(f"operator: {verb} {version}: {type(error).__name__}: {error}")

    def _execute(self, connection: psycopg.Connection[Row], verb: str, version: int) -> None:
        try:
            connection.execute(VERBS[verb].encode(), {"version": version})
        except psycopg.DatabaseError as error:
            if not (error.sqlstate or "").startswith("VM"):
                raise  # a verb that is refused is refused for a reason
            return
        self._record.say(f"operator: {verb} {version}")
        self._record.count("verbs")
