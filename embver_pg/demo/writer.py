"""The client that writes: it inserts, edits and deletes documents and remembers every one."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from embver_pg.db import Row, open_connection
from embver_pg.demo.material import TABLE, Material
from embver_pg.errors import EmbverError

_VERBS = """
    archive import approve compress translate measure refund schedule publish encrypt label
    forecast merge sample audit calibrate deliver inspect
"""
_THINGS = """
    invoices telescopes recipes contracts weather maps violins passports orchards podcasts
    bicycles lighthouses vaccines glaciers crosswords ferries sonnets batteries turbines
"""
_PLACES = ("in Lisbon", "for students", "at night", "by hand", "on Mars", "under water")
_CYCLE = ("insert", "edit", "insert", "edit", "delete")


@dataclass
class Written:
    """What was written so far.

    Attributes:
        counts: Statements by kind: ``insert``, ``edit``, ``delete``.
        bodies: The last body by key; None where the document was deleted.
        times: When it was committed, on the monotonic clock, by key.
        slowest: The longest a statement took, in seconds.
        failures: Messages of the statements that failed.
        ended: It stopped because it was told to.
    """

    counts: Counter[str] = field(default_factory=Counter)
    bodies: dict[str, str | None] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)
    ended: bool = False


class Writer:
    """Writes at a steady pace, in a thread, until stopped.

    Documents that a question needs are edited, but not deleted: the questions stay answerable.
    """

    def __init__(self, url: str, material: Material) -> None:
        self.written = Written()
        self._url = url
        self._material = material
        # So few that a gate, which holds until 5 % have changed, does not expire meanwhile.
        self._interval = min(max(1200.0 / len(material.rows), 0.4), 2.0)
        self._random = random.Random(7)
        self._editable = [row[0] for row in material.rows]
        self._deletable = sorted({*self._editable} - material.judged)
        self._stop = threading.Event()
        self._busy = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Write nothing in the ``with`` block; what was begun before is committed."""
        with self._busy:
            yield

    def stop(self) -> None:
        """End, after the statement under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        elif not self.written.ended:
            self.written.failures.append("the writing client died")

    def _run(self) -> None:
        kinds, names = itertools.cycle(_CYCLE), self._names()
        with open_connection(self._url) as connection:
            while not self._stop.wait(self._interval):
                with self._busy:
                    if self._stop.is_set():
                        break
                    began = time.perf_counter()
                    try:
                        self._write(connection, next(kinds), names)
                    except (psycopg.Error, EmbverError) as error:
                        self.written.failures.append(str(error).strip())
                    took = time.perf_counter() - began
                    self.written.slowest = max(self.written.slowest, took)
        self.written.ended = True

    def _names(self) -> Iterator[tuple[str, str]]:
        """Keys and titles of new documents; every title says something of its own."""
        titles = [
            " ".join(words) for words in itertools.product(_VERBS.split(), _THINGS.split(), _PLACES)
        ]
        self._random.shuffle(titles)
        for number in itertools.count():
            yield f"note-{number + 1:05}", titles[number % len(titles)]

    def _write(
        self,
        connection: psycopg.Connection[Row],
        kind: str,
        names: Iterator[tuple[str, str]],
    ) -> None:
        table, key = sql.Identifier(TABLE), sql.Identifier(self._material.key)
        if kind == "insert":
            name, title = next(names)
            body: str | None = f"How to {title}: what we agreed on in meeting {name}."
            connection.execute(
                sql.SQL("INSERT INTO {} ({}, title, body) VALUES (%s, %s, %s)").format(table, key),
                (name, title, body),
            )
        elif kind == "edit":
            name = self._random.choice(self._editable)
            remark = f"{len(self.written.bodies)} of {self._random.choice(_THINGS.split())}"
            found = connection.execute(
                sql.SQL(
                    "UPDATE {} SET body = body || %s, edited_at = now() WHERE {} = %s"
                    " RETURNING body"
                ).format(table, key),
                (f" Remark {remark}.", name),
            ).fetchone()
            assert found is not None
            body = found["body"]
        else:
            name, body = self._deletable.pop(self._random.randrange(len(self._deletable))), None
            self._editable.remove(name)
            connection.execute(sql.SQL("DELETE FROM {} WHERE {} = %s").format(table, key), (name,))
        self.written.counts[kind] += 1
        self.written.bodies[name] = body
        self.written.times[name] = time.monotonic()
