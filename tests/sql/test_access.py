"""Who may do what: readers see what the source lets them see, strangers nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from embver_pg.client import Embver
from tests import servers
from tests.conftest import Installed
from tests.sql.support import (
    BODY,
    Connection,
    check_stores,
    drain,
    encode,
    register,
    run,
    value,
)

pytestmark = pytest.mark.both_versions

# Roles are the whole server's: each process of a run has its own.
_PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "main")
SECOND, APP = f"embver_second_admin_{_PROCESS}", f"embver_app_{_PROCESS}"
SEARCH = (
    "SELECT id FROM embver_docs.search(ARRAY[embver.query('docs', 1, %s)], 10, filter => %s,"
    " options => %s)"
)


def found(connection: Connection, filter: object = None, exact: bool = False) -> list[int]:
    rows = run(
        connection,
        SEARCH,
        (encode("title 2"), Jsonb(filter) if filter else None, Jsonb({"exact": exact})),
    )
    return sorted(row["id"] for row in rows)


def denied(connection: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(connection, statement)


@pytest.fixture
def active(installed: Installed, owner: Connection, docs: Embver) -> Embver:
    drain(installed)
    docs.collection("docs").promote()
    return docs


def test_a_reader_sees_only_own_rows(
    installed: Installed, owner: Connection, active: Embver
) -> None:
    with installed.connect("reader") as reader:
        assert found(reader) == [1, 2, 3]
        # Enabled after the fact, and seen by the plans that exist already.
        run(owner, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        assert found(reader) == []
        run(owner, "CREATE POLICY own ON docs FOR SELECT USING (tenant = 1)")
        for _ in range(7):
            assert found(reader) == [1, 3]
        assert found(reader, exact=True) == [1, 3]
        assert found(reader, {"id": {"$lte": 2}}) == [1]
        assert found(reader, {"id": {"$lte": 2}}, exact=True) == [1]
        for view in ("current", "versions", "visible"):
            rows = run(reader, f"SELECT id FROM embver_docs.{view} ORDER BY id")
            assert [row["id"] for row in rows] == [1, 3], view
        rows = run(reader, "SELECT id FROM embver_docs_v1.embedding ORDER BY id")
        assert [row["id"] for row in rows] == [1, 3]
        # The engine itself works on, for every row.
        run(owner, "UPDATE docs SET body = 'changed'")
        run(owner, "INSERT INTO docs VALUES (4, 'new', 'row', 0)")
        drain(installed, role="worker")
        run(owner, "UPDATE docs SET tenant = 1 - tenant")
        assert found(reader) == [2, 4]
        run(owner, "ALTER TABLE docs DISABLE ROW LEVEL SECURITY")
        assert found(reader) == [1, 2, 3, 4]


def test_a_writer_under_row_level_security(
    installed: Installed, owner: Connection, active: Embver
) -> None:
    run(owner, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    run(owner, "CREATE POLICY own ON docs USING (tenant = 1) WITH CHECK (true)")
    run(owner, "GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO embver_stranger")
    with installed.connect("stranger") as stranger:
        run(stranger, "UPDATE docs SET body = 'mine' WHERE id = 1")
        run(stranger, "UPDATE docs SET body = 'not mine' WHERE id = 2")
        run(stranger, "DELETE FROM docs WHERE id = 3")
        run(stranger, "INSERT INTO docs VALUES (5, 'out', 'of my sight', 0)")
    drain(installed, role="worker")


def test_a_reader_without_the_source_gets_nothing(
    installed: Installed, owner: Connection, active: Embver
) -> None:
    run(owner, "REVOKE SELECT ON docs FROM embver_r")
    with installed.connect("reader") as reader:
        for statement in (
            "SELECT * FROM embver_docs.current",
            "SELECT * FROM embver_docs.versions",
            "SELECT * FROM embver_docs.visible",
            "SELECT * FROM embver_docs_v1.embedding",
            "SELECT * FROM embver_docs.search(ARRAY[embver.query('docs', 1, '[1,0,0,0,0,0,0,0]')])",
        ):
            denied(reader, statement)


def test_what_a_reader_cannot_do(installed: Installed, owner: Connection, active: Embver) -> None:
    with installed.connect("reader") as reader:
        for statement in (
            "INSERT INTO docs VALUES (9, 'a', 'b')",
            "UPDATE embver_docs_v1.embedding SET content_hash = ''",
            "DELETE FROM embver_docs_v1.embedding",
            "SELECT * FROM embver_docs_v1.job",
            "SELECT * FROM embver_docs_v1.lease",
            "SELECT * FROM embver_docs_v1.dead_letter",
            "SELECT * FROM embver_docs_v1.walk",
            "SELECT * FROM embver_docs_v1.claim(gen_random_uuid(), 1)",
            "SELECT embver_docs_v1.request_rewalk()",
            "SELECT embver_docs_v1.count_vectors()",
            "SELECT * FROM embver_docs.document",
            "SELECT * FROM embver_docs.document_names()",
            "SELECT * FROM embver.dead_letters",
            "SELECT * FROM embver.queue",
            "SELECT * FROM embver.events",
            "SELECT * FROM embver.golden_sets",
            "SELECT * FROM embver_internal.golden_query",
            "SELECT * FROM embver_internal.event",
            "SELECT * FROM embver_internal.template",
            "SELECT embver_internal.store_canary('docs', 1, '{x}', '{y}')",
            "SELECT embver.forget_canary('docs', 1, 'x')",
            "DELETE FROM embver_internal.canary",
            "UPDATE embver_internal.route SET active = 2",
            "SELECT embver.promote('docs')",
            "SELECT embver.rollback('docs')",
            "SELECT embver.start_rollout('docs', 1)",
            "SELECT embver.drop_collection('docs')",
            "SELECT embver.create_collection('x', 'docs', 'title')",
            "SELECT embver.verify('docs', 1)",
            "SELECT embver.requeue('docs', 1)",
            "SELECT embver_internal.grant_to_owner('embver_r')",
            "SELECT embver_internal.execute_as('embver_owner', 'DROP TABLE docs')",
            "SELECT embver_internal.register_worker(gen_random_uuid(), '', 1, '')",
            "CREATE TABLE embver_docs.mine ()",
            "CREATE TABLE embver_docs_v1.mine ()",
            "CREATE FUNCTION embver.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ):
            denied(reader, statement)


def test_what_a_worker_can_do(installed: Installed, owner: Connection, active: Embver) -> None:
    run(owner, "INSERT INTO docs VALUES (7, 'by', 'a worker', 0)")
    drain(installed, role="worker")
    with installed.connect("worker") as worker:
        for statement in (
            "SELECT * FROM docs",
            "SELECT * FROM embver_docs.document",
            "SELECT * FROM embver_docs.current",
            "SELECT * FROM embver_docs_v1.embedding",
            "SELECT * FROM embver_docs_v1.job",
            "SELECT * FROM embver_docs_v1.lease",
            "SELECT * FROM embver_docs_v1.dead_letter",
            "SELECT * FROM embver_docs_v1.dead_letters()",
            "SELECT * FROM embver_docs_v1.differences()",
            "SELECT embver_docs_v1.waive('{}', 'x')",
            "SELECT embver_docs_v1.requeue('all')",
            "SELECT embver_docs_v1.clear_queue()",
            "SELECT embver_docs_v1.start_walk()",
            "SELECT * FROM embver_internal.golden_query",
            "SELECT * FROM embver_internal.golden_judgment",
            "SELECT * FROM embver_internal.event",
            "SELECT * FROM embver.dead_letters",
            "SELECT embver.promote('docs')",
            "SELECT embver.forget_canary('docs', 1, 'x')",
            "INSERT INTO embver_internal.canary VALUES (1, 1, 7, '\"x\"', '{1}')",
            "DELETE FROM embver_internal.canary",
            "UPDATE embver_internal.version SET state = 'retired'",
            "SELECT embver_internal.grant_to_owner('embver_w')",
            "DELETE FROM embver_docs_v1.embedding",
        ):
            denied(worker, statement)


def test_a_stranger_can_nothing(installed: Installed, owner: Connection, active: Embver) -> None:
    """Every relation and function of ours, from the catalog; only usage of a schema is asked."""
    with installed.connect("admin") as admin:
        schemas = run(admin, "SELECT nspname FROM pg_namespace WHERE nspname ~ '^embver'")
        assert {row["nspname"] for row in schemas} == {
            "embver",
            "embver_internal",
            "embver_docs",
            "embver_docs_v1",
        }
        for row in schemas:
            for privilege in ("USAGE", "CREATE"):
                assert not value(
                    admin,
                    "SELECT has_schema_privilege('embver_stranger', %s, %s)",
                    (row["nspname"], privilege),
                ), row
        open_relations = run(
            admin,
            "SELECT c.oid::regclass::text AS name FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname ~ '^embver'"
            " AND c.relkind IN ('r', 'v', 'p') AND has_table_privilege('embver_stranger', c.oid,"
            " 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')",
        )
        assert open_relations == []
    with installed.connect("stranger") as stranger:
        for statement in (
            "SELECT * FROM embver.collections",
            "SELECT embver.hash('x')",
            "SELECT * FROM embver.route('docs')",
            "SELECT * FROM embver_docs.current",
            "SELECT * FROM embver_docs_v1.embedding",
            "SELECT embver_docs.content(NULL::docs)",
        ):
            denied(stranger, statement)


@pytest.fixture
def second_admin(installed: Installed) -> Iterator[tuple[str, str]]:
    """URLs of an admin who is not the installer, and of a plain role that owns tables."""
    server = servers.server()
    name = installed.admin.partition("?")[0].rpartition("/")[2]
    roles = (SECOND, APP)
    with installed.connect("admin") as admin:
        for role in roles:
            run(admin, f"DROP ROLE IF EXISTS {role}")
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            admin.execute(statement.format(sql.Identifier(role), server.password(role)))
        run(admin, f"GRANT embver_admin, {APP} TO {SECOND}")
        database = sql.Identifier(name)
        admin.execute(
            sql.SQL("GRANT CREATE, TEMPORARY ON DATABASE {} TO {}").format(
                database, sql.Identifier(SECOND)
            )
        )
        run(admin, f"GRANT CREATE ON SCHEMA public TO {APP}")
    yield server.url(name, roles[0]), server.url(name, roles[1])
    with installed.connect("admin") as admin:
        for role in reversed(roles):
            run(admin, f"DROP OWNED BY {role} CASCADE")
            run(admin, f"DROP ROLE {role}")


def test_another_admin_registers_a_table_of_a_plain_owner(
    installed: Installed, second_admin: tuple[str, str]
) -> None:
    second, app = second_admin
    with psycopg.connect(app, autocommit=True) as owner:
        owner.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
        owner.execute(
            "INSERT INTO docs SELECT i, 'title ' || i, 'body' FROM generate_series(1, 3) i"
        )
    database = Installed(
        second, installed.worker, installed.reader, installed.stranger, installed.admin
    )
    with database.embver() as embver:
        collection = register(embver, index={"type": "hnsw"})
        drain(database)
        collection.promote()
        collection.add_version("hash:16")
        collection.start_rollout(2)
        with psycopg.connect(app, autocommit=True) as owner:
            owner.execute("UPDATE docs SET body = 'by the owner' WHERE id = 1")
            owner.execute("DELETE FROM docs WHERE id = 3")
        drain(database)
        collection.promote(force=True, reason="a test")
        collection.rollback()
        collection.refresh()
    # The owner, neither admin nor reader, searches the collection of the own table.
    plain = Installed(app, app, app, app, installed.admin)
    with plain.connect() as connection:
        rows = run(connection, "SELECT version FROM embver.route('docs')")
        assert rows == [{"version": 1}]
        assert found(connection) == [1, 2]
        assert found(connection, {"id": 1}) == [1]
        denied(connection, "SELECT embver.promote('docs')")
        denied(connection, "SELECT * FROM embver_internal.golden_query")
    with database.embver() as embver:
        collection = embver.collection("docs")
        collection.start_rollout(2)
        collection.abort_rollout()
        collection.drop_version(2)
        with database.connect() as connection:
            owners = run(
                connection,
                "SELECT DISTINCT pg_get_userbyid(c.relowner) AS owner"
                " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname ~ '^embver_docs' AND c.relkind IN ('r', 'v')"
                " AND c.relname <> 'alembic_version'",
            )
            assert owners == [{"owner": APP}]
        check_stores(database)


def test_an_admin_who_is_no_member_of_the_owner_is_told_what_to_grant(
    installed: Installed, second_admin: tuple[str, str], owner: Connection
) -> None:
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    run(owner, f"GRANT SELECT ON docs TO {APP}")
    with psycopg.connect(second_admin[0], autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT embver.create_collection('docs', 'docs', %s)", (BODY,))
        left = connection.execute("SELECT count(*) FROM embver_internal.collection").fetchone()
        assert left == (0,)


def test_the_owner_cannot_become_the_admin_through_generated_code(
    installed: Installed, second_admin: tuple[str, str]
) -> None:
    """What is generated from the owner's names runs as the owner, and stays inside its quotes."""
    second, app = second_admin
    name = f"x$fn$; RESET ROLE; ALTER ROLE {APP} CREATEROLE; SELECT $fn$"
    with psycopg.connect(app, autocommit=True) as owner:
        owner.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    database = Installed(
        second, installed.worker, installed.reader, installed.stranger, installed.admin
    )
    with database.embver() as embver:
        collection = register(embver)
        with psycopg.connect(app, autocommit=True) as owner:
            renamed = sql.SQL("ALTER TABLE docs RENAME TO {}").format(sql.Identifier(name[:60]))
            owner.execute(renamed)
        with pytest.raises(Exception, match=r"holds \$fn\$"):
            collection.refresh()
        with pytest.raises(Exception, match=r"holds \$fn\$"):
            collection.abort_rollout()
