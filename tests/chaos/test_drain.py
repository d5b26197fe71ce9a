"""When a drain ends, when it waits and says why, and that every wait can be stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from embver_pg.client import Embver
from embver_pg.db import Row
from embver_pg.encoders import Encoder, EncoderSpec, TransientEncoderError, Vectors, load
from embver_pg.encoders.probes import PROBES
from embver_pg.errors import (
    CollectionNotFound,
    IncompatibleSchema,
    InvalidArgument,
    SpaceChanged,
)
from embver_pg.worker import Worker
from tests.chaos.conftest import DOCUMENTS, begin, make_docs
from tests.chaos.processes import assert_whole, backends
from tests.conftest import Installed
from tests.waiting import NEVER, PATIENCE, join, until


@dataclass
class Faulty:
    """An encoder with a hook before each call."""

    inner: Encoder
    before: Callable[[list[str]], None]

    @property
    def spec(self) -> EncoderSpec:
        return self.inner.spec

    @property
    def dimensions(self) -> int:
        return self.inner.dimensions

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def encode_queries(self, texts: Any) -> Vectors:
        return self.inner.encode_queries(texts)

    def encode_documents(self, texts: Any) -> Vectors:
        if not set(texts) <= set(PROBES):  # of the canary: no documents
            self.before(list(texts))
        return self.inner.encode_documents(texts)


class Running:
    """A worker in a thread, and what it said."""

    def __init__(self, installed: Installed, role: str, drain: bool, **options: Any) -> None:
        self.steps: list[tuple[str, dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.worker: Worker = installed.new_worker(
            role, on_step=lambda name, figures: self.steps.append((name, figures)), **options
        )
        self._thread = threading.Thread(target=self._run, args=(drain,), daemon=True)

    def _run(self, drain: bool) -> None:
        try:
            self.worker.run(drain=drain)
        except BaseException as error:
            self.error = error

    def said(self, part: str) -> bool:
        return any(name == "waiting" and part in step["reason"] for name, step in self.steps)

    def reached(self, name: str) -> bool:
        return any(step == name for step, _ in self.steps)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def ends(self) -> None:
        join(self._thread, "the worker")
        if self.error is not None:
            raise self.error


@contextmanager
def running(
    installed: Installed,
    role: str = "owner",
    *,
    drain: bool = True,
    before: Callable[[Worker], None] = lambda worker: None,
    **options: Any,
) -> Iterator[Running]:
    """A worker at work in a thread, from ``before`` on; it does not outlive the block."""
    found = Running(installed, role, drain, **options)
    before(found.worker)
    found._thread.start()
    try:
        yield found
    finally:
        found.worker.stop()
        found._thread.join(PATIENCE)


def faulty(before: Callable[[list[str]], None]) -> Callable[[EncoderSpec], Encoder]:
    return lambda spec: Faulty(load(spec), before)


@pytest.mark.both_versions
def test_waits_for_writers_older_than_the_rollout(
    installed: Installed, owner: psycopg.Connection[Row]
) -> None:
    make_docs(owner)
    with installed.embver() as embver, installed.connect() as writer:
        collection = embver.create_collection("docs", "public.docs", "title || E'\\n' || body")
        collection.add_version("hash:16")
        with writer.transaction():
            writer.execute("INSERT INTO docs VALUES (1000, 'an older', 'writer')")
            collection.start_rollout(1)
            with running(installed) as drain:
                until(lambda: drain.said("pg_locks.virtualtransaction"), "it says why it waits")
                time.sleep(0.3)
                assert drain.is_running
                assert not drain.reached("claimed")
                writer.execute("INSERT INTO docs VALUES (1001, 'an older', 'writer')")
                writer.execute("COMMIT")
                drain.ends()
                writer.execute("BEGIN")
        assert_whole(owner)
        assert collection.version(1)["state"] == "ready"


def test_waits_for_a_locked_document(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    with installed.connect() as application, application.transaction():
        application.execute("SELECT FROM docs WHERE id = 3 FOR UPDATE")
        with running(installed) as drain:
            until(lambda: drain.worker.report.written == DOCUMENTS - 1, "the others")
            time.sleep(0.5)
            assert drain.is_running
            application.execute("UPDATE docs SET body = 'changed' WHERE id = 3")
            application.execute("COMMIT")
            drain.ends()
            application.execute("BEGIN")
    assert_whole(owner)


@pytest.mark.both_versions
def test_waits_for_an_open_truncate(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    for function in ("claim", "complete", "queue_status", "walk_step"):
        owner.execute(
            f"ALTER FUNCTION embver_docs_v1.{function} SET lock_timeout = '20ms'".encode()
        )
    step = owner.execute("SELECT phase FROM embver_docs_v1.walk_step()").fetchone()
    while step is not None and step["phase"] != "documents":
        step = owner.execute("SELECT phase FROM embver_docs_v1.walk_step()").fetchone()
    walk = owner.execute("SELECT * FROM embver_docs_v1.walk_status()").fetchall()
    with installed.connect() as application, application.transaction():
        application.execute("TRUNCATE docs")
        application.execute("INSERT INTO docs VALUES (1, 'the only', 'one left')")
        with running(installed) as drain:
            until(lambda: drain.reached("resting"), "it gives up the lock, and comes back")
            # Nothing of a statement that gave up is left.
            assert owner.execute("SELECT * FROM embver_docs_v1.walk_status()").fetchall() == walk
            application.execute("COMMIT")
            drain.ends()
            application.execute("BEGIN")
    assert_whole(owner)


def test_ends_under_steady_writes(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    over = threading.Event()

    def write() -> None:
        with installed.connect() as application:
            while not over.wait(0.02):
                application.execute("UPDATE docs SET body = md5(random()::text) WHERE id <= 5")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with running(installed) as drain:
            drain.ends()
        assert filling.collection("docs").version(1)["state"] == "ready"
        with running(installed) as drain:
            drain.ends()
    finally:
        over.set()
        writer.join()
    filling.drain()
    assert_whole(owner)


def test_waits_for_jobs_that_are_due_later(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    filling.drain()
    owner.execute("UPDATE docs SET body = 'changed' WHERE id = 3")
    due = owner.execute(
        "UPDATE embver_docs_v1.job SET job_due_at = clock_timestamp() + interval '1 s'"
        " RETURNING job_due_at AS at"
    ).fetchone()
    assert filling.drain().written == 1
    encoded = owner.execute(
        "SELECT encoded_at AS at FROM embver_docs_v1.embedding WHERE id = 3"
    ).fetchone()
    assert due is not None
    assert encoded is not None
    assert encoded["at"] >= due["at"]
    assert_whole(owner)


def test_waits_for_the_lease_of_a_dead_worker(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    filling.drain()
    owner.execute("UPDATE docs SET body = 'changed' WHERE id <= 3")
    owner.execute("SELECT embver_docs_v1.claim(gen_random_uuid(), 2, interval '1 hour')")
    with running(installed) as drain:
        until(lambda: drain.said("2 documents are leased by other workers"), "it says so")
        owner.execute("UPDATE embver_docs_v1.lease SET lease_expires_at = clock_timestamp()")
        drain.ends()
        assert drain.worker.report.written == 3
    assert_whole(owner)


def test_a_paused_rollout_is_left_alone(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    collection = filling.collection("docs")
    collection.pause_rollout("to see")
    assert filling.drain().written == 0
    collection.resume_rollout()
    calls: list[int] = []

    def before(texts: list[str]) -> None:
        calls.append(len(texts))
        if len(calls) == 3:
            collection.pause_rollout("midway")

    with running(installed, batch=4, encoder_for=faulty(before)) as drain:
        drain.ends()
    assert collection.version(1)["state"] == "filling"
    collection.resume_rollout()
    filling.drain()
    assert_whole(owner)


def test_an_aborted_rollout_ends_the_drain(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    collection = filling.collection("docs")

    def abort(texts: list[str]) -> None:
        collection.abort_rollout("while a batch is encoded")
        collection.drop_version(1)

    installed.new_worker("owner", encoder_for=faulty(abort)).run(drain=True)
    assert collection.versions() == []


def test_a_role_that_may_not_build_leaves_the_index(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    with running(installed, "worker") as drain:
        drain.ends()
        assert drain.said("index is left")
    assert filling.collection("docs").version(1)["state"] == "filling"
    filling.drain()
    assert filling.collection("docs").version(1)["state"] == "ready"


def test_other_stores_are_served_while_an_index_is_built(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    filling.drain()
    filling.collection("docs").promote()
    filling.collection("docs").add_version("hash:8")
    filling.collection("docs").start_rollout(2)
    installed.new_worker("worker").run(drain=True)
    with installed.connect() as writer, writer.transaction():
        writer.execute("UPDATE embver_docs_v2.embedding SET chunk = 0 WHERE false")
        with running(installed, drain=False) as worker:
            until(lambda: backends(owner, "^CREATE INDEX CONCURRENTLY"), "the build waits")
            owner.execute("UPDATE docs SET body = 'changed' WHERE id = 3")
            until(lambda: worker.worker.report.written == 2, "both versions are written")
            worker.worker.stop()
            worker.ends()  # the server goes on building
            assert backends(owner, "^CREATE INDEX CONCURRENTLY")
    filling.drain()
    assert filling.collection("docs").version(2)["state"] == "ready"
    assert_whole(owner)


def test_a_text_that_breaks_a_library_becomes_a_dead_letter(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    def before(texts: list[str]) -> None:
        if any(text.startswith("title 7\n") for text in texts):
            raise RuntimeError("index out of range in \0 self")

    report = installed.new_worker("owner", encoder_for=faulty(before)).run(drain=True)
    assert (report.written, report.failed) == (DOCUMENTS - 1, 1)
    (dead,) = owner.execute("SELECT * FROM embver.dead_letters").fetchall()
    assert dead["key"] == {"id": 7}
    assert dead["error"].startswith("RuntimeError: index out of range")


def test_a_library_that_always_breaks_is_no_fault_of_a_document(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    broken = threading.Event()
    broken.set()
    calls: list[int] = []

    def before(texts: list[str]) -> None:
        calls.append(len(texts))
        if broken.is_set():
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        installed.new_worker("owner", encoder_for=faulty(before)).run(drain=True)
    assert owner.execute("SELECT FROM embver_docs_v1.lease").fetchall() == []
    with running(installed, drain=False, encoder_for=faulty(before)) as worker:
        until(lambda: len(calls) > 4, "the store rests and is tried again")
        broken.clear()
        until(lambda: worker.reached("ready"), "it has healed")
    assert owner.execute("SELECT FROM embver.dead_letters").fetchall() == []
    assert_whole(owner)


@pytest.mark.parametrize("drain", [True, False])
def test_another_model_stops_the_worker(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row], drain: bool
) -> None:
    other = installed.new_worker("owner", encoder_for=lambda spec: load("hash:32"))
    with pytest.raises(SpaceChanged) as failure:
        other.run(drain=drain)
    assert failure.value.detail["version"] == 1
    assert failure.value.hint
    assert owner.execute("SELECT FROM embver_docs_v1.lease").fetchall() == []
    assert owner.execute("SELECT FROM embver_docs_v1.embedding").fetchall() == []


def test_bad_arguments(installed: Installed, owner: psycopg.Connection[Row]) -> None:
    for options in ({"batch": 0}, {"lease": -1.0}, {"poll": 0.0}, {"lease": float("nan")}):
        with pytest.raises(InvalidArgument):
            installed.new_worker("owner", **options)
    with pytest.raises(CollectionNotFound):
        installed.new_worker("worker", collection="unknown").run(drain=True)


@pytest.mark.parametrize(
    ("revision", "hint"), [("core_9999", "pip install"), (None, "embver init")]
)
def test_another_schema_is_refused_at_the_start(
    installed: Installed, owner: psycopg.Connection[Row], revision: str | None, hint: str
) -> None:
    if revision is None:
        owner.execute("DELETE FROM embver_internal.alembic_version")
    else:
        owner.execute("UPDATE embver_internal.alembic_version SET version_num = %s", (revision,))
    with pytest.raises(IncompatibleSchema) as failure:
        installed.new_worker("worker").run()
    assert hint in (failure.value.hint or "")


class TestStop:
    """A stop ends every wait, whatever is waited for."""

    def test_idle(self, installed: Installed, filling: Embver) -> None:
        with running(installed, drain=False, poll=NEVER) as worker:
            until(lambda: worker.reached("ready"), "all is done")
            worker.worker.stop()
            worker.ends()

    def test_before_the_start(self, installed: Installed, filling: Embver) -> None:
        worker = installed.new_worker("owner")
        worker.stop()
        assert worker.run().written == 0

    def test_backing_off(self, installed: Installed, filling: Embver) -> None:
        def before(texts: list[str]) -> None:
            raise TransientEncoderError("later", retry_after=NEVER)

        with running(installed, encoder_for=faulty(before)) as worker:
            until(lambda: worker.reached("given_back"), "it backs off")
            worker.worker.stop()
            worker.ends()

    def test_writing_behind_a_lock(
        self, installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
    ) -> None:
        locked = threading.Event()

        def before(texts: list[str]) -> None:
            locked.wait(PATIENCE)

        with (
            installed.connect() as blocker,
            blocker.transaction(),
            running(installed, encoder_for=faulty(before)) as worker,
        ):
            until(lambda: worker.reached("claimed"), "it has a lease")
            blocker.execute("LOCK TABLE embver_docs_v1.embedding IN SHARE MODE")
            locked.set()
            until(lambda: backends(owner, r'"complete"\('), "it writes")
            worker.worker.stop()
            worker.ends()  # the statement's lock_timeout is 5 s
            assert worker.reached("given_back")
        assert owner.execute("SELECT FROM embver_docs_v1.lease").fetchall() == []


def test_two_collections_are_kept_apart(
    installed: Installed, owner: psycopg.Connection[Row]
) -> None:
    make_docs(owner)
    owner.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
    owner.execute("INSERT INTO notes VALUES (1, 'a note')")
    with installed.embver() as embver:
        docs = begin(embver)
        notes = embver.create_collection("notes", "public.notes", "body")
        notes.add_version("hash:8")
        notes.start_rollout(1)
        installed.new_worker("owner", collection="notes").run(drain=True)
        assert (docs.version(1)["state"], notes.version(1)["state"]) == ("filling", "ready")


def test_a_throttle_holds_back_the_filling_only(
    installed: Installed, filling: Embver, owner: psycopg.Connection[Row]
) -> None:
    filling.drain()
    collection = filling.collection("docs")
    collection.promote()
    collection.start_rollout(collection.add_version("hash:8"))
    filling.set_throttle({"stop": "the nightly load"}, "a drill")
    with running(installed) as drain:
        reasons = "SELECT throttled FROM embver.workers"
        until(
            lambda: owner.execute(reasons).fetchall() == [{"throttled": "the nightly load"}],
            "the worker says why",
        )
        owner.execute("UPDATE docs SET body = 'changed' WHERE id = 3")
        until(lambda: drain.worker.report.written == 1, "what is searched is written all the same")
        assert drain.is_running
        assert collection.verify(1) == {"missing": 0, "stale": 0, "orphaned": 0}
        assert collection.verify(2)["missing"] == DOCUMENTS
        filling.set_throttle({})
        drain.ends()
    assert_whole(owner)
    assert_whole(owner, 2, 8)
