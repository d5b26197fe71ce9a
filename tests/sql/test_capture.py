"""Every way to change the source reaches every live store, and nothing else is enqueued."""

from __future__ import annotations

import threading

import psycopg
import pytest

from embver_pg.client import Embver
from tests.conftest import Installed
from tests.sql.support import Connection, drain, jobs, register, run, value

pytestmark = pytest.mark.both_versions

# name: what the application does, each statement a transaction of its own
HISTORIES = {
    "insert": ["INSERT INTO docs VALUES (10, 'new', 'row', 1), (11, 'another', 'row', 2)"],
    "update": ["UPDATE docs SET body = 'other words' WHERE id = 1"],
    "update_twice": ["UPDATE docs SET body = 'b1'", "UPDATE docs SET body = 'b2' WHERE id < 3"],
    "there_and_back": [
        "UPDATE docs SET body = 'away' WHERE id = 1",
        "UPDATE docs SET body = 'body 1' WHERE id = 1",
    ],
    "key_change": ["UPDATE docs SET id = 77 WHERE id = 1"],
    "key_and_content": ["UPDATE docs SET id = 77, body = 'moved' WHERE id = 1"],
    "keys_shifted": ["DELETE FROM docs WHERE id = 3", "UPDATE docs SET id = id - 1"],
    "key_taken_over": [
        "WITH gone AS (UPDATE docs SET id = 50 WHERE id = 1 RETURNING *)"
        " INSERT INTO docs SELECT 51, title, 'copy', 1 FROM gone",
        "UPDATE docs SET id = 1 WHERE id = 51",
    ],
    "delete": ["DELETE FROM docs WHERE id = 2"],
    "delete_and_insert_again": [
        "DELETE FROM docs WHERE id = 2",
        "INSERT INTO docs VALUES (2, 'again', 'here', 1)",
    ],
    "truncate": ["TRUNCATE docs"],
    "truncate_and_insert": ["TRUNCATE docs", "INSERT INTO docs VALUES (2, 'only', 'one', 1)"],
    "upsert": [
        "INSERT INTO docs VALUES (1, 'up', 'sert', 1), (20, 'in', 'sert', 1)"
        " ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body"
    ],
    "upsert_nothing": ["INSERT INTO docs VALUES (1, 'x', 'y', 1) ON CONFLICT DO NOTHING"],
    "merge": [
        "MERGE INTO docs USING (VALUES (1, 'm1'), (2, 'm2'), (30, 'm30')) AS s (id, body)"
        " ON docs.id = s.id"
        " WHEN MATCHED AND s.id = 2 THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET body = s.body"
        " WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged', s.body, 1)"
    ],
    "writable_ctes": [
        "WITH d AS (DELETE FROM docs WHERE id = 1 RETURNING *),"
        " u AS (UPDATE docs SET body = 'from a cte' WHERE id = 2 RETURNING *)"
        " INSERT INTO docs SELECT id + 100, title, 'moved by cte', 1 FROM d"
    ],
    "to_null": ["UPDATE docs SET body = NULL WHERE id = 1"],
    "to_null_and_back": [
        "UPDATE docs SET body = NULL WHERE id = 1",
        "UPDATE docs SET body = 'body 1' WHERE id = 1",
    ],
    "null_inserted_then_filled": [
        "INSERT INTO docs VALUES (40, NULL, 'x', 1), (41, 'x', NULL, 1)",
        "UPDATE docs SET title = 'now' WHERE id = 40",
    ],
    "no_row_touched": [
        "UPDATE docs SET body = 'x' WHERE false",
        "DELETE FROM docs WHERE false",
    ],
    "rolled_back": [
        "DO $$ BEGIN DELETE FROM docs; RAISE EXCEPTION 'no'; EXCEPTION"
        " WHEN raise_exception THEN NULL; END $$"
    ],
    "in_a_savepoint": [
        "DO $$ BEGIN UPDATE docs SET body = 'kept' WHERE id = 1;"
        " BEGIN UPDATE docs SET body = 'undone' WHERE id = 2; RAISE EXCEPTION 'no';"
        " EXCEPTION WHEN raise_exception THEN NULL; END; END $$"
    ],
    "many_statements_in_one_transaction": [
        "DO $$ BEGIN INSERT INTO docs VALUES (60, 'a', 'b', 1);"
        " UPDATE docs SET body = 'c' WHERE id = 60; UPDATE docs SET id = 61 WHERE id = 60;"
        " DELETE FROM docs WHERE id = 61; INSERT INTO docs VALUES (60, 'd', 'e', 1); END $$"
    ],
    "a_thousand_rows": [
        "INSERT INTO docs SELECT i, 'many', 'body ' || i, 1 FROM generate_series(1000, 1999) i",
        "UPDATE docs SET body = body || '!' WHERE id >= 1000",
        "UPDATE docs SET id = id + 5000 WHERE id >= 1500",
        "DELETE FROM docs WHERE id BETWEEN 1000 AND 1200",
    ],
    "one_then_thousand_rows": [  # the plans are made for the first and kept
        "UPDATE docs SET body = 'one' WHERE id = 1",
        "INSERT INTO docs SELECT i, 'many', 'body ' || i, 1 FROM generate_series(1000, 1999) i",
        "UPDATE docs SET body = 'all'",
        "DELETE FROM docs WHERE id > 1",
    ],
}
ISOLATION = ("read committed", "repeatable read", "serializable")


@pytest.mark.parametrize("isolation", ISOLATION[:2])
def test_every_history_at_every_isolation(
    installed: Installed, owner: Connection, docs: Embver, isolation: str
) -> None:
    """One database for all: every history starts from three encoded documents."""
    drain(installed)
    for name, statements in HISTORIES.items():
        for statement in statements:
            with owner.transaction():
                run(owner, f"SET TRANSACTION ISOLATION LEVEL {isolation}")
                run(owner, statement)
        drain(installed)
        with owner.transaction():
            run(owner, "TRUNCATE docs")
            run(
                owner,
                "INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i, i % 2"
                " FROM generate_series(1, 3) i",
            )
        assert value(owner, "SELECT count(*) FROM docs") == 3, name
    drain(installed)


def test_what_enqueues_nothing(installed: Installed, owner: Connection, docs: Embver) -> None:
    drain(installed)
    for statement in (
        "UPDATE docs SET tenant = tenant + 1",
        "UPDATE docs SET body = body, id = id, title = title",
        "UPDATE docs SET tenant = 7 WHERE id = 1",
        "UPDATE docs SET body = 'x' WHERE false",
        "INSERT INTO docs VALUES (1, 'a', 'b') ON CONFLICT DO NOTHING",
        "INSERT INTO docs VALUES (1, 'a', 'b') ON CONFLICT (id) DO UPDATE SET tenant = 3",
        "DELETE FROM docs WHERE id = 3",
    ):
        run(owner, statement)
        assert jobs(owner) == 0, statement
    run(owner, "UPDATE docs SET body = upper(body) WHERE id = 1")
    assert jobs(owner) == 1
    drain(installed)


def test_the_vector_of_a_deleted_row_is_gone_with_the_commit(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    drain(installed)
    run(owner, "DELETE FROM docs WHERE id = 1")
    run(owner, "UPDATE docs SET id = 9 WHERE id = 2")
    assert [row["id"] for row in run(owner, "SELECT id FROM embver_docs_v1.embedding")] == [3]
    run(owner, "TRUNCATE docs")
    assert run(owner, "SELECT id FROM embver_docs_v1.embedding") == []


def test_copy(installed: Installed, owner: Connection, docs: Embver) -> None:
    with owner.cursor().copy("COPY docs FROM STDIN") as copy:
        for number in range(100, 1100):
            copy.write_row((number, f"copied {number}", "by copy", 1))
    drain(installed)
    assert value(owner, "SELECT count(*) FROM embver_docs_v1.embedding") == 1003


def test_foreign_keys_cascade_into_the_source(installed: Installed, owner: Connection) -> None:
    run(owner, "CREATE TABLE parent (id int PRIMARY KEY)")
    run(
        owner,
        "CREATE TABLE docs (parent int REFERENCES parent ON DELETE CASCADE"
        " ON UPDATE CASCADE, n int, title text, body text, PRIMARY KEY (parent, n))",
    )
    run(owner, "INSERT INTO parent SELECT generate_series(1, 4)")
    run(
        owner,
        "INSERT INTO docs SELECT p, n, 'p' || p, 'n' || n"
        " FROM generate_series(1, 4) p, generate_series(1, 3) n",
    )
    with installed.embver() as embver:
        register(embver)
        drain(installed)
        run(owner, "DELETE FROM parent WHERE id = 1")
        run(owner, "UPDATE parent SET id = 20 WHERE id = 2")
        assert jobs(owner) == 3
        drain(installed)
        with owner.transaction():
            run(owner, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            run(owner, "DELETE FROM parent WHERE id = 3")
            run(owner, "UPDATE parent SET id = 40 WHERE id = 4")
        drain(installed)
    assert value(owner, "SELECT count(*) FROM embver_docs_v1.embedding") == 6


def test_set_null_and_set_default_cascades_change_content(
    installed: Installed, owner: Connection
) -> None:
    run(owner, "CREATE TABLE tag (tag text PRIMARY KEY)")
    run(owner, "INSERT INTO tag VALUES ('red'), ('none'), ('blue')")
    run(
        owner,
        "CREATE TABLE docs (id int PRIMARY KEY, title text,"
        " body text DEFAULT 'none' REFERENCES tag ON DELETE SET DEFAULT ON UPDATE CASCADE)",
    )
    run(owner, "INSERT INTO docs VALUES (1, 'a', 'red'), (2, 'b', 'blue')")
    with installed.embver() as embver:
        register(embver)
        drain(installed)
        run(owner, "DELETE FROM tag WHERE tag = 'red'")
        run(owner, "UPDATE tag SET tag = 'navy' WHERE tag = 'blue'")
        assert jobs(owner) == 2
        drain(installed)


def test_writers_without_any_right_on_the_engine(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    run(owner, "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON docs TO embver_stranger")
    run(
        owner,
        "CREATE FUNCTION writer() RETURNS void LANGUAGE sql SECURITY DEFINER"
        " SET search_path = '' AS"
        " $$ UPDATE public.docs SET body = 'by a definer' WHERE id = 3 $$",
    )
    drain(installed)
    with installed.connect("stranger") as stranger:
        run(stranger, "SET search_path = ''")
        run(stranger, "INSERT INTO public.docs VALUES (9, 'by a', 'stranger', 1)")
        run(stranger, "UPDATE public.docs SET body = 'by a stranger' WHERE id = 1")
        run(stranger, "DELETE FROM public.docs WHERE id = 2")
        run(stranger, "SELECT public.writer()")
    drain(installed)
    with installed.connect("stranger") as stranger:
        run(stranger, "TRUNCATE public.docs")
    drain(installed)


def test_names_in_the_writers_search_path_mislead_nobody(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    run(owner, "CREATE SCHEMA evil")
    run(
        owner,
        "CREATE FUNCTION evil.hash(text) RETURNS bytea LANGUAGE sql AS $$ SELECT 'x'::bytea $$",
    )
    run(
        owner,
        "CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS"
        " $$ SELECT 'nonsense' $$",
    )
    run(owner, "CREATE TEMPORARY TABLE docs (id int)")
    run(owner, "SET search_path = evil, pg_catalog, public")
    run(owner, "INSERT INTO public.docs VALUES (9, 'in', 'spite', 1)")
    run(owner, "DELETE FROM public.docs WHERE id = 1")
    drain(installed)


def test_replica_role_is_captured(installed: Installed, owner: Connection, docs: Embver) -> None:
    drain(installed)
    with installed.connect("admin") as admin:
        run(admin, "SET session_replication_role = replica")
        run(admin, "UPDATE docs SET body = 'replicated' WHERE id = 1")
        run(admin, "DELETE FROM docs WHERE id = 2")
        run(admin, "INSERT INTO docs VALUES (8, 'repl', 'ica', 1)")
    drain(installed)


@pytest.mark.parametrize("isolation", ISOLATION[1:])
@pytest.mark.parametrize(
    "removal",
    [
        "DELETE FROM docs WHERE id = 9",
        "UPDATE docs SET id = 10 WHERE id = 9",
        "UPDATE docs SET id = id + 10",
        "TRUNCATE docs",
        "MERGE INTO docs USING (VALUES (9)) s (id) ON docs.id = s.id WHEN MATCHED THEN DELETE",
    ],
)
def test_a_vector_younger_than_the_writers_snapshot(
    installed: Installed, owner: Connection, docs: Embver, isolation: str, removal: str
) -> None:
    """SQL-NOTES 3: the trigger cannot see the vector, so it leaves the worker a note."""
    drain(installed)
    run(owner, "INSERT INTO docs VALUES (9, 'a row', 'without a vector', 1)")
    with installed.connect() as writer:
        run(writer, f"BEGIN ISOLATION LEVEL {isolation}")
        run(writer, "SELECT count(*) FROM docs")  # the snapshot
        drain(installed)  # now the vector is there
        run(writer, removal)
        run(writer, "COMMIT")
    if removal != "UPDATE docs SET id = id + 10":
        assert value(owner, "SELECT count(*) FROM embver_docs_v1.embedding WHERE id = 9") == 1
    drain(installed)


def test_a_tombstone_hides_the_document_from_search(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    drain(installed)
    docs.collection("docs").promote()
    run(owner, "INSERT INTO docs VALUES (9, 'unique', 'wording', 1)")
    with installed.connect() as writer:
        run(writer, "BEGIN ISOLATION LEVEL REPEATABLE READ")
        run(writer, "SELECT count(*) FROM docs")
        drain(installed)
        run(writer, "DELETE FROM docs WHERE id = 9")
        run(writer, "COMMIT")
    assert jobs(owner) == 1
    hits = docs.collection("docs").search("unique wording", k=10)
    assert sorted(hit.id for hit in hits) == [1, 2, 3]
    for view in ("current", "versions"):
        found = run(owner, f"SELECT id FROM embver_docs.{view} ORDER BY id")
        assert [row["id"] for row in found] == [1, 2, 3]
    drain(installed)


def test_an_update_that_commits_while_its_document_is_encoded(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    """SQL-NOTES 1: the worker has read the old content when the new one is committed."""
    with installed.connect() as writer:
        run(writer, "BEGIN")
        run(writer, "UPDATE docs SET body = 'uncommitted' WHERE id = 1")

        def step(name: str, figures: dict[str, object]) -> None:
            if name == "claimed" and writer.info.transaction_status != 0:
                run(writer, "COMMIT")

        worker = installed.new_worker("owner", on_step=step)
        # The barrier of the walk waits for the writer; enqueue by hand, as an application would.
        run(owner, "INSERT INTO embver_docs_v1.job (id) SELECT id FROM docs")
        worker.run(drain=True)
        worker.database.close()
    drain(installed)


def test_concurrent_writers_and_workers(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    run(owner, "INSERT INTO docs SELECT i, 't', 'b', 1 FROM generate_series(10, 60) i")
    failures: list[BaseException] = []

    def write(seed: int) -> None:
        try:
            with installed.connect() as connection:
                for turn in range(40):
                    key = 10 + (seed * 17 + turn * 7) % 50
                    level = ISOLATION[(seed + turn) % 3]
                    try:
                        with connection.transaction():
                            run(connection, f"SET TRANSACTION ISOLATION LEVEL {level}")
                            if turn % 5 == 4:
                                run(connection, f"DELETE FROM docs WHERE id = {key}")
                            else:
                                run(
                                    connection,
                                    f"INSERT INTO docs VALUES ({key}, 't{seed}',"
                                    f" 'b{turn}', 1) ON CONFLICT (id) DO UPDATE"
                                    " SET title = excluded.title, body = excluded.body",
                                )
                    except psycopg.errors.SerializationFailure:
                        continue
        except BaseException as error:
            failures.append(error)

    def work() -> None:
        worker = installed.new_worker("worker", batch=8)
        try:
            worker.run(drain=True)
        except BaseException as error:
            failures.append(error)
        finally:
            worker.database.close()

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    threads += [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    drain(installed)


def test_a_content_column_with_another_collation(installed: Installed, owner: Connection) -> None:
    with installed.connect("admin") as admin:
        try:
            run(
                admin,
                "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2',"
                " deterministic = false)",
            )
            icu = True
        except psycopg.errors.FeatureNotSupported:  # a server built without ICU
            icu = False
    collation = "ci" if icu else '"C"'
    run(
        owner,
        'CREATE TABLE docs (id text COLLATE "C" PRIMARY KEY, title text COLLATE "POSIX",'
        f" body text COLLATE {collation})",
    )
    run(owner, "INSERT INTO docs VALUES ('a', 'Title', 'Body'), ('A', 'x', 'y')")
    with installed.embver() as embver:
        register(embver, content='title || (body COLLATE "C")')
        drain(installed)
        # Equal to a collation that ignores case, and another text all the same.
        run(owner, "UPDATE docs SET body = 'BODY' WHERE id = 'a'")
        assert jobs(owner) == 1
        drain(installed)


def test_two_live_versions_get_every_write(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    drain(installed)
    collection = docs.collection("docs")
    collection.promote()
    collection.add_version("hash:16", metric="l2", element_type="halfvec")
    collection.start_rollout(2)
    run(owner, "INSERT INTO docs VALUES (5, 'five', 'x', 1)")
    drain(installed)
    run(owner, "UPDATE docs SET body = 'changed' WHERE id < 3")
    run(owner, "UPDATE docs SET id = 30 WHERE id = 3")
    run(owner, "DELETE FROM docs WHERE id = 5")
    drain(installed)
    run(owner, "TRUNCATE docs")
    drain(installed)


def test_two_collections_on_one_source(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    register(docs, content="title", name="titles", encoder="hash:4")
    run(owner, "UPDATE docs SET body = 'not in the titles' WHERE id = 1")
    drain(installed)
    run(owner, "UPDATE docs SET body = 'again' WHERE id = 1")
    assert (jobs(owner), jobs(owner, "embver_titles_v1")) == (1, 0)
    run(owner, "DELETE FROM docs WHERE id = 2")
    drain(installed)
