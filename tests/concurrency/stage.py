"""A database on which transactions are interleaved by hand, statement by statement.

Nothing here sleeps for a fixed time: a test goes on as soon as the server shows that a statement
is through or waits for a lock.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from embver_pg import codec
from embver_pg.client import Embver
from embver_pg.db import Database, Row, open_connection
from embver_pg.encoders import load
from tests import servers
from tests.conftest import Installed, install
from tests.waiting import PATIENCE, until

TEMPLATE = "embver_concurrency"
ENCODERS = {1: "hash:32", 2: "hash:48"}
FILLED = 3  # the version that a test adopts or derives, with the encoder of version 1
NO_INDEX = {"type": "none"}
_ADVISORY = 2_020_000  # class of the advisory locks that hold a completion

# A statement is through its locking part and about to write: here it can be made to wait.
_HOLD = f"""
CREATE FUNCTION hold_write() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
BEGIN
    IF current_setting('application_name') LIKE 'held %' THEN
        PERFORM pg_advisory_xact_lock(
            {_ADVISORY}, substr(current_setting('application_name'), 6)::int);
    END IF;
    RETURN NEW;
END $$
"""


class Session:
    """A connection with a thread of its own, so that a statement may wait while the test goes on.

    Attributes:
        pid: The backend's process.
        pending: The statement under way, if there is one.
    """

    def __init__(self, url: str, name: str) -> None:
        self.connection = open_connection(url)
        self.connection.execute("SELECT set_config('application_name', %s, false)", (name,))
        self.name = name
        self.pid = self.connection.info.backend_pid
        self.pending: Future[list[Row]] | None = None
        self._begun: Future[list[Row]] | None = None
        self._thread = ThreadPoolExecutor(1)

    def run(
        self, statement: str | sql.Composable, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[Row]:
        """Run a statement to its end."""
        cursor = self.connection.execute(_query(statement), parameters)
        return cursor.fetchall() if cursor.description else []

    def start(self, statement: str | sql.Composable, parameters: Sequence[Any] = ()) -> None:
        """Begin a statement and do not wait for it."""
        assert self.pending is None
        self.pending = self._begun = self._thread.submit(self.run, statement, parameters)

    def result(self) -> list[Row]:
        """The rows of the statement that :meth:`start` began, when it ends."""
        assert self.pending is not None
        try:
            return self.pending.result(PATIENCE)
        finally:
            self.pending = None

    def begin(self, isolation: str = "read committed") -> None:
        self.run(f"BEGIN ISOLATION LEVEL {isolation}")

    def commit(self) -> None:
        self.run("COMMIT")

    def rollback(self) -> None:
        self.run("ROLLBACK")

    @property
    def is_busy(self) -> bool:
        """Whether its thread is in a statement, also one that nobody waits for any more."""
        return self._begun is not None and not self._begun.done()

    def close(self) -> None:
        """End; a connection that is closed under its thread takes the whole process along."""
        self._thread.shutdown(cancel_futures=True)
        self.connection.close()


@dataclass(frozen=True)
class Lease:
    """What a claim handed out.

    Attributes:
        version: Of which model version.
        number: The lease's number.
        items: Number, content and hash of each document; no content where none is to be encoded.
    """

    version: int
    number: int
    items: tuple[tuple[int, str | None, bytes | None], ...]


@dataclass
class Stage:
    """``public.docs (id, body, seen)`` as collection ``docs`` with two versions, none live yet.

    Attributes:
        urls: The database, by role.
        owner: Owns the source and administers embver.
        worker: May only work.
        watch: A superuser, who sees what others wait for.
        element_types: Of the versions that do not hold ``vector``.
    """

    urls: Installed
    owner: Session = field(init=False)
    worker: Session = field(init=False)
    watch: psycopg.Connection[Row] = field(init=False)
    element_types: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._sessions: list[Session] = []
        self._holds = itertools.count(1)
        self._worker_id = uuid4()
        self.owner = self.session("owner")
        self.worker = self.session("worker", role="worker")
        self.watch = open_connection(self.urls.admin)

    def session(self, name: str = "application", role: str = "owner") -> Session:
        """One more connection."""
        session = Session(getattr(self.urls, role), name)
        self._sessions.append(session)
        return session

    def close(self) -> None:
        """End every session, also those that wait; the server may be gone."""
        for session in self._sessions:
            if session.is_busy:
                self.watch.execute("SELECT pg_terminate_backend(%s)", (session.pid,))
            session.close()
        with suppress(psycopg.OperationalError):
            for row in self.watch.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            ):
                self.watch.execute(sql.SQL("ROLLBACK PREPARED {}").format(row["gid"]))
        self.watch.close()

    # -- waiting -----------------------------------------------------------------------------

    def settled(self, session: Session) -> bool:
        """Wait until a session's statement is through (True) or waits for a lock (False)."""
        assert session.pending is not None
        pending = session.pending

        def waits() -> bool:
            row = self.watch.execute(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted) AS waits",
                (session.pid,),
            ).fetchone()
            return bool(row and row["waits"])

        until(lambda: pending.done() or waits(), f"{session.name} ends, or waits")
        return pending.done()

    def blocked(self, session: Session) -> bool:
        """Whether a session's statement waits for a lock, once that is known."""
        return not self.settled(session)

    def hold(self) -> Hold:
        """A worker's session whose completions stop between their locks and their first write."""
        number = next(self._holds)
        session = self.session(f"held {number}", role="worker")
        self.watch.execute("SELECT pg_advisory_lock(%s, %s)", (_ADVISORY, number))
        return Hold(self, session, number)

    # -- the worker's protocol ---------------------------------------------------------------

    def call(self, version: int, function: str, *arguments: Any) -> Row | None:
        """Call a function of a store, as the worker."""
        return call(self.worker, version, function, *arguments)

    def claim(
        self, version: int = 1, limit: int = 100, session: Session | None = None
    ) -> Lease | None:
        """Claim documents; None where nothing is due."""
        rows = (session or self.worker).run(
            sql.SQL("SELECT * FROM {}(%s, %s, '5 min')").format(in_store(version, "claim")),
            (self._worker_id, limit),
        )
        if not rows:
            return None
        return Lease(
            version,
            rows[0]["lease"],
            tuple((row["item"], row["content"], row["content_hash"]) for row in rows),
        )

    def must_claim(self, version: int = 1) -> Lease:
        """Claim what is there to be claimed."""
        lease = self.claim(version)
        assert lease is not None, "there is a job to claim"
        return lease

    def complete(self, lease: Lease, session: Session | None = None) -> Row:
        """Encode what a lease holds and write it."""
        self.start_complete(lease, session)
        return (session or self.worker).result()[0]

    def start_complete(self, lease: Lease, session: Session | None = None) -> None:
        """Encode, and begin to write."""
        encoded = [item for item in lease.items if item[1] is not None]
        vectors = encode(lease.version, [str(content) for _, content, _ in encoded])
        (session or self.worker).start(
            sql.SQL("SELECT * FROM {}(%s, %s::int[], %s::bytea[], %s)").format(
                in_store(lease.version, "complete")
            ),
            (
                lease.number,
                [number for number, _, _ in encoded],
                [content_hash for _, _, content_hash in encoded],
                codec.vector_array(
                    vectors, element_type=self.element_types.get(lease.version, "vector")
                ),
            ),
        )

    def walk(self, version: int = 1, *, until_phase: str = "done", limit: int = 1000) -> str:
        """Step the walk until it is there or waits; returns its phase."""
        phase = ""
        for _ in range(50):
            step = self.call(version, "walk_step", limit)
            if step is None:
                break
            phase = step["phase"]
            if phase in ("done", "idle", until_phase):
                break
        return phase

    def expire(self, version: int = 1) -> None:
        """Let every lease of a version expire, as when its workers died."""
        self.owner.run(
            sql.SQL("UPDATE {} SET lease_expires_at = '-infinity'").format(
                in_store(version, "lease")
            )
        )

    def expire_free(self, version: int = 1) -> None:
        """The same for the leases that no completion is ending right now."""
        self.owner.run(
            sql.SQL(
                "UPDATE {0} SET lease_expires_at = '-infinity' WHERE lease_seq IN"
                " (SELECT lease_seq FROM {0} FOR UPDATE SKIP LOCKED)"
            ).format(in_store(version, "lease"))
        )

    def due(self, version: int = 1) -> None:
        """Make what was put back due at once."""
        self.owner.run(
            sql.SQL("UPDATE {} SET job_due_at = '-infinity'").format(in_store(version, "job"))
        )

    def fill(self, version: int = 1) -> None:
        """Start a rollout and fill its version."""
        self.owner.run("SELECT embver.start_rollout('docs', %s)", (version,))
        self.drain()

    def drain(self) -> None:
        """Work as one worker until every live version is filled and nothing waits.

        Raises:
            AssertionError: It does not come to rest.
        """
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            busy = False
            for version in self.live():
                self.expire(version)
                self.due(version)
                step = self.call(version, "walk_step", 1000)
                busy = busy or (step is not None and step["phase"] not in ("done", "idle"))
                lease = self.claim(version)
                if lease is not None:
                    self.complete(lease)
                    busy = True
            if not busy:
                return
        raise AssertionError("the queue does not come to rest")

    # -- what must be true -------------------------------------------------------------------

    def live(self) -> list[int]:
        """The live versions."""
        rows = self.owner.run(
            "SELECT version FROM embver_internal.version"
            " WHERE state IN ('filling', 'ready', 'active', 'fallback') ORDER BY version"
        )
        return [row["version"] for row in rows]

    def check(self) -> None:
        """Invariant 1: drained, every live store equals encode(source), to the bit."""
        rows = self.owner.run("SELECT id, body FROM docs WHERE body <> '' ORDER BY id")
        keys = [row["id"] for row in rows]
        for version in self.live():
            vectors = encode(version, [row["body"] for row in rows])
            if self.element_types.get(version) == "halfvec":
                vectors = vectors.astype(np.float16).astype(np.float32)
            expected = {key: vectors[i].tobytes() for i, key in enumerate(keys)}
            stored = {
                row["id"]: np.array(row["values"], dtype=np.float32).tobytes()
                for row in self.owner.run(
                    sql.SQL("SELECT id, embedding::real[] AS values FROM {}").format(
                        in_store(version, "embedding")
                    )
                )
            }
            missing, orphaned = expected.keys() - stored.keys(), stored.keys() - expected.keys()
            stale = {key for key in expected.keys() & stored.keys() if expected[key] != stored[key]}
            differences = {"missing": missing, "stale": stale, "orphaned": orphaned}
            assert not any(differences.values()), f"version {version}: {differences}"
            verified = self.owner.run("SELECT * FROM embver.verify('docs', %s)", (version,))[0]
            assert set(verified.values()) == {0}, f"version {version}: {verified}"
            for table in ("job", "lease"):
                left = self.owner.run(
                    sql.SQL("SELECT count(*) AS n FROM {}").format(in_store(version, table))
                )[0]["n"]
                assert left == 0, f"version {version}: {left} rows left in {table}"

    def drain_and_check(self) -> None:
        """Drain, then invariant 1."""
        self.drain()
        self.check()

    def embver(self) -> Embver:
        """The Python interface, as the owner; the caller closes it."""
        return Embver(Database(self.urls.owner))


@dataclass
class Hold:
    """A completion that is held between its locks and its first write.

    Attributes:
        stage: Where.
        session: The worker's session.
        number: Which advisory lock it waits for.
    """

    stage: Stage
    session: Session
    number: int

    def start(self, lease: Lease) -> None:
        """Begin a completion and wait until it stands where it is held."""
        self.stage.start_complete(lease, self.session)
        assert self.stage.blocked(self.session), "the completion is held before its first write"

    def start_walk(self, version: int) -> None:
        """Begin a step of the walk and wait until it stands before its first vector."""
        self.session.start(sql.SQL("SELECT * FROM {}(1000)").format(in_store(version, "walk_step")))
        assert self.stage.blocked(self.session), "the copy is held before its first write"

    def release(self) -> Row:
        """Let it go on; returns what it did."""
        self.let_go()
        return self.session.result()[0]

    def let_go(self) -> None:
        """Let it go on, and do not wait for its end."""
        self.stage.watch.execute("SELECT pg_advisory_unlock(%s, %s)", (_ADVISORY, self.number))


def in_store(version: int, name: str) -> sql.Composable:
    """The qualified name of something in a store of the collection ``docs``."""
    return sql.Identifier(f"embver_docs_v{version}", name)


def call(session: Session, version: int, function: str, *arguments: Any) -> Row | None:
    """Call a function of a store."""
    marks = sql.SQL(", ").join([sql.Placeholder()] * len(arguments))
    rows = session.run(
        sql.SQL("SELECT * FROM {}({})").format(in_store(version, function), marks), arguments
    )
    return rows[0] if rows else None


_loaded = cache(load)


def encode(version: int, texts: Sequence[str]) -> NDArray[np.float32]:
    """The vectors of a version, ``[n, d] float32``."""
    encoder = _loaded(ENCODERS[1 if version == FILLED else version])
    if not texts:
        return np.zeros((0, encoder.dimensions), dtype=np.float32)
    return encoder.encode_documents(texts)


def new_stage(server: servers.Server | None = None) -> Stage:
    """A stage on a database of its own, by default on the run's server."""
    server = server or servers.server()
    template = servers.build_template(server, TEMPLATE, lambda url: _build(server, url))
    admin = servers.clone_database(server, template, owner="embver_owner")
    name = urlsplit(admin).path.removeprefix("/")
    owner, worker, reader, stranger = (server.url(name, role) for role in servers.ROLES)
    return Stage(Installed(owner, worker, reader, stranger, admin))


def drop_stage(stage: Stage) -> None:
    """Close a stage and drop its database."""
    stage.close()
    servers.drop_database(servers.server(), stage.urls.admin)


def _build(server: servers.Server, admin_url: str) -> None:
    install(server, admin_url)
    name = urlsplit(admin_url).path.removeprefix("/")
    owner_url = server.url(name, "embver_owner")
    with open_connection(owner_url) as connection:
        connection.execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text, seen int NOT NULL DEFAULT 0)"
        )
        connection.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two'), (3, 'three')")
        connection.execute("GRANT SELECT ON docs TO embver_r")
        with Embver(Database(owner_url)) as embver:
            collection = embver.create_collection("docs", "public.docs", "body")
            for encoder in ENCODERS.values():
                collection.add_version(encoder, index=NO_INDEX)
        connection.execute(_HOLD)
        for version in ENCODERS:
            connection.execute(_query(hold_trigger(version)))


def hold_trigger(version: int) -> sql.Composable:
    """What makes the writes of a version stop where a :class:`Hold` says so."""
    return sql.SQL(
        "CREATE TRIGGER hold BEFORE INSERT OR UPDATE ON {} FOR EACH ROW"
        " EXECUTE FUNCTION hold_write()"
    ).format(in_store(version, "embedding"))


def _query(statement: str | sql.Composable) -> Any:
    return statement
