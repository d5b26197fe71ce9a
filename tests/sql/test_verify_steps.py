"""Verifying in steps: the same counts as in one statement, whatever the key, of one snapshot."""

from __future__ import annotations

import psycopg
import pytest

from embver_pg.errors import InvalidArgument, VersionNotFound
from embver_pg.verifying import verify_in_steps
from tests.conftest import Installed
from tests.sql.support import Connection, drain, register, run

pytestmark = pytest.mark.both_versions

KEYS = {
    "id int": "i",
    'id text COLLATE "C"': "chr(64 + i % 26) || i",
    "id text": "repeat('ä', i % 3) || ' ' || i",
    "id timestamptz, b float8": "timestamptz '2026-01-01' + i * interval '1.01 s', 1 / i::float8",
    "id numeric, b uuid": "10 ^ 25::numeric + i % 4, md5(i::text)::uuid",
    "id date, b bytea": "date 'infinity', int4send(i)",
    "seen int, after varchar(9)": "i % 5, 'k' || i",
}


def damage(owner: Connection) -> None:
    """Some of every kind, also past the last document and before the first."""
    run(owner, "UPDATE docs SET n = -n WHERE n IN (1, 9, 23)")  # captured, not drained
    run(
        owner,
        "DELETE FROM embver_docs_v1.embedding WHERE ctid IN"
        " (SELECT ctid FROM embver_docs_v1.embedding ORDER BY content_hash LIMIT 4)",
    )
    run(owner, "ALTER TABLE docs DISABLE TRIGGER ALL")
    run(owner, "DELETE FROM docs WHERE n IN (2, 11, 30)")


@pytest.mark.parametrize("key", KEYS)
def test_steps_add_up(installed: Installed, owner: Connection, key: str) -> None:
    names = ", ".join(part.split()[0] for part in key.split(", "))
    run(owner, f"CREATE TABLE docs ({key}, n int, PRIMARY KEY ({names}))")
    run(owner, f"INSERT INTO docs SELECT {KEYS[key]}, i FROM generate_series(1, 30) AS i")
    with installed.embver() as embver:
        collection = register(embver, content="n::text")
        drain(installed)
        clean = {"missing": 0, "stale": 0, "orphaned": 0}
        for step in (1, 7, 30, 100):
            assert collection.verify(1, step=step) == clean
        damage(owner)
        whole = collection.verify(1)
        assert all(whole.values()), whole
        for step in (1, 3, 27, 100):
            seen: list[int] = []
            assert collection.verify(1, step=step, advance=seen.append) == whole
            assert sum(seen) == 27
            assert max(seen) <= step


def test_an_empty_source(installed: Installed, owner: Connection) -> None:
    run(owner, "CREATE TABLE docs (id int PRIMARY KEY, n int)")
    run(owner, "INSERT INTO docs SELECT i, i FROM generate_series(1, 3) AS i")
    with installed.embver() as embver:
        collection = register(embver, content="n::text")
        drain(installed)
        run(owner, "ALTER TABLE docs DISABLE TRIGGER ALL")
        run(owner, "DELETE FROM docs")
        assert collection.verify(1, step=1) == {"missing": 0, "stale": 0, "orphaned": 3}


def test_all_steps_see_one_snapshot(installed: Installed, owner: Connection) -> None:
    run(owner, "CREATE TABLE docs (id int PRIMARY KEY, n int)")
    run(owner, "INSERT INTO docs SELECT i, i FROM generate_series(1, 40) AS i")
    with installed.embver() as embver:
        collection = register(embver, content="n::text")
        drain(installed)

        def meddle(count: int) -> None:
            run(owner, "UPDATE docs SET n = n + 1")
            run(owner, "INSERT INTO docs SELECT max(id) + 1, 0 FROM docs")

        clean = {"missing": 0, "stale": 0, "orphaned": 0}
        assert collection.verify(1, step=10, advance=meddle) == clean
        assert collection.verify(1)["stale"] == 40


def test_what_cannot_be_verified(installed: Installed, owner: Connection) -> None:
    run(owner, "CREATE TABLE docs (id int PRIMARY KEY, n int)")
    with installed.embver() as embver:
        collection = register(embver, content="n::text")
        with pytest.raises(VersionNotFound):
            collection.verify(9, step=10)
        for step in (0, -1):
            with pytest.raises(InvalidArgument):
                collection.verify(1, step=step)
    for role in ("worker", "reader", "stranger"):
        with installed.embver(role) as embver, pytest.raises(psycopg.errors.InsufficientPrivilege):
            verify_in_steps(embver.database, "embver_docs_v1", 10, lambda count: None)
