"""Every object of ours, enumerated from the catalog, keeps the conventions of STYLE."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests import servers
from tests.conftest import Installed, new_database
from tests.sql.support import Connection, run

pytestmark = pytest.mark.both_versions

OURS = "n.nspname ~ '^embver'"

# Functions that must see every row of the source, or write what their caller may not.
SECURITY_DEFINER = {
    "embver_internal.acquire_encoder",
    "embver_internal.forget_worker",
    "embver_internal.grant_to_owner",
    "embver_internal.record_coverage",
    "embver_internal.record_spend",
    "embver_internal.register_worker",
    "embver_internal.store_canary",
    "embver_internal.release_encoder",
    "embver_internal.reserve_spend",
    "embver_internal.settle_spend",
    "embver_internal.worker_seen",
    "embver_internal.worker_throttled",
    "embver_docs.capture_delete",
    "embver_docs.capture_delete_by_name",
    "embver_docs.capture_insert",
    "embver_docs.capture_insert_by_name",
    "embver_docs.capture_truncate",
    "embver_docs.capture_update",
    "embver_docs.capture_update_by_name",
    "embver_docs.count_documents",
    "embver_docs.document_names",
    "embver_docs.sample_documents",
    "embver_docs_v1.record_bridge",
    "embver_docs_v1.measure_coverage",
    "embver_docs_v1.claim_norms",
    "embver_docs_v1.record_norms",
    "embver_docs_v1.use_bridge",
    "embver_docs_v1.drop_bridge",
    "embver_docs_v1.begin_lease",
    "embver_docs_v1.bridge_pairs",
    "embver_docs_v1.bridge_problem",
    "embver_docs_v1.claim_norm_page",
    "embver_docs_v1.changed_since",
    "embver_docs_v1.claim",
    "embver_docs_v1.claim_index_build",
    "embver_docs_v1.clear_queue",
    "embver_docs_v1.complete",
    "embver_docs_v1.count_vectors",
    "embver_docs_v1.dead_letters",
    "embver_docs_v1.differences",
    "embver_docs_v1.extend_leases",
    "embver_docs_v1.give_back",
    "embver_docs_v1.is_owed",
    "embver_docs_v1.queue_status",
    "embver_docs_v1.request_rewalk",
    "embver_docs_v1.requeue",
    "embver_docs_v1.sample_origin",
    "embver_docs_v1.start_walk",
    "embver_docs_v1.unaccounted",
    "embver_docs_v1.verify_step",
    "embver_docs_v1.waive",
    "embver_docs_v1.walk_status",
    "embver_docs_v1.walk_step",
}
# Functions that PUBLIC may execute (where it may use the schema): they write nothing.
PUBLIC = {
    "embver.hash",
    "embver_docs.as_row",
    "embver_docs.content",
    "embver_docs.key_1",
    "embver_docs.search",
}


@pytest.fixture(scope="module")
def catalog() -> Iterator[Connection]:
    """A database with one collection and one store, seen by the superuser."""
    server = servers.server()
    installed: Installed = new_database(server)
    with installed.connect() as owner, installed.embver() as embver:
        run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
        collection = embver.create_collection("docs", "public.docs", "title || body")
        collection.add_version("hash:8")
        collection.start_rollout(1)
        embver.drain()
    with installed.connect("admin") as connection:
        yield connection
    servers.drop_database(server, installed.admin)


def functions(catalog: Connection) -> list[dict[str, Any]]:
    return run(
        catalog,
        "SELECT n.nspname || '.' || p.proname AS name, p.oid::regprocedure::text AS signature,"
        " p.prosrc, p.prosqlbody IS NOT NULL AS parsed, p.provolatile::text AS volatility,"
        " p.prosecdef, p.proconfig, l.lanname, obj_description(p.oid, 'pg_proc') AS comment,"
        " has_function_privilege('public', p.oid, 'EXECUTE') AS is_public, p.proargnames,"
        " p.proargmodes::text[] AS modes, pg_get_functiondef(p.oid) AS definition"
        " FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        f" JOIN pg_language l ON l.oid = p.prolang WHERE {OURS}",
    )


def test_search_paths_are_pinned(catalog: Connection) -> None:
    found = functions(catalog)
    assert len(found) > 90
    for function in found:
        paths = [s for s in function["proconfig"] or [] if s.startswith("search_path=")]
        if function["parsed"]:
            continue  # names are bound already; a pin would keep it from being inlined
        assert paths == ["search_path=pg_catalog, public, pg_temp"], function["signature"]


def test_security_definers_are_these(catalog: Connection) -> None:
    found = {f["name"] for f in functions(catalog) if f["prosecdef"]}
    assert found == SECURITY_DEFINER


def test_definers_are_not_public_and_belong_to_the_owner(catalog: Connection) -> None:
    for function in functions(catalog):
        if function["prosecdef"]:
            assert not function["is_public"], function["signature"]
    owners = run(
        catalog,
        "SELECT DISTINCT pg_get_userbyid(p.proowner) AS owner FROM pg_proc p"
        f" JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {OURS}",
    )
    assert owners == [{"owner": "embver_owner"}]


def test_public_may_execute_only_these(catalog: Connection) -> None:
    found = {f["name"] for f in functions(catalog) if f["is_public"]}
    assert found == PUBLIC


def test_everything_has_a_comment(catalog: Connection) -> None:
    for function in functions(catalog):
        assert function["comment"], function["signature"]
        assert not function["comment"].startswith(" ")
    bare = run(
        catalog,
        "SELECT c.oid::regclass::text AS name FROM pg_class c"
        f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}"
        " AND c.relkind IN ('r', 'v', 'p') AND c.relname <> 'alembic_version'"
        " AND obj_description(c.oid, 'pg_class') IS NULL ORDER BY 1",
    )
    assert bare == []
    bare = run(
        catalog,
        "SELECT n.nspname FROM pg_namespace n WHERE n.nspname"
        " IN ('embver', 'embver_internal')"
        " AND obj_description(n.oid, 'pg_namespace') IS NULL",
    )
    assert bare == []
    bare = run(
        catalog,
        "SELECT t.typname FROM pg_type t JOIN pg_namespace n"
        " ON n.oid = t.typnamespace JOIN pg_class c ON c.oid = t.typrelid"
        f" WHERE {OURS} AND c.relkind = 'c' AND n.nspname = 'embver'"
        " AND obj_description(t.oid, 'pg_type') IS NULL",
    )
    assert bare == []


def test_writers_are_volatile(catalog: Connection) -> None:
    """A function that is not VOLATILE holds no statement that writes."""
    for function in functions(catalog):
        if function["volatility"] == "v" or function["lanname"] not in ("sql", "plpgsql"):
            continue
        body = re.sub(r"'[^']*'", "", function["definition"])
        for verb in (
            "INSERT INTO",
            "UPDATE embver",
            "DELETE FROM",
            "CREATE ",
            "DROP ",
            "GRANT ",
            "FOR UPDATE",
            "FOR NO KEY UPDATE",
        ):
            assert verb not in body.partition("\n")[2], (function["signature"], verb)


def test_names(catalog: Connection) -> None:
    """The API has bare parameter names; internals p_, locals v_."""
    for function in functions(catalog):
        given = [
            name
            for name, mode in zip(
                function["proargnames"] or [],
                function["modes"] or ["i"] * len(function["proargnames"] or []),
                strict=True,
            )
            if mode in ("i", "b")
        ]
        space = function["name"].partition(".")[0]
        for name in given:
            if space == "embver" or function["name"] == "embver_docs.search":
                assert not name.startswith("p_"), function["signature"]
            elif space != "embver_docs":
                assert name.startswith("p_"), function["signature"]
        if function["lanname"] == "plpgsql":
            locals_ = function["prosrc"].partition("BEGIN")[0].partition("DECLARE")[2]
            for line in locals_.splitlines():
                word = line.split()[:1]
                if line.startswith("    ") and not line.startswith("     ") and word:
                    assert word[0].startswith(("v_", "embver_", "--")), (function["name"], line)


def test_indexes_and_constraints_are_named(catalog: Connection) -> None:
    names = run(
        catalog,
        "SELECT x.relname AS index, t.relname AS table, i.indisprimary, i.indisunique"
        " FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid"
        " JOIN pg_class t ON t.oid = i.indrelid"
        f" JOIN pg_namespace n ON n.oid = t.relnamespace WHERE {OURS}",
    )
    for row in names:
        suffix = "_pkey" if row["indisprimary"] else "_key" if row["indisunique"] else "_idx"
        if row["table"] != "alembic_version":
            assert row["index"].startswith(row["table"]), row
            assert row["index"].endswith(suffix), row
    checks = run(
        catalog,
        "SELECT c.conname, t.relname FROM pg_constraint c"
        " JOIN pg_class t ON t.oid = c.conrelid"
        f" JOIN pg_namespace n ON n.oid = t.relnamespace WHERE {OURS}"
        " AND c.contype = 'c'",
    )
    for row in checks:
        assert row["conname"].startswith(row["relname"]), row
        assert row["conname"].endswith("_check"), row


def test_timestamps_end_in_at(catalog: Connection) -> None:
    columns = run(
        catalog,
        "SELECT a.attrelid::regclass::text AS table, a.attname,"
        " format_type(a.atttypid, NULL) AS type"
        " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}"
        " AND c.relkind = 'r' AND a.attnum > 0"
        " AND format_type(a.atttypid, NULL) LIKE 'timestamp%'",
    )
    assert columns
    for row in columns:
        assert row["type"].startswith("timestamp with time zone"), row
        assert row["attname"].endswith(("at", "_until")), row


def test_capture_triggers_always_fire_once_a_statement(catalog: Connection) -> None:
    triggers = run(
        catalog,
        "SELECT tgname, tgenabled::text AS enabled, tgtype & 1 AS is_row"
        " FROM pg_trigger WHERE tgrelid = 'docs'::regclass"
        " AND NOT tgisinternal ORDER BY tgname",
    )
    assert [row["tgname"] for row in triggers] == [
        f"embver_docs_{event}" for event in ("delete", "insert", "truncate", "update")
    ]
    assert {row["enabled"] for row in triggers} == {"A"}
    assert {row["is_row"] for row in triggers} == {0}


def test_views_read_with_the_rights_of_the_caller(catalog: Connection) -> None:
    views = run(
        catalog,
        "SELECT c.oid::regclass::text AS name, coalesce('security_invoker=true'"
        " = ANY (c.reloptions), false) AS invoker FROM pg_class c"
        f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}"
        " AND c.relkind = 'v'",
    )
    assert {row["name"] for row in views if not row["invoker"]} == {"embver_docs.document"}
    readers = run(
        catalog,
        "SELECT has_table_privilege('embver_r', 'embver_docs.document',"
        " 'SELECT') AS reads, has_table_privilege('embver_w',"
        " 'embver_docs.document', 'SELECT') AS works",
    )
    assert readers == [{"reads": False, "works": False}]


def test_no_template_mark_is_left(catalog: Connection) -> None:
    for function in functions(catalog):
        if function["name"].startswith("embver_docs"):
            assert "{{" not in function["definition"], function["name"]
