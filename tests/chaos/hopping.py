"""A database of which every statement is run on another connection, as behind a pooler of
transactions at its worst: no session state survives from one statement to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from embver_pg.db import Database, Row, open_connection, translated


class _Hopping:
    """Stands for a connection; each call outside of a transaction goes to a new one."""

    def __init__(self, owner: HoppingDatabase) -> None:
        self._owner = owner
        self._pinned: psycopg.Connection[Row] | None = None
        self._opened: list[psycopg.Connection[Row]] = []

    def execute(self, *query: Any, **options: Any) -> psycopg.Cursor[Row]:
        return self._next().execute(*query, **options)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        return self._next().cursor(*arguments, **options)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._next() as pinned, pinned.transaction():
            self._pinned = pinned
            try:
                yield
            finally:
                self._pinned = None

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

    def _next(self) -> psycopg.Connection[Row]:
        if self._pinned is None:
            self._opened.append(open_connection(self._owner.url))
            self._owner.connections += 1
        return self._pinned or self._opened[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened[-1] if self._opened else self._next(), name)


class HoppingDatabase(Database):
    """Fits a worker and a client.

    Attributes:
        connections: How many were used.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.connections = 0

    @contextmanager
    def connection(self) -> Iterator[Any]:
        hopping = _Hopping(self)
        try:
            with translated():
                yield hopping
        finally:
            hopping.close()
