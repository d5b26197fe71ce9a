"""The application of a schedule: one writer, who knows exactly what is committed."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors

from embver_pg.db import Row, is_lost_connection, open_connection
from embver_pg.errors import InvalidArgument
from tests.chaos.changes import KEYS, Model, a_key, change
from tests.chaos.record import Record
from tests.waiting import PATIENCE

ISOLATIONS = ("read committed", "read committed", "repeatable read", "serializable")
ENOUGH = 50  # documents, below which it fills the table up
# How often each kind of transaction is made.
WEIGHTS = {
    "upsert": 6.0,
    "update": 6.0,
    "empty": 2.0,
    "touch": 1.0,
    "append": 1.0,
    "delete": 3.0,
    "delete range": 0.5,
    "move": 1.5,
    "truncate": 0.15,
    "snapshot": 1.5,
    "long": 0.5,
}


@dataclass
class Life:
    """Which documents are deleted for certain, for readers to compare with.

    Attributes:
        births: How often each key may have come into being.
        dead: Deleted keys with their births at the time.
    """

    births: dict[int, int] = field(default_factory=dict)
    dead: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def may_be_born(self, key: int) -> None:
        with self._lock:
            self.births[key] = self.births.get(key, 0) + 1
            self.dead.pop(key, None)

    def died(self, keys: set[int]) -> None:
        with self._lock:
            self.dead.update({key: self.births.get(key, 0) for key in keys})

    def look(self) -> dict[int, int]:
        with self._lock:
            return dict(self.dead)

    def still_dead(self, key: int, births: int) -> bool:
        with self._lock:
            return self.births.get(key, 0) == births


class Application(threading.Thread):
    """Inserts, edits, deletes, truncates and changes keys until it is stopped.

    Attributes:
        model: What is committed.
        life: What readers must not find.
    """

    def __init__(self, url: str, admin_url: str, chance: random.Random, record: Record) -> None:
        super().__init__(name="application", daemon=True)
        self._url, self._admin_url = url, admin_url
        self._chance = chance
        self._record = record
        self._done = threading.Event()
        self._serial = 0
        self.model: Model = {}
        self.life = Life()
        with open_connection(url) as connection:
            for row in connection.execute("SELECT id, body FROM docs"):
                self.model[row["id"]] = row["body"]

    def stop(self) -> None:
        """Let it finish what it is at."""
        self._done.set()
        self.join(PATIENCE)
        if self.is_alive():
            self._record.violate("the application hangs")

    def run(self) -> None:
        while not self._done.is_set():
            began = time.monotonic()
            try:
                with open_connection(self._url) as connection:
                    connection.execute("SET lock_timeout = '3s'")
                    while not self._done.is_set():
                        began = time.monotonic()
                        self._transact(connection)
                        self._done.wait(self._chance.choice((0.0, 0.01, 0.02)))
            except (InvalidArgument, psycopg.Error) as error:
                if not self._is_excused(error, began):
                    self._record.violate(f"the application: {type(error).__name__}: {error}")
                    return
                self._done.wait(0.02)

    def _is_excused(self, error: Exception, began: float) -> bool:
        """Only the server's absence, and (see :meth:`_transact`) its own lock timeout."""
        lost = isinstance(error, InvalidArgument) or is_lost_connection(error)
        return lost and self._record.excuses(began)

    # -- transactions

    def _transact(self, connection: psycopg.Connection[Row]) -> None:
        kind = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if kind == "snapshot":
            self._under_snapshot(connection)
            return
        if len(self.model) < ENOUGH:
            kind = "refill"
        statements = [kind]
        pause = 0.0
        if kind == "long":  # open while rollouts start and others complete
            statements = self._chance.choices(("upsert", "update", "empty", "insert"), k=3)
            pause = self._chance.uniform(0.1, 0.35)
        elif self._chance.random() < 0.3:
            statements.append(self._chance.choice(("upsert", "update", "delete", "move")))
            pause = self._chance.uniform(0.0, 0.03)
        self._run(connection, self._chance.choice(ISOLATIONS), statements, pause)

    def _under_snapshot(self, connection: psycopg.Connection[Row]) -> None:
        """A document is inserted, and deleted under a snapshot that may not see its vector."""
        key = self._chance.choice(KEYS)
        self._run(connection, "read committed", [("upsert", key)], 0.0)
        end = self._chance.choice(("delete", "delete", "move"))
        isolation = self._chance.choice(ISOLATIONS[2:])
        self._run(connection, isolation, [(end, key)], 0.0, self._chance.uniform(0.03, 0.15))

    def _run(
        self,
        connection: psycopg.Connection[Row],
        isolation: str,
        statements: list[Any],
        pause: float,
        before: float = 0.0,
    ) -> None:
        """One transaction; the model follows if, and only if, it is committed."""
        changed = dict(self.model)
        is_committing = False
        xid: str | None = None
        try:
            connection.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
            connection.execute("SELECT count(*) FROM docs")  # the snapshot is taken here
            time.sleep(before)
            for chosen in statements:
                kind, key = chosen if isinstance(chosen, tuple) else (chosen, a_key(self._chance))
                self._change(connection, changed, kind, key)
            time.sleep(pause)
            assigned = "SELECT pg_current_xact_id_if_assigned()::text AS xid"
            row = connection.execute(assigned).fetchone()
            xid = row["xid"] if row else None
            is_committing = True
            connection.execute("COMMIT")
        except errors.LockNotAvailable:
            self._record.count("application lock timeouts")
            connection.execute("ROLLBACK")
            return
        except psycopg.Error as error:
            if is_committing and is_lost_connection(error) and self._committed(xid):
                self._follow(changed)
            raise
        self._follow(changed)
        self._record.count("transactions")

    def _follow(self, changed: Model) -> None:
        self.life.died(self.model.keys() - changed.keys())
        self.model = changed

    def _committed(self, xid: str | None) -> bool:
        """Whether a transaction whose COMMIT was not answered took place."""
        if xid is None:
            return False
        while True:
            try:
                with open_connection(self._admin_url) as connection:
                    row = connection.execute(
                        "SELECT pg_xact_status(%s::xid8) AS status", (xid,)
                    ).fetchone()
                    assert row is not None
                    self._record.count("commits in doubt")
                    return bool(row["status"] == "committed")
            except errors.InvalidParameterValue:  # "in the future": it left no trace
                return False
            except (InvalidArgument, psycopg.OperationalError):
                time.sleep(0.02)

    def _change(
        self, connection: psycopg.Connection[Row], model: Model, kind: str, key: int
    ) -> None:
        before = set(model)
        self._serial += 1
        statement, values = change(model, kind, key, self._serial, self._chance)
        for born in model.keys() - before:
            self.life.may_be_born(born)
        connection.execute(statement.encode(), values)
