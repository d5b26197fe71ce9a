"""A worker whose steps are taken by hand, through SQL: it claims, and completes too late."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from embver_pg import codec
from embver_pg.db import Row, is_lost_connection, open_connection
from embver_pg.errors import InvalidArgument
from tests.chaos.reader import encode
from tests.chaos.record import Record
from tests.chaos.world import DIMENSIONS


class Straggler:
    """Holds one lease.

    Attributes:
        lease: Its number, once it has one.
    """

    def __init__(self, url: str, admin_url: str, record: Record, *, loses: bool) -> None:
        """Prepare.

        Args:
            url: The database, for a worker.
            admin_url: The database, for who can take a lease away.
            record: Where a broken promise goes.
            loses: Whether its lease expires, and another takes over, before it completes.
        """
        self._url, self._admin_url = f"{url}&application_name=straggler", admin_url
        self._record = record
        self._loses = loses
        self.lease: int | None = None
        self._version = 0
        self._items: list[Row] = []

    def claim(self) -> int:
        """Claim a few documents; how many."""
        try:
            with open_connection(self._url) as connection:
                for version in DIMENSIONS:
                    rows = connection.execute(
                        sql.SQL("SELECT * FROM {}(%s, 8, '5 min')").format(_of(version, "claim")),
                        (uuid4(),),
                    ).fetchall()
                    if rows:
                        self._version, self._items = version, rows
                        self.lease = rows[0]["lease"]
                        return len(rows)
        except (InvalidArgument, psycopg.Error):
            return 0
        return 0

    def complete(self) -> int:
        """Write what it encoded when it claimed; whether that was late indeed."""
        if self.lease is None:
            return 0
        began = time.monotonic()
        try:
            with (
                open_connection(self._url) as connection,
                open_connection(self._admin_url) as admin,
            ):
                is_lost = self._lose(admin) if self._loses else self._is_lost(admin)
                return self._complete(connection, is_lost)
        except psycopg.errors.LockNotAvailable:
            return 0
        except (InvalidArgument, psycopg.Error) as error:
            lost = isinstance(error, InvalidArgument) or is_lost_connection(error)
            if not (lost and self._record.excuses(began)):
                self._record.violate(f"a late completion: {type(error).__name__}: {error}")
            return 0

    def _complete(self, connection: psycopg.Connection[Row], is_lost: bool) -> int:
        encoded = [item for item in self._items if item["content"] is not None]
        vectors = encode(DIMENSIONS[self._version], [item["content"] for item in encoded])
        values: tuple[Any, ...] = (
            self.lease,
            [item["item"] for item in encoded],
            [item["content_hash"] for item in encoded],
            codec.vector_array(vectors),
        )
        statement = sql.SQL("SELECT * FROM {}(%s, %s::int[], %s::bytea[], %s)").format(
            _of(self._version, "complete")
        )
        try:
            connection.execute(statement, values)
        except psycopg.DatabaseError as error:
            if error.sqlstate != "VM020":
                raise
            self._record.count("late completions refused")
            return 1
        if is_lost:
            self._record.violate(f"lease {self.lease} was lost, and its completion accepted")
        return 1

    def _lose(self, admin: psycopg.Connection[Row]) -> bool:
        """Let the lease expire, and wait until somebody takes over; whether somebody did."""
        admin.execute(
            sql.SQL(
                "UPDATE {} SET lease_expires_at = now() - interval '1 s' WHERE lease_seq = %s"
            ).format(_of(self._version, "lease")),
            (self.lease,),
        )
        deadline = time.monotonic() + 1.0
        while not self._is_lost(admin) and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._is_lost(admin)

    def _is_lost(self, admin: psycopg.Connection[Row]) -> bool:
        row = admin.execute(
            sql.SQL("SELECT FROM {} WHERE lease_seq = %s").format(_of(self._version, "lease")),
            (self.lease,),
        ).fetchone()
        return row is None


def _of(version: int, name: str) -> sql.Composable:
    return sql.Identifier(f"embver_docs_v{version}", name)
