"""The reader of a schedule: no search may fail, or find a document deleted before it began."""

from __future__ import annotations

import random
import threading
import time
from functools import cache
from typing import Any

import psycopg

from embver_pg.db import Row, is_lost_connection, open_connection
from embver_pg.encoders import Vectors, load
from embver_pg.errors import InvalidArgument
from tests.chaos.application import Life
from tests.chaos.changes import WORDS
from tests.chaos.record import Record
from tests.waiting import PATIENCE

_encoder = cache(load)


class Reader(threading.Thread):
    """Searches as the client does: asks the route, encodes, searches, and once more on VM012."""

    def __init__(self, url: str, chance: random.Random, record: Record, life: Life) -> None:
        super().__init__(name="reader", daemon=True)
        self._url = url
        self._chance = chance
        self._record = record
        self._life = life
        self._done = threading.Event()

    def stop(self) -> None:
        self._done.set()
        self.join(PATIENCE)
        if self.is_alive():
            self._record.violate("the reader hangs")

    def run(self) -> None:
        while not self._done.is_set():
            began = time.monotonic()
            try:
                with open_connection(self._url) as connection:
                    while not self._done.wait(0.02):
                        began = time.monotonic()
                        self._search(connection)
            except (InvalidArgument, psycopg.Error) as error:
                lost = isinstance(error, InvalidArgument) or is_lost_connection(error)
                if not (lost and self._record.excuses(began)):
                    self._record.violate(f"a search failed: {type(error).__name__}: {error}")
                    return
                self._done.wait(0.02)

    def _search(self, connection: psycopg.Connection[Row]) -> None:
        dead = self._life.look()
        found = self._ask(connection)
        for key in found:
            if key in dead and self._life.still_dead(key, dead[key]):
                self._record.violate(f"a search returned document {key}, deleted before it began")
        self._record.count("searches")

    def _ask(self, connection: psycopg.Connection[Row]) -> list[int]:
        text = " ".join(self._chance.choices(WORDS, k=2))
        for last in (False, True):
            route = connection.execute("SELECT * FROM embver.route('docs')").fetchone()
            assert route is not None
            vector = encode(route["dimensions"], [text])[0]
            values = {"version": route["version"], "vector": str(vector.tolist())}
            try:
                if self._chance.random() < 0.3:
                    return self._through_view(connection, values)
                rows = connection.execute(
                    "SELECT id FROM embver_docs.search("
                    " ARRAY[embver.query('docs', %(version)s, %(vector)s::vector)], 10)",
                    values,
                ).fetchall()
                return [row["id"] for row in rows]
            except psycopg.DatabaseError as error:
                if last or error.sqlstate != "VM012":
                    raise
        raise AssertionError("unreachable")

    def _through_view(
        self, connection: psycopg.Connection[Row], values: dict[str, Any]
    ) -> list[int]:
        """The view of every live version, which keeps answering an old version's own vectors."""
        rows = connection.execute(
            "SELECT id FROM embver_docs.versions WHERE version = %(version)s"
            " ORDER BY embedding <=> %(vector)s::vector LIMIT 10",
            values,
        ).fetchall()
        return [row["id"] for row in rows]


def encode(dimensions: int, texts: list[str]) -> Vectors:
    """What the endpoint returns, ``[n, d] float32``."""
    return _encoder(f"hash:{dimensions}").encode_documents(texts)
