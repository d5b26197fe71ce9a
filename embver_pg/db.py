"""The door to the database: connections, and the translation of its errors."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row, tuple_row
from psycopg_pool import ConnectionPool

from embver_pg import codec, schema
from embver_pg.errors import EmbverError, InvalidArgument, from_database

Row = dict[str, Any]
DATABASE_URL = "EMBVER_DATABASE_URL"
_CORE_TABLE = re.compile(r"\bembver(_internal)?\.")
# A peer that vanished without a word is noticed after a minute, not after two hours.
_NETWORK = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_WAIT = 10.0  # seconds for a connection of the pool, and between two tries to make one
# Class 08, the server's shutdown and crash, and a server that starts or is full.
_AWAY = re.compile(r"08...|57P0[1-5]|53300")


def resolve_url(url: str | None = None) -> str:
    """The database to use: the one given, else ``EMBVER_DATABASE_URL``, else the embedded server.

    Raises:
        InvalidArgument: The URL is malformed.
        EmbeddedServerError: The embedded server is needed and cannot start.
    """
    found = url or os.environ.get(DATABASE_URL)
    if not found:
        from embver_pg import embedded

        return embedded.start()
    # SQLAlchemy's spelling is what many have at hand.
    found = found.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        conninfo_to_dict(found)
    except psycopg.Error as error:
        raise InvalidArgument(
            f"The database URL is malformed: {str(error).strip()}",
            detail={"reason": str(error).strip()},
            hint="Write postgresql://user:password@host:5432/database",
        ) from error
    return found


@contextmanager
def translated() -> Iterator[None]:
    """Raise our own exceptions for SQLSTATEs of class VM, and for a missing schema."""
    try:
        yield
    except EmbverError:
        raise
    except psycopg.errors.UndefinedTable as error:
        if _CORE_TABLE.search(error.diag.message_primary or ""):
            raise schema.missing() from error
        raise
    except psycopg.Error as error:
        ours = from_database(error)
        if ours is error:
            raise
        raise ours from error


def is_lost_connection(error: BaseException) -> bool:
    """Whether the server is away, rather than refusing what it was asked."""
    if isinstance(error, psycopg.InterfaceError):
        return True
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or bool(_AWAY.fullmatch(error.sqlstate))
    )


def _conninfo(url: str) -> str:
    """The connection string with our network settings where it says nothing of them."""
    return make_conninfo("", **{**_NETWORK, **conninfo_to_dict(url)})


def open_connection(url: str) -> psycopg.Connection[Row]:
    """A connection in autocommit that works behind a transaction-mode pooler."""
    try:
        connection = psycopg.connect(
            _conninfo(url), autocommit=True, prepare_threshold=None, row_factory=dict_row
        )
    except psycopg.OperationalError as error:
        raise InvalidArgument(
            f"The database cannot be reached: {str(error).strip()}",
            detail={"reason": str(error).strip()},
            hint="Check --database-url or EMBVER_DATABASE_URL, and that the server runs.",
        ) from error
    _configure(connection)
    return connection


def _configure(connection: psycopg.Connection[Row]) -> None:
    codec.register(connection)
    connection.add_notice_handler(schema.log_warning)


class Database:
    """A small pool of connections to one database, and calls of its functions by name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool: ConnectionPool[psycopg.Connection[Row]] | None = None
        self._opening = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Row]]:
        """A connection in autocommit; errors come out as ours."""
        with self._opening:
            if self._pool is None:
                self._open()
            pool = self._pool
        assert pool is not None
        with translated(), pool.connection() as connection:
            yield connection

    def rows(self, query: str | sql.Composable, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""
        with self.connection() as connection:
            cursor = connection.execute(_composed(query), parameters)
            return cursor.fetchall() if cursor.description else []

    def tuples(
        self, query: str | sql.Composable, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """All rows of a query as tuples, fetched in binary form: for many or large ones."""
        with (
            self.connection() as connection,
            connection.cursor(binary=True, row_factory=tuple_row) as cursor,
        ):
            return cursor.execute(_composed(query), parameters).fetchall()

    def row(self, query: str | sql.Composable, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, if there is one."""
        found = self.rows(query, parameters)
        return found[0] if found else None

    def value(self, query: str | sql.Composable, parameters: Sequence[Any] = ()) -> Any:
        """The only column of the first row."""
        row = self.row(query, parameters)
        return next(iter(row.values())) if row else None

    def close(self) -> None:
        """Close the pool; a later call opens it again."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _open(self) -> None:
        # The pool retries for long; a wrong URL should say so at once.
        with open_connection(self.url) as connection:
            schema.check(connection)
        self._pool = ConnectionPool(
            _conninfo(self.url),
            connection_class=psycopg.Connection[Row],
            min_size=0,
            max_size=8,
            open=True,
            timeout=_WAIT,
            reconnect_timeout=_WAIT,
            configure=_configure,
            check=self._check,
            kwargs={"autocommit": True, "prepare_threshold": None, "row_factory": dict_row},
        )

    def _check(self, connection: psycopg.Connection[Row]) -> None:
        """Test a connection before its use; where one is broken, its fellows are too."""
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.Error:
            # The pool would find them one by one, with a growing pause after each.
            if self._pool is not None:
                self._pool.check()
            raise


def _composed(query: str | sql.Composable) -> Any:
    return query


def store_function(store: str, name: str) -> sql.Composable:
    """The qualified name of a store's function."""
    return sql.SQL("{}.{}").format(sql.Identifier(store), sql.Identifier(name))
