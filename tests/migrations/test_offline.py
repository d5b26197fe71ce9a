"""What ``--sql`` prints, run by psql, makes the same schema as the online way."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from embver_pg import embedded, schema
from embver_pg.cli import main
from tests import servers
from tests.conftest import Installed
from tests.waiting import PATIENCE

pytestmark = pytest.mark.both_versions

# Everything that embver-pg makes, without what differs by nature: object numbers and moments.
CATALOG = {
    "schemas": """
        SELECT n.nspname, pg_get_userbyid(n.nspowner), array(SELECT a::text
            FROM unnest(n.nspacl) AS a ORDER BY 1), obj_description(n.oid, 'pg_namespace')
        FROM pg_namespace AS n WHERE n.nspname LIKE 'embver%'""",
    "relations": """
        SELECT c.oid::regclass::text, c.relkind, pg_get_userbyid(c.relowner), c.reloptions,
            c.relrowsecurity, array(SELECT a::text FROM unnest(c.relacl) AS a ORDER BY 1),
            obj_description(c.oid, 'pg_class'),
            CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid)
                WHEN c.relkind = 'i' THEN pg_get_indexdef(c.oid) END
        FROM pg_class AS c WHERE c.relnamespace::regnamespace::text LIKE 'embver%'
            AND c.relkind <> 't'""",
    "columns": """
        SELECT a.attrelid::regclass::text, a.attnum, a.attname,
            format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
            pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum)
        FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d
            ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid IN (SELECT c.oid
            FROM pg_class AS c WHERE c.relnamespace::regnamespace::text LIKE 'embver%')""",
    "constraints": """
        SELECT k.conrelid::regclass::text, k.conname, pg_get_constraintdef(k.oid)
        FROM pg_constraint AS k WHERE k.connamespace::regnamespace::text LIKE 'embver%'""",
    "functions": """
        SELECT p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid)),
            pg_get_userbyid(p.proowner), array(SELECT a::text FROM unnest(p.proacl) AS a
            ORDER BY 1), obj_description(p.oid, 'pg_proc')
        FROM pg_proc AS p WHERE p.pronamespace::regnamespace::text LIKE 'embver%'""",
    "policies": "SELECT p.* FROM pg_policies AS p WHERE p.schemaname LIKE 'embver%'",
    "triggers": """
        SELECT t.tgrelid::regclass::text, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled
        FROM pg_trigger AS t WHERE NOT t.tgisinternal""",
    "templates": "SELECT t.name, md5(t.body) FROM embver_internal.template AS t",
    "versions": """
        SELECT c.name, v.version, v.state, v.encoder, v.fingerprint, v.dimensions, v.metric,
            v.element_type, v.index_spec
        FROM embver_internal.version AS v JOIN embver_internal.collection AS c
            USING (collection_id)""",
    "canaries": """
        SELECT c.version, c.probe, c.probe_text, c.vector FROM embver_internal.canary AS c""",
    "events": """
        SELECT e.actor, e.collection, e.version, e.kind, e.after FROM embver_internal.event AS e""",
    "revision": "SELECT v.version_num FROM embver_internal.alembic_version AS v",
}


def catalog(url: str, *stores: str) -> dict[str, list[Any]]:
    """Every object by kind, in a fixed order."""
    queries = dict(CATALOG)
    for store in stores:
        queries[store] = f"SELECT v.version_num FROM {store}.alembic_version AS v"
    with psycopg.connect(url) as connection:
        return {
            name: sorted(connection.execute(query.encode()).fetchall(), key=repr)
            for name, query in queries.items()
        }


def psql(url: str, script: str) -> None:
    """Run a script as a DBA would."""
    program = str(embedded.bin_dir(servers.server().version) / "psql")
    command = [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", url]
    result = subprocess.run(
        command, input=script, text=True, capture_output=True, check=False, timeout=PATIENCE
    )
    assert result.returncode == 0, result.stderr


def at(admin: str) -> Installed:
    """A database by its URLs for the roles of the tests."""
    name = urlsplit(admin).path.removeprefix("/")
    owner, worker, reader, stranger = (servers.server().url(name, role) for role in servers.ROLES)
    return Installed(owner, worker, reader, stranger, admin)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.fixture
def empty() -> Iterator[Installed]:
    """A database with pgvector and the rights to install, without embver-pg."""
    server = servers.server()
    servers.create_roles(server)
    admin = servers.create_database(server, "offline_empty", owner="embver_owner")
    yield at(admin)
    servers.drop_database(server, admin)


@pytest.fixture
def pair(installed: Installed) -> Iterator[tuple[Installed, Installed]]:
    """Two databases with the same collection ``docs`` and no version."""
    server = servers.server()
    with installed.connect() as owner, installed.embver() as embver:
        owner.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, tenant int)")
        owner.execute("INSERT INTO docs VALUES (1, 'one', 1), (2, 'two', 2)")
        embver.create_collection("docs", "public.docs", "title")
    template = urlsplit(installed.admin).path.removeprefix("/")
    admin = servers.clone_database(server, template, owner="embver_owner")
    yield installed, at(admin)
    servers.drop_database(server, admin)


def test_init_sql_equals_online(
    installed: Installed,
    empty: Installed,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBVER_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    psql(empty.owner, printed(capsys, "init", "--sql"))  # it asks no database
    assert catalog(empty.admin) == catalog(installed.admin)


def test_version_add_sql_equals_online(
    pair: tuple[Installed, Installed], capsys: pytest.CaptureFixture[str]
) -> None:
    online, offline = pair
    add = ("version", "add", "docs", "hash:16", "--metric", "l2", "--element-type", "halfvec")
    before = catalog(offline.admin)
    script = printed(capsys, "--database-url", offline.owner, *add, "--m", "8", "--sql")
    assert catalog(offline.admin) == before
    psql(offline.owner, script)
    printed(capsys, "--database-url", online.owner, *add, "--m", "8")
    assert catalog(offline.admin, "embver_docs_v1") == catalog(online.admin, "embver_docs_v1")
    with offline.embver() as embver:  # and it works
        collection = embver.collection("docs")
        collection.start_rollout(1)
        assert embver.drain().written == 2
        collection.promote()
        assert collection.search("two", k=1)[0].id == 2


def test_a_script_for_a_taken_number_changes_nothing(
    pair: tuple[Installed, Installed], capsys: pytest.CaptureFixture[str]
) -> None:
    _, offline = pair
    add = ("--database-url", offline.owner, "version", "add", "docs", "hash:16")
    script = printed(capsys, *add, "--sql")
    printed(capsys, *add)
    before = catalog(offline.admin)
    with pytest.raises(AssertionError, match="the next version is 2, not 1"):
        psql(offline.owner, script)
    assert catalog(offline.admin) == before


def test_upgrade_sql_brings_routines_back(
    pair: tuple[Installed, Installed], capsys: pytest.CaptureFixture[str]
) -> None:
    online, damaged = pair
    for each in pair:
        printed(capsys, "--database-url", each.owner, "version", "add", "docs", "hash:16")
    schema.init(online.owner)
    with damaged.connect() as owner:
        owner.execute(
            "CREATE OR REPLACE FUNCTION embver.hash(content text) RETURNS bytea"
            " LANGUAGE sql IMMUTABLE AS $$ SELECT '\\x00'::bytea $$"
        )
        owner.execute("DROP FUNCTION embver_docs_v1.count_vectors()")
    script = printed(capsys, "--database-url", damaged.owner, "upgrade", "--sql")
    psql(damaged.owner, script)
    assert catalog(damaged.admin, "embver_docs_v1") == catalog(online.admin, "embver_docs_v1")
