"""Documents in chunks, interleaved: nobody leaves half a document, or chunks of two contents."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from embver_pg import codec
from embver_pg.chunking import Chunk, Chunker, splitter
from embver_pg.encoders import load
from tests.concurrency.stage import NO_INDEX, Lease, Session, Stage, in_store

pytest.importorskip("semantic_text_splitter", reason="the extra chunking is not installed")
VERSION = 3
ENCODER = load("hash:32")
CHUNKER = Chunker("characters", 10, 2)
SPLIT = splitter(CHUNKER, ENCODER)
LONG = "wings lift. flaps slow. rudders turn. stalls end. landings too."
SHORT = "flaps only."


@dataclass
class Cut:
    """A stage whose documents are in chunks, in version 3.

    Attributes:
        stage: Where.
    """

    stage: Stage
    held: list[Session] = field(default_factory=list)

    def write(self, body: str | None, key: int = 1) -> None:
        self.stage.owner.run(
            "INSERT INTO docs VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (key, body),
        )

    def lease(self) -> Lease:
        return self.stage.must_claim(VERSION)

    def start(self, lease: Lease, session: Session) -> None:
        """Cut and encode what a lease holds, and begin to write."""
        pieces: list[tuple[int, bytes | None, int, Chunk]] = [
            (number, content_hash, position, chunk)
            for number, content, content_hash in lease.items
            if content is not None
            for position, chunk in enumerate(SPLIT(content))
        ]
        vectors = ENCODER.encode_documents([chunk.text for *_, chunk in pieces])
        session.start(
            sql.SQL(
                "SELECT * FROM {}(%s, %s::int[], %s::bytea[], %s, NULL,"
                " %s::int[], %s::int[], %s::int[])"
            ).format(in_store(VERSION, "complete")),
            (
                lease.number,
                [number for number, *_ in pieces],
                [content_hash for _, content_hash, *_ in pieces],
                codec.vector_array(vectors),
                [position for _, _, position, _ in pieces],
                [chunk.start for *_, chunk in pieces],
                [chunk.end for *_, chunk in pieces],
            ),
        )

    def complete(self, lease: Lease) -> dict[str, Any]:
        self.start(lease, self.stage.worker)
        return self.stage.worker.result()[0]

    def hold(self, lease: Lease, at: int) -> Callable[[], dict[str, Any]]:
        """A completion that stops before it writes chunk ``at``; what lets it go on."""
        self.stage.owner.run(
            sql.SQL(
                "CREATE OR REPLACE TRIGGER hold BEFORE INSERT OR UPDATE ON {} FOR EACH ROW"
                " WHEN (NEW.chunk = {}) EXECUTE FUNCTION hold_write()"
            ).format(in_store(VERSION, "embedding"), sql.Literal(at))
        )
        held = self.stage.hold()
        self.start(lease, held.session)
        assert self.stage.blocked(held.session), f"the completion stands before chunk {at}"
        return held.release

    def rows(self) -> dict[tuple[int, int], tuple[int, int, int, bytes]]:
        found = self.stage.owner.run(
            sql.SQL(
                "SELECT id, chunk, chunk_from, chunk_to, chunk_count, embedding::real[] AS vector"
                " FROM {}"
            ).format(in_store(VERSION, "embedding"))
        )
        return {
            (row["id"], row["chunk"]): (
                row["chunk_from"],
                row["chunk_to"],
                row["chunk_count"],
                np.array(row["vector"], dtype=np.float32).tobytes(),
            )
            for row in found
        }

    def drain(self) -> None:
        for _ in range(60):
            self.stage.expire(VERSION)
            self.stage.due(VERSION)
            step = self.stage.call(VERSION, "walk_step", 1000)
            lease = self.stage.claim(VERSION)
            if lease is not None:
                self.complete(lease)
            elif step is None or step["phase"] in ("done", "idle"):
                return
        raise AssertionError("the queue does not come to rest")

    def drain_and_check(self) -> None:
        """Drained, the store is cut and encoded source, to the bit; verify agrees."""
        self.drain()
        wanted = {}
        for row in self.stage.owner.run("SELECT id, body FROM docs WHERE body <> ''"):
            chunks = SPLIT(row["body"])
            vectors = ENCODER.encode_documents([chunk.text for chunk in chunks])
            for number, (chunk, vector) in enumerate(zip(chunks, vectors, strict=True)):
                place = (chunk.start, chunk.end, len(chunks))
                wanted[row["id"], number] = (*place, vector.tobytes())
        assert self.rows() == wanted
        verified = self.stage.owner.run("SELECT * FROM embver.verify('docs', %s)", (VERSION,))
        assert verified == [{"missing": 0, "stale": 0, "orphaned": 0}]


@pytest.fixture
def cut(stage: Stage) -> Cut:
    with stage.embver() as embver:
        number = embver.collection("docs").add_version(
            "hash:32", index=NO_INDEX, chunker=CHUNKER.to_json()
        )
        assert number == VERSION
    stage.owner.run("SELECT embver.start_rollout('docs', %s)", (VERSION,))
    found = Cut(stage)
    found.drain()
    return found


def older_with_more(cut: Cut, at: int) -> None:
    """SQL-NOTES 2b: the older lease, held, has more chunks than the newer."""
    cut.write(LONG)
    older = cut.lease()
    application = cut.stage.session()
    application.begin()
    application.run("UPDATE docs SET body = %s WHERE id = 1", (SHORT,))
    release = cut.hold(older, at)
    application.commit()
    newer = cut.lease()
    assert newer.number > older.number
    cut.start(newer, cut.stage.worker)
    # Chunk 0 stands for the document: who has not written it yet holds nobody up.
    assert cut.stage.settled(cut.stage.worker) == (at == 0)
    release()
    assert cut.stage.worker.result()[0]["written"] == 1
    cut.drain_and_check()


def older_with_fewer(cut: Cut, at: int) -> None:
    cut.write(SHORT)
    older = cut.lease()
    application = cut.stage.session()
    application.begin()
    application.run("UPDATE docs SET body = %s WHERE id = 1", (LONG,))
    release = cut.hold(older, at)
    application.commit()
    newer = cut.lease()
    cut.start(newer, cut.stage.worker)
    assert cut.stage.settled(cut.stage.worker) == (at == 0)
    release()
    cut.stage.worker.result()
    cut.drain_and_check()


def shrunk(cut: Cut, at: int) -> None:
    """Nobody sees half of it while it is written."""
    cut.write(LONG)
    cut.drain()
    before = cut.rows()
    cut.write(LONG.replace("flaps slow", "flaps"))
    release = cut.hold(cut.lease(), at)
    assert cut.rows() == before
    release()
    cut.write(SHORT)
    assert cut.complete(cut.lease())["written"] == 1
    cut.drain_and_check()


def deleted_meanwhile(cut: Cut, at: int) -> None:
    cut.write(LONG)
    release = cut.hold(cut.lease(), at)
    application = cut.stage.session()
    application.start("DELETE FROM docs WHERE id = 1")
    assert cut.stage.blocked(application)
    release()
    application.result()
    cut.drain_and_check()


def tombstone_meets_newer(cut: Cut, at: int) -> None:
    """A key comes again while its tombstone is worked off: all its chunks go, or none."""
    cut.write(LONG)
    cut.drain()
    application = cut.stage.session()
    application.begin("repeatable read")
    application.run("DELETE FROM docs WHERE id = 1")
    application.commit()
    tombstone = cut.lease()
    cut.write(LONG + " and on")
    newer = cut.lease()
    release = cut.hold(newer, at)
    cut.complete(tombstone)
    release()
    cut.drain_and_check()


SCENARIOS = (older_with_more, older_with_fewer, shrunk, deleted_meanwhile, tombstone_meets_newer)


@pytest.mark.both_versions
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_race(cut: Cut, scenario: Callable[[Cut, int], None], at: int) -> None:
    scenario(cut, at)


TEETH = {
    "newer lease wins": (
        r"WHERE e\.encoded_lease < excluded\.encoded_lease /\* the newer lease wins \*/",
        "",
        older_with_more,
    ),
    "chunks too many": (
        r"AND e\.chunk >= o\.chunk_count /\* chunks too many \*/",
        "AND false",
        shrunk,
    ),
    "only whose chunk 0 won": (
        r"AND e\.encoded_lease = p_lease /\* its chunk 0 won \*/",
        "AND false",
        shrunk,
    ),
}


@pytest.mark.parametrize("tooth", TEETH)
def test_suite_goes_red_without(cut: Cut, tooth: str) -> None:
    pattern, replacement, scenario = TEETH[tooth]
    function = f"embver_docs_v{VERSION}.complete"
    body = cut.stage.owner.run("SELECT pg_get_functiondef(%s::regproc) AS body", (function,))
    text, count = re.subn(pattern, replacement, body[0]["body"])
    assert count == 1
    cut.stage.owner.connection.execute(text.encode())
    with pytest.raises(AssertionError):
        scenario(cut, 0)


BODIES = st.sampled_from([None, "", SHORT, LONG, LONG * 2, "x", "  ", LONG[20:]])
KEYS = st.integers(1, 4)
STEPS = st.one_of(
    st.tuples(st.just("write"), KEYS, BODIES),
    st.tuples(st.just("delete"), KEYS, st.sampled_from(["read committed", "repeatable read"])),
    st.tuples(st.just("rename"), KEYS, KEYS),
    st.tuples(st.just("truncate"), st.just(0), st.just(None)),
    st.tuples(st.just("claim"), st.integers(1, 3), st.just(None)),
    st.tuples(st.just("complete"), st.integers(0, 5), st.just(None)),
    st.tuples(st.just("requeue"), st.just(0), st.sampled_from(["all", "stale", "missing"])),
)


def step(cut: Cut, leases: list[Lease], what: str, number: int, value: Any) -> None:
    owner = cut.stage.owner
    match what:
        case "write":
            cut.write(value, number)
        case "delete":
            owner.begin(value)
            owner.run("DELETE FROM docs WHERE id = %s", (number,))
            owner.commit()
        case "rename":
            taken = "NOT EXISTS (SELECT FROM docs WHERE id = %s)"
            owner.run(f"UPDATE docs SET id = %s WHERE id = %s AND {taken}", (value, number, value))
        case "truncate":
            owner.run("TRUNCATE docs")
        case "claim":
            lease = cut.stage.claim(VERSION, number)
            if lease is not None:
                leases.append(lease)
        case "complete":
            if leases:  # in any order: the newer lease may come first
                cut.complete(leases.pop(number % len(leases)))
        case "requeue":
            owner.run("SELECT embver.requeue('docs', %s, %s)", (VERSION, value))


def test_any_history(cut: Cut) -> None:
    @settings(derandomize=True, max_examples=25, deadline=None, database=None)
    @given(st.lists(STEPS, min_size=4, max_size=18))
    def history(steps: list[tuple[str, int, Any]]) -> None:
        leases: list[Lease] = []
        for what, number, value in steps:
            step(cut, leases, what, number, value)
        for lease in leases:
            cut.complete(lease)
        cut.drain_and_check()

    history()
