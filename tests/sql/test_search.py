"""route, query, search and the views: right answers, refusals, plans, settings left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

from embver_pg import codec
from embver_pg.client import Collection, Embver
from tests import servers
from tests.conftest import Installed, new_database
from tests.sql.support import Connection, drain, encode, refused, register, run, value

pytestmark = pytest.mark.both_versions

SEARCH = (
    "SELECT * FROM embver_docs.search(ARRAY[embver.query('docs', %s, %s)], %s,"
    " filter => %s, mode => %s, options => %s)"
)
ROWS = 300


def find(
    connection: Connection,
    version: int,
    vector: codec.Vector,
    k: int = 10,
    filter: Any = None,
    mode: str | None = None,
    options: Any = None,
) -> list[dict[str, Any]]:
    return run(
        connection,
        SEARCH,
        (version, vector, k, None if filter is None else Jsonb(filter), mode, Jsonb(options or {})),
    )


def unit(values: Sequence[float]) -> codec.Vector:
    return codec.Vector(np.array(values, dtype=np.float32))


@pytest.fixture(scope="module")
def filled() -> Any:
    """Version 1 active (hash:8 by cosine, HNSW), 300 rows with columns of many types."""
    server = servers.server()
    installed = new_database(server)
    with installed.connect() as owner, installed.embver() as embver:
        run(owner, "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
        run(owner, "CREATE DOMAIN small AS int CHECK (VALUE < 1000)")
        run(
            owner,
            "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, n int,"
            " f float8, num numeric(6,2), day date, at timestamptz, flag boolean, u uuid,"
            " mood mood, code char(3), v varchar(5), meta jsonb, tags text[], s small,"
            ' p point, "Od d" text, "it\'s ""%s" int, maybe int)',
        )
        run(
            owner,
            "INSERT INTO docs SELECT i, 'word' || i % 40, 'other' || i % 17, i % 10,"
            " i / 4.0, i / 8.0, date '2020-01-01' + i, timestamptz '2020-01-01 00:00Z'"
            "   + i * interval '1 hour', i % 2 = 0,"
            " ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid,"
            " (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::mood, 'ab', 'v' || i % 3,"
            " jsonb_build_object('i', i), ARRAY['t' || i % 2], i, point(i, i),"
            " 'odd ' || i % 5, i % 7, CASE WHEN i % 4 = 0 THEN i END"
            f" FROM generate_series(1, {ROWS}) i",
        )
        run(owner, "GRANT SELECT ON docs TO embver_r")
        collection = register(embver, index={"type": "hnsw"})
        embver.drain()
        collection.promote()
    yield installed
    servers.drop_database(server, installed.admin)


FILTERS: dict[str, tuple[Any, str]] = {
    "equality": ({"n": 3}, "n = 3"),
    "and": ({"n": 3, "flag": True}, "n = 3 AND flag"),
    "eq": ({"n": {"$eq": 3}}, "n = 3"),
    "null": ({"maybe": None}, "maybe IS NULL"),
    "eq null": ({"maybe": {"$eq": None}}, "maybe IS NULL"),
    "in": ({"n": {"$in": [1, 2]}}, "n IN (1, 2)"),
    "in with null": ({"maybe": {"$in": [4, None]}}, "maybe = 4"),
    "in nothing": ({"n": {"$in": []}}, "false"),
    "in texts": ({"v": {"$in": ["v1", 'a"b', "c,d", "{}"]}}, "v = 'v1'"),
    "lt": ({"n": {"$lt": 3}}, "n < 3"),
    "lte": ({"n": {"$lte": 3}}, "n <= 3"),
    "gt": ({"n": {"$gt": 7}}, "n > 7"),
    "gte": ({"n": {"$gte": 7}}, "n >= 7"),
    "range": ({"n": {"$gte": 2, "$lt": 4}}, "n IN (2, 3)"),
    "or": ({"$or": [{"n": 1}, {"n": 2, "flag": False}]}, "n = 1 OR (n = 2 AND NOT flag)"),
    "or and": ({"n": 1, "$or": [{"flag": True}, {"maybe": 4}]}, "n = 1 AND (flag OR maybe = 4)"),
    "and of or": (
        {"$and": [{"$or": [{"n": 1}, {"n": 2}]}, {"$or": [{"n": 2}, {"n": 3}]}]},
        "n = 2",
    ),
    "or of empty": ({"$or": [{}, {"n": 1}]}, "true"),
    "deep": ({"$or": [{"$and": [{"$or": [{"$and": [{"n": 1}]}]}]}]}, "n = 1"),
    "empty": ({}, "true"),
    "text": ({"title": "word3"}, "title = 'word3'"),
    "number as text": ({"n": "3"}, "n = 3"),
    "text of a number": ({"title": 3}, "false"),
    "float": ({"f": {"$lt": 1.5}}, "f < 1.5"),
    "numeric": ({"num": 2.5}, "num = 2.5"),
    "date": ({"day": {"$gte": "2020-10-01"}}, "day >= '2020-10-01'"),
    "timestamptz": ({"at": {"$lt": "2020-01-02T00:00:00Z"}}, "at < '2020-01-02 00:00Z'"),
    "boolean": ({"flag": False}, "NOT flag"),
    "uuid": ({"u": "00000000-0000-0000-0000-000000000007"}, "id = 7"),
    "enum": ({"mood": {"$gt": "ok"}}, "mood = 'happy'"),
    "char": ({"code": "ab"}, "true"),
    "varchar": ({"v": "v1 and more"}, "false"),
    "jsonb has an order": ({"meta": {"$eq": '{"i": 5}'}}, "id = 5"),
    "domain": ({"s": {"$lt": 5}}, "s < 5"),
    "array as text": ({"tags": "{t1}"}, "tags = '{t1}'"),
    "quoted name": ({"Od d": "odd 3"}, "\"Od d\" = 'odd 3'"),
    "worse name": ({"it's \"%s": {"$lt": 2}}, '"it\'s ""%s" < 2'),
    "injection in a value": ({"title": "x' OR true --"}, "false"),
    "dollar quotes in a value": ({"title": "$sql$ $fn$ $1 %s %I"}, "false"),
    "backslash": ({"title": "a\\' OR true"}, "false"),
    "the key": ({"id": {"$lte": 5}}, "id <= 5"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_return_all_k_there_are(filled: Installed, name: str) -> None:
    """The same rows in the same order as the exact SQL, on the index and exact."""
    given, condition = FILTERS[name][0], FILTERS[name][1].replace("%", "%%")
    vector = encode("word3 other4")
    with filled.connect("reader") as reader:
        wanted = run(
            reader,
            f"SELECT id FROM embver_docs.versions WHERE version = 1 AND ({condition})"
            " ORDER BY (embedding <=> %s) + 0, id",
            (vector,),
        )
        exact = find(reader, 1, vector, 2 * ROWS, given, options={"exact": True})
        assert [row["id"] for row in exact] == [row["id"] for row in wanted]
        every = find(reader, 1, vector, 2 * ROWS, given)
        assert [row["id"] for row in every] == [row["id"] for row in wanted]
        some = find(reader, 1, vector, 7, given)
        assert len(some) == min(7, len(wanted))
        assert [row["rank"] for row in some] == list(range(1, len(some) + 1))
        assert {row["id"] for row in some} <= {row["id"] for row in wanted}


BAD_FILTERS: dict[str, Any] = {
    "list": [1],
    "number": 5,
    "string": "n = 1",
    "unknown column": {"nope": 1},
    "system column": {"ctid": "(0,1)"},
    "tableoid": {"tableoid": 1},
    "injected name": {"n = 1 OR true --": 1},
    "quoted injection": {'n" OR "n': 1},
    "unknown operator": {"n": {"$ne": 1}},
    "operator without dollar": {"n": {"lt": 1}},
    "no operator": {"n": {}},
    "operator at the top": {"$lt": 1},
    "not": {"$not": {"n": 1}},
    "and of an object": {"$and": {"n": 1}},
    "and of nothing": {"$and": []},
    "or of numbers": {"$or": [1, 2]},
    "in without a list": {"n": {"$in": 1}},
    "eq with a list": {"n": [1, 2]},
    "lt with a list": {"n": {"$lt": [1]}},
    "lt null": {"n": {"$lt": None}},
    "nested object": {"n": {"$eq": {"a": 1}}},
    "not a number": {"n": "three"},
    "a fraction": {"n": 1.5},
    "boolean for a number": {"n": True},
    "too large": {"n": 10**20},
    "not a date": {"day": "soon"},
    "not a uuid": {"u": "x"},
    "not of the enum": {"mood": "angry"},
    "in with a wrong one": {"n": {"$in": [1, "x"]}},
    "in of lists": {"n": {"$in": [[1], [2]]}},
    "outside the domain": {"s": 5000},
    "outside the domain, in": {"s": {"$in": [5000]}},
    "no such operator for the type": {"p": "(1,1)"},
    "no order for the type": {"p": {"$lt": "(1,1)"}},
    "in over arrays": {"tags": {"$in": ["{t1}"]}},
    "value injection in a number": {"n": "1; DROP TABLE docs"},
}


@pytest.mark.parametrize("name", BAD_FILTERS)
def test_bad_filters(filled: Installed, name: str) -> None:
    with filled.connect("reader") as reader:
        said = refused(
            reader, "VM006", SEARCH, (1, encode("x"), 5, Jsonb(BAD_FILTERS[name]), None, Jsonb({}))
        )
        detail = json.loads(said.message_detail or "")
        assert "filter" in detail
        assert detail["reason"]
        assert said.message_hint


QUERY = "embver.query('docs', 1, '[1,0,0,0,0,0,0,0]')"
CALLS = {
    "k zero": (f"ARRAY[{QUERY}], 0", "VM006"),
    "k negative": (f"ARRAY[{QUERY}], -1", "VM006"),
    "k null": (f"ARRAY[{QUERY}], NULL", "VM006"),
    "k ten million": (f"ARRAY[{QUERY}], 10000000", "VM006"),
    "no query": ("'{}'", "VM006"),
    "null array": ("NULL", "VM006"),
    "null query": ("ARRAY[NULL]::embver.query_vector[]", "VM006"),
    "one null query": (f"ARRAY[{QUERY}, NULL]", "VM006"),
    "null vector": ("ARRAY[embver.query('docs', 1, NULL)]", "VM006"),
    "null vector in a row": (
        "ARRAY[ROW('docs', 1, (SELECT fingerprint FROM embver.versions),"
        " NULL)::embver.query_vector]",
        "VM006",
    ),
    "zero under cosine": ("ARRAY[embver.query('docs', 1, '[0,0,0,0,0,0,0,0]')]", "VM006"),
    "dimensions": ("ARRAY[embver.query('docs', 1, '[1,0]')]", "VM013"),
    "dimensions in a row": (
        "ARRAY[ROW('docs', 1, (SELECT fingerprint FROM embver.versions),"
        " '[1,0]')::embver.query_vector]",
        "VM013",
    ),
    "another fingerprint": (
        "ARRAY[ROW('docs', 1, 'older', '[1,0,0,0,0,0,0,0]')::embver.query_vector]",
        "VM012",
    ),
    "no fingerprint": (
        "ARRAY[ROW('docs', 1, NULL, '[1,0,0,0,0,0,0,0]')::embver.query_vector]",
        "VM012",
    ),
    "another collection": (
        "ARRAY[ROW('other', 1, (SELECT fingerprint FROM embver.versions),"
        " '[1,0,0,0,0,0,0,0]')::embver.query_vector]",
        "VM012",
    ),
    "unknown version in a row": ("ARRAY[ROW('docs', 9, 'x', '[1]')::embver.query_vector]", "VM012"),
    "version null in a row": ("ARRAY[ROW('docs', NULL, 'x', '[1]')::embver.query_vector]", "VM012"),
    "unknown version": ("ARRAY[embver.query('docs', 9, '[1]')]", "VM002"),
    "version null": ("ARRAY[embver.query('docs', NULL, '[1]')]", "VM002"),
    "unknown collection": ("ARRAY[embver.query('nope', 1, '[1]')]", "VM001"),
    "collection null": ("ARRAY[embver.query(NULL, 1, '[1]')]", "VM001"),
    **{
        f"mode {mode}": (f"ARRAY[{QUERY}], mode => '{mode}'", "VM006")
        for mode in ("nope", "", "SINGLE")
    },
    # There is no version beside the active one.
    **{
        f"mode {mode}": (f"ARRAY[{QUERY}], mode => '{mode}'", "VM011")
        for mode in ("split", "fused", "bridged", "rrf", "rrf_partial", "zscore")
    },
    **{
        f"options {options}": (f"ARRAY[{QUERY}], options => '{options}'", "VM006")
        for options in (
            '{"nope": 1}',
            '{"ef_search": 0}',
            '{"ef_search": 1001}',
            '{"ef_search": "40"}',
            '{"ef_search": 1.5}',
            '{"ef_search": null}',
            '{"exact": 1}',
            '{"exact": null}',
            "[]",
            "5",
            "null",
            '{"ef_search": "1; DROP TABLE docs"}',
        )
    },
}


@pytest.mark.parametrize("name", CALLS)
def test_refused_calls(filled: Installed, name: str) -> None:
    arguments, code = CALLS[name]
    with filled.connect("reader") as reader:
        said = refused(reader, code, f"SELECT * FROM embver_docs.search({arguments})")
        detail = json.loads(said.message_detail or "")
        assert isinstance(detail, dict)
        assert said.message_hint
        if code == "VM012":
            assert detail["encode_for"] == [1]


@pytest.mark.parametrize("mode", ["split", "fused", "bridged", "rrf", "nope"])
def test_route_refuses_modes_by_name(filled: Installed, mode: str) -> None:
    with filled.connect("reader") as reader:
        code = "VM006" if mode == "nope" else "VM011"
        said = refused(reader, code, "SELECT * FROM embver.route('docs', NULL, %s)", (mode,))
        assert mode in (said.message_primary or "")
        row = run(reader, "SELECT * FROM embver.route('docs', 'somebody', 'single')")[0]
        assert (row["version"], row["mode"], row["share"], row["dimensions"]) == (1, "single", 1, 8)
        refused(reader, "VM001", "SELECT * FROM embver.route('nope')")
        refused(reader, "VM001", "SELECT * FROM embver.route(NULL)")


def test_null_arguments_stand_for_defaults(filled: Installed) -> None:
    with filled.connect("reader") as reader:
        found = run(
            reader, f"SELECT * FROM embver_docs.search(ARRAY[{QUERY}], 3, NULL, NULL, NULL, NULL)"
        )
        assert len(found) == 3
        assert list(found[0]) == ["id", "chunk", "score", "distance", "rank", "version"]
        scores = [row["score"] for row in found]
        assert scores == sorted(scores, reverse=True)


def test_settings_are_as_before(filled: Installed) -> None:
    names = (
        "hnsw.ef_search",
        "hnsw.iterative_scan",
        "hnsw.max_scan_tuples",
        "search_path",
        "enable_indexscan",
        "enable_sort",
        "enable_seqscan",
        "plan_cache_mode",
    )
    with filled.connect("reader") as reader:
        find(reader, 1, encode("x"))
        run(reader, "SET hnsw.ef_search = 77")
        run(reader, "SET hnsw.iterative_scan = relaxed_order")
        run(reader, "SET hnsw.max_scan_tuples = 555")
        run(reader, "SET search_path = public")

        def settings() -> list[str]:
            return [value(reader, f"SHOW {name}") for name in names]

        before = settings()
        for options in ({}, {"ef_search": 200}, {"exact": True}):
            find(reader, 1, encode("x"), 50, {"n": 3}, options=options)
            assert settings() == before
        with reader.transaction():
            find(reader, 1, encode("x"), 100)
            assert settings() == before
        refused(reader, "VM006", SEARCH, (1, encode("x"), 5, Jsonb({"n": "x"}), None, Jsonb({})))
        assert settings() == before


def test_search_in_a_read_only_transaction(filled: Installed) -> None:
    with filled.connect("reader") as reader:
        run(reader, "BEGIN READ ONLY")
        assert len(find(reader, 1, encode("word1"), 5)) == 5
        assert len(find(reader, 1, encode("word1"), 5, {"n": 3})) == 5
        assert len(run(reader, "SELECT * FROM embver.route('docs')")) == 1
        assert value(reader, "SELECT count(*) FROM embver_docs.current") == ROWS
        run(reader, "ROLLBACK")


def test_ef_search_and_exact_change_nothing_but_the_way(filled: Installed) -> None:
    with filled.connect("reader") as reader:
        vector = encode("word7 other3")
        exact = find(reader, 1, vector, 20, options={"exact": True})
        wanted = [row["distance"] for row in exact]
        for options in ({"ef_search": 1000}, {"ef_search": 300, "exact": False}):
            for _ in range(7):  # past the point where plans become generic
                found = find(reader, 1, vector, 20, options=options)
                assert [row["distance"] for row in found] == wanted  # ties have no order
        assert len(find(reader, 1, vector, 100, options={"ef_search": 1})) == 100


def counted(connection: Connection, store: str = "embver_docs_v1") -> tuple[int, int]:
    """Index scans of the vector index, sequential scans of the store, so far."""
    run(connection, "SELECT pg_stat_force_next_flush()")
    run(connection, "SELECT pg_stat_clear_snapshot()")
    row = run(
        connection,
        "SELECT (SELECT idx_scan FROM pg_stat_user_indexes WHERE schemaname = %s"
        "   AND indexrelname = 'embedding_embedding_idx') AS by_index, (SELECT seq_scan"
        "   FROM pg_stat_user_tables WHERE schemaname = %s AND relname = 'embedding') AS seq",
        (store, store),
    )[0]
    return row["by_index"], row["seq"]


@pytest.fixture(scope="module")
def large() -> Any:
    """6,000 rows, two filled versions with HNSW: large enough that plans matter."""
    server = servers.server()
    installed = new_database(server)
    with installed.connect() as owner, installed.embver() as embver:
        run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, tenant int)")
        run(
            owner,
            "INSERT INTO docs SELECT i, 'word' || i % 997, 'other' || i % 61 || ' x' || i,"
            " i % 500 FROM generate_series(1, 6000) i",
        )
        run(owner, "GRANT SELECT ON docs TO embver_r")
        collection = register(embver, encoder="hash:16", index={"type": "hnsw", "m": 8})
        embver.drain(batch=2000)
        collection.promote()
        collection.add_version("hash:12", index={"type": "hnsw", "m": 8})
        collection.start_rollout(2)
        embver.drain(batch=2000)
    with installed.connect("admin") as admin:
        run(admin, "VACUUM ANALYZE docs, embver_docs_v1.embedding, embver_docs_v2.embedding")
    yield installed
    servers.drop_database(server, installed.admin)


@pytest.mark.parametrize("plan_cache_mode", ["auto", "force_generic_plan", "force_custom_plan"])
def test_search_uses_the_index(large: Installed, plan_cache_mode: str) -> None:
    with large.connect("reader") as reader:
        run(reader, f"SET plan_cache_mode = {plan_cache_mode}")
        find(reader, 1, encode("word1", "hash:16"))
        before = counted(reader)
        for _ in range(7):
            assert len(find(reader, 1, encode("word1 other2", "hash:16"))) == 10
        assert len(find(reader, 1, encode("word1", "hash:16"), 10, {"tenant": {"$gte": 1}})) == 10
        after = counted(reader)
        assert (after[0] - before[0], after[1] - before[1]) == (8, 0)


VIEWS = {
    "versions": "SELECT id FROM embver_docs.versions WHERE version = 1"
    " ORDER BY embedding <=> $1 LIMIT 10",
    "versions, parameter": "SELECT id FROM embver_docs.versions WHERE version = $2"
    " ORDER BY embedding <=> $1 LIMIT 10",
    "current": "SELECT id FROM embver_docs.current ORDER BY embedding <=> $1 LIMIT 10",
    "current and version": "SELECT id FROM embver_docs.current WHERE version = $2"
    " ORDER BY embedding <=> $1 LIMIT 10",
    "current and filter": "SELECT id FROM embver_docs.current WHERE tenant > 5 AND version = $2"
    " ORDER BY embedding <=> $1 LIMIT 10",
}


@pytest.mark.parametrize("role", ["owner", "reader"])
@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("name", VIEWS)
def test_the_views_use_the_index(large: Installed, name: str, mode: str, role: str) -> None:
    vector = "[" + ",".join(str(v) for v in encode("word1", "hash:16").values) + "]"
    with large.connect(role) as connection:
        run(connection, f"SET plan_cache_mode = {mode}")
        two = "$2" in VIEWS[name]
        types = "vector, int" if two else "vector"
        run(connection, f"PREPARE q ({types}) AS {VIEWS[name]}")
        given = f"'{vector}'" + (", 1" if two else "")
        plan = "\n".join(
            row["QUERY PLAN"]
            for row in run(
                connection,
                f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF)"
                f" EXECUTE q({given})",
            )
        )
        assert "embedding_embedding_idx" in plan, plan
        assert "Seq Scan on embedding" not in "\n".join(
            line for line in plan.splitlines() if "never executed" not in line
        ), plan
        assert len(run(connection, f"EXECUTE q({given})")) == 10


def test_selective_filters_find_all_there_are(large: Installed) -> None:
    with large.connect("reader") as reader:
        vector = encode("word1 other2", "hash:16")
        for tenant in (3, 499):
            found = find(reader, 1, vector, 12, {"tenant": tenant})
            assert len(found) == 12
            exact = find(reader, 1, vector, 12, {"tenant": tenant}, options={"exact": True})
            assert [row["id"] for row in found] == [row["id"] for row in exact]
        assert find(reader, 1, vector, 12, {"tenant": 9999}) == []
        assert [r["id"] for r in find(reader, 1, vector, 12, {"id": 17})] == [17]
        assert len(find(reader, 1, vector, 10000)) == 6000


def test_row_level_security_returns_k_where_k_exist(large: Installed) -> None:
    with large.connect() as owner, large.connect("reader") as reader:
        run(owner, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        run(
            owner,
            "CREATE POLICY own ON docs FOR SELECT USING"
            " (tenant = current_setting('app.tenant')::int)",
        )
        try:
            vector = encode("word1 other2", "hash:16")
            for tenant in (7, 8):  # one session, one cached plan, another tenant
                run(reader, "SELECT set_config('app.tenant', %s, false)", (str(tenant),))
                for _ in range(6):
                    found = find(reader, 1, vector, 12)
                    assert len(found) == 12
                    assert {row["id"] % 500 for row in found} == {tenant}
                assert value(reader, "SELECT count(*) FROM embver_docs.current") == 12
                assert value(reader, "SELECT count(*) FROM embver_docs_v1.embedding") == 12
                rows = run(reader, "SELECT id FROM embver_docs.versions WHERE version = 1")
                assert {row["id"] % 500 for row in rows} == {tenant}
                assert len(find(reader, 1, vector, 12, {"tenant": 9})) == 0
            assert len(find(owner, 1, vector, 50)) == 50  # the owner sees everything
        finally:
            run(owner, "DROP POLICY own ON docs")
            run(owner, "ALTER TABLE docs DISABLE ROW LEVEL SECURITY")


@pytest.mark.parametrize("element_type", ["vector", "halfvec"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_metrics_and_scores(
    installed: Installed, owner: Connection, metric: str, element_type: str
) -> None:
    run(owner, "CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    run(owner, "INSERT INTO docs SELECT i, 'a' || i, 'b' || i * 7 FROM generate_series(1, 60) i")
    with installed.embver() as embver:
        collection = register(
            embver, metric=metric, element_type=element_type, index={"type": "hnsw"}
        )
        drain(installed)
        collection.promote()
        query = np.array([0.5, -2, 3, 0.25, 0, 1, -1, 0.125], dtype=np.float32)
        stored = run(owner, "SELECT id, embedding::real[] AS v FROM embver_docs_v1.embedding")
        vectors = np.array([row["v"] for row in stored], dtype=np.float64)
        inner = vectors @ query
        if metric == "cosine":
            distance = 1 - inner / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
            score = 1 - distance
        elif metric == "l2":
            distance = np.linalg.norm(vectors - query, axis=1)
            score = 1 / (1 + distance)
        else:
            distance, score = -inner, inner
        ids = [row["id"] for row in stored]
        for options in ({"ef_search": 200}, {"exact": True}):
            found = find(owner, 1, codec.Vector(query), 10, options=options)
            assert [row["rank"] for row in found] == list(range(1, 11))
            for row in found:
                place = ids.index(row["id"])
                assert row["distance"] == pytest.approx(distance[place], abs=2e-3)
                assert row["score"] == pytest.approx(score[place], abs=2e-3)
            best = sorted(distance)[:10]
            assert [row["distance"] for row in found] == pytest.approx(best, abs=2e-3)
        zero = unit([0.0] * 8)
        if metric == "cosine":
            refused(owner, "VM006", "SELECT embver.query('docs', 1, %s)", (zero,))
        else:
            assert len(find(owner, 1, zero, 5)) == 5
        operator = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}[metric]
        viewed = run(
            owner,
            f"SELECT id FROM embver_docs.versions WHERE version = 1"
            f" ORDER BY embedding {operator} %s::{element_type} LIMIT 10",
            (codec.Vector(query),),
        )
        assert len(viewed) == 10


def two_versions(installed: Installed, docs: Embver) -> Collection:
    """Version 1 active, version 2 (hash:16) ready."""
    drain(installed)
    collection = docs.collection("docs")
    collection.promote()
    collection.add_version("hash:16")
    collection.start_rollout(2)
    drain(installed)
    return collection


def test_a_version_left_by_a_rollback_still_answers(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    collection = two_versions(installed, docs)
    second = encode("title 2", "hash:16")
    collection.promote(force=True, reason="a test")
    collection.rollback("a test")
    with installed.connect("reader") as reader:
        # A client that encoded a moment before the rollback.
        assert find(reader, 2, second, 1)[0]["id"] == 2
        assert find(reader, 1, encode("title 2"), 1)[0]["version"] == 1
        collection.promote(force=True, reason="once more")
        assert find(reader, 2, second, 1)[0]["id"] == 2
        collection.rollback("a test")
        collection.retire_version(2)
        refused(reader, "VM012", SEARCH, (2, second, 1, None, None, Jsonb({})))


def test_another_element_type_is_not_kept_quiet(
    installed: Installed, owner: Connection, docs: Embver, caplog: pytest.LogCaptureFixture
) -> None:
    docs.drain()
    collection = docs.collection("docs")
    collection.promote()
    collection.add_version("hash:8", element_type="halfvec")
    assert "the views current and versions of 'docs' show vector" in caplog.text
    collection.start_rollout(2)
    docs.drain()
    collection.promote(force=True, reason="a test")
    assert "embver_docs.current is empty from now on" in caplog.text
    assert len(collection.search("title 2")) == 3


def test_each_version_answers_its_own_vectors_until_it_is_retired(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    collection = two_versions(installed, docs)
    first, second = encode("title 2"), encode("title 2", "hash:16")
    viewed = "SELECT id FROM embver_docs.versions WHERE version = {} ORDER BY embedding <=> %s"
    with installed.connect("reader") as reader:
        assert find(reader, 1, first, 1)[0]["version"] == 1
        said = refused(reader, "VM012", SEARCH, (2, second, 1, None, None, Jsonb({})))
        assert json.loads(said.message_detail or "")["encode_for"] == [1]
        assert find(reader, 2, second, 1, mode="single")[0]["version"] == 2  # asked for by name
        assert run(reader, viewed.format(2), (second,))[0]["id"] == 2
        with pytest.raises(psycopg.errors.DataException):
            run(reader, viewed.format(1), (second,))
        both = run(
            reader,
            "SELECT version, id FROM embver_docs.search(ARRAY[embver.query('docs',"
            " 2, %s), embver.query('docs', 1, %s)], 1)",
            (second, first),
        )
        assert both == [{"version": 1, "id": 2}]

        collection.promote(force=True, reason="a test")
        for version, vector in ((1, first), (2, second)):
            assert find(reader, version, vector, 1)[0]["id"] == 2
            assert run(reader, viewed.format(version), (vector,))[0]["id"] == 2
        both = run(
            reader,
            "SELECT version FROM embver_docs.search(ARRAY[embver.query('docs',"
            " 1, %s), embver.query('docs', 2, %s)], 1)",
            (first, second),
        )
        assert both == [{"version": 2}]
        assert value(reader, "SELECT count(*) FROM embver_docs.current WHERE version = 1") == 0

        run(owner, "UPDATE docs SET title = 'fresh' WHERE id = 3")
        drain(installed)
        assert find(reader, 1, encode("fresh body 3"), 1)[0]["id"] == 3

        collection.retire_version(1)
        for mode in (None, "single"):
            said = refused(reader, "VM012", SEARCH, (1, first, 1, None, mode, Jsonb({})))
            assert json.loads(said.message_detail or "")["encode_for"] == [2]
            assert "2" in (said.message_hint or "")
        assert run(reader, viewed.format(1), (first,)) == []
        assert find(reader, 2, second, 1)[0]["id"] == 2
        collection.drop_version(1)
        refused(reader, "VM002", "SELECT embver.query('docs', 1, %s)", (first,))
        assert run(reader, viewed.format(2), (second,))[0]["id"] == 2
        drain(installed)


def test_prepared_statements_across_promotion_and_rollback(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    collection = two_versions(installed, docs)
    with installed.connect("reader") as reader:
        run(
            reader,
            "PREPARE cur AS SELECT version, count(*) AS n FROM embver_docs.current"
            " GROUP BY version",
        )
        run(
            reader,
            "PREPARE ver (int) AS SELECT count(*) AS n FROM embver_docs.versions"
            " WHERE version = $1",
        )
        run(reader, "PREPARE rt AS SELECT version FROM embver.route('docs')")
        run(
            reader,
            "PREPARE s (int, vector) AS SELECT version FROM embver_docs.search("
            "ARRAY[embver.query('docs', $1, $2)], 1)",
        )

        def look(active: int) -> None:
            for _ in range(7):
                assert run(reader, "EXECUTE cur") == [{"version": active, "n": 3}]
                assert run(reader, "EXECUTE rt") == [{"version": active}]
                for version in (1, 2):
                    assert run(reader, f"EXECUTE ver({version})") == [{"n": 3}]
                vector = "[" + ",".join(["1"] * (8 * active)) + "]"
                assert run(reader, f"EXECUTE s({active}, '{vector}')") == [{"version": active}]

        look(1)
        collection.promote(force=True, reason="a test")
        look(2)
        collection.rollback()
        look(1)
        collection.promote(force=True, reason="a test")
        look(2)
        # One snapshot sees one route.
        run(reader, "BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert run(reader, "EXECUTE rt") == [{"version": 2}]
        collection.rollback()
        look(2)
        run(reader, "COMMIT")
        look(1)


def test_before_the_first_promotion(installed: Installed, owner: Connection, docs: Embver) -> None:
    drain(installed)
    with installed.connect("reader") as reader:
        said = refused(reader, "VM011", "SELECT * FROM embver.route('docs')")
        assert json.loads(said.message_detail or "")["versions"] == {"1": "ready"}
        said = refused(reader, "VM012", SEARCH, (1, encode("x"), 1, None, None, Jsonb({})))
        assert json.loads(said.message_detail or "")["encode_for"] == []
        assert len(find(reader, 1, encode("x"), 5, mode="single")) == 3
        assert value(reader, "SELECT count(*) FROM embver_docs.current") == 0
        assert value(reader, "SELECT count(*) FROM embver_docs.versions") == 3


def test_another_element_type_is_searched_but_not_viewed(
    installed: Installed, owner: Connection, docs: Embver
) -> None:
    drain(installed)
    collection = docs.collection("docs")
    collection.promote()
    collection.add_version("hash:16", element_type="halfvec", metric="ip")
    collection.start_rollout(2)
    drain(installed)
    collection.promote(force=True, reason="a test")
    with installed.connect("reader") as reader:
        assert find(reader, 2, encode("title 2", "hash:16"), 1)[0]["id"] == 2
        assert find(reader, 1, encode("title 2"), 1)[0]["id"] == 2
        assert value(reader, "SELECT count(*) FROM embver_docs.versions WHERE version = 1") == 3
        assert value(reader, "SELECT count(*) FROM embver_docs.current") == 0


def test_an_empty_source_and_ties(installed: Installed, owner: Connection, docs: Embver) -> None:
    drain(installed)
    docs.collection("docs").promote()
    run(owner, "UPDATE docs SET title = 'same', body = 'text'")
    drain(installed)
    for options in ({}, {"exact": True}):
        found = find(owner, 1, encode("same text"), 3, options=options)
        assert [row["id"] for row in found] == [1, 2, 3]
        assert [row["rank"] for row in found] == [1, 2, 3]
    run(owner, "TRUNCATE docs")
    assert find(owner, 1, encode("same text"), 3) == []
