"""Bad input: each call fails with its code, a detail for programs and a hint for people."""

from __future__ import annotations

import json
from typing import Any

import pytest

from embver_pg.client import Embver
from embver_pg.errors import InvalidArgument, UnsupportedSource
from tests import servers
from tests.conftest import Installed, new_database
from tests.sql.support import refused, register, run

pytestmark = pytest.mark.both_versions

ADD = "SELECT embver_internal.register_version({})"


def add(**given: str) -> str:
    arguments = {
        "p_collection": "'docs'",
        "p_encoder": '\'{"provider": "hash"}\'',
        "p_fingerprint": "'f'",
        "p_dimensions": "8",
        **given,
    }
    return ADD.format(", ".join(f"{name} => {value}" for name, value in arguments.items()))


# docs: version 1 active, version 2 ready with its rollout running, version 3 created.
# idle: a collection without versions. fresh: version 1 created. A golden set is nowhere.
CALLS: dict[str, tuple[str, str]] = {
    # unknown collections and versions, everywhere
    **{
        f"unknown collection: {call}": (f"SELECT {call}", "VM001")
        for call in (
            "embver.start_rollout('nope', 1)",
            "embver.pause_rollout('nope')",
            "embver.resume_rollout('nope')",
            "embver.abort_rollout('nope')",
            "embver.set_route('nope', 'single')",
            "embver.promote('nope')",
            "embver.rollback('nope')",
            "embver.retire_version('nope', 1)",
            "embver.verify('nope', 1)",
            "embver.requeue('nope', 1)",
            "embver.waive('nope', 1, '{}', 'r')",
            "embver.route('nope')",
            "embver.query('nope', 1, '[1]')",
            "embver.refresh_collection('nope')",
            "embver.drop_collection('nope')",
            "embver.drop_collection(NULL)",
            "embver.promote(NULL)",
            "embver.drop_collection('DOCS')",
            "embver_internal.drop_store('nope', 1)",
            "embver_internal.mark_ready('nope', 1)",
            "embver_internal.find_golden_set('nope', 'x')",
            "embver_internal.register_version('nope', '{}', 'f', 8)",
        )
    },
    **{
        f"unknown version: {call}": (f"SELECT {call}", "VM002")
        for call in (
            "embver.start_rollout('docs', 9)",
            "embver.start_rollout('docs', NULL)",
            "embver.retire_version('docs', 9)",
            "embver.retire_version('docs', NULL)",
            "embver.verify('docs', 9)",
            "embver.requeue('docs', 0)",
            "embver.waive('docs', -1, '{}', 'r')",
            "embver.query('docs', 9, '[1]')",
            "embver_internal.drop_store('docs', 9)",
            "embver.verify('docs', NULL)",
            "embver_internal.mark_ready('docs', 9)",
            "embver.verify('idle', 1)",
        )
    },
    # collections
    "name taken": ("SELECT embver.create_collection('docs', 'public.docs', 'title')", "VM003"),
    "schema taken": ("SELECT embver.create_collection('taken', 'public.docs', 'title')", "VM003"),
    **{
        f"name {name!r}": (
            f"SELECT embver.create_collection({name}, 'public.docs', 'title')",
            "VM004",
        )
        for name in (
            "''",
            "'Docs'",
            "'1docs'",
            "'a-b'",
            "'a b'",
            "'docs_v2'",
            "'internal'",
            "'ä'",
            "'a\"b'",
            "'a;b'",
            "repeat('a', 41)",
            "NULL",
            "E'docs\\n'",
            "'_x'",
        )
    },
    "no source": ("SELECT embver.create_collection('x', NULL, 'title')", "VM006"),
    "no content": ("SELECT embver.create_collection('x', 'public.docs', NULL)", "VM005"),
    "drop with stores": ("SELECT embver.drop_collection('docs')", "VM010"),
    "drop with a created version": ("SELECT embver.drop_collection('fresh')", "VM010"),
    # versions
    "vector of 2001": (add(p_dimensions="2001"), "VM006"),
    "vector of 4001": (add(p_dimensions="4001"), "VM006"),
    "halfvec of 4001": (add(p_dimensions="4001", p_element_type="'halfvec'"), "VM006"),
    "no dimension": (add(p_dimensions="0"), "VM006"),
    "negative dimensions": (add(p_dimensions="-1"), "VM006"),
    "dimensions null": (add(p_dimensions="NULL"), "VM006"),
    "metric": (add(p_metric="'hamming'"), "VM006"),
    "metric null": (add(p_metric="NULL"), "VM006"),
    "element type": (add(p_element_type="'bit'"), "VM006"),
    "element type injection": (add(p_element_type="'vector); DROP TABLE docs; --'"), "VM006"),
    "element type null": (add(p_element_type="NULL"), "VM006"),
    "encoder null": (add(p_encoder="NULL"), "VM006"),
    "encoder of another form": (add(p_encoder="'[1]'"), "VM006"),
    "fingerprint null": (add(p_fingerprint="NULL"), "VM006"),
    "fingerprint empty": (add(p_fingerprint="' '"), "VM006"),
    **{
        f"index {spec}": (add(p_index_spec=f"'{spec}'"), "VM006")
        for spec in (
            '{"type": "ivfflat"}',
            "{}",
            "[]",
            "null",
            '"hnsw"',
            '{"type": null}',
            '{"type": "hnsw", "m": 1}',
            '{"type": "hnsw", "m": 101}',
            '{"type": "hnsw", "m": 16.5}',
            '{"type": "hnsw", "m": "16"}',
            '{"type": "hnsw", "ef_construction": 3}',
            '{"type": "hnsw", "ef_construction": 1001}',
            '{"type": "hnsw", "m": 50, "ef_construction": 64}',
            '{"type": "hnsw", "lists": 100}',
            '{"type": "none", "m": 16}',
        )
    },
    "index null": (add(p_index_spec="NULL"), "VM006"),
    "another number expected": (add(p_expected_version="7"), "VM010"),
    "drop the active version": ("SELECT embver_internal.drop_store('docs', 1)", "VM010"),
    "drop a live version": ("SELECT embver_internal.drop_store('docs', 2)", "VM010"),
    "retire the active version": ("SELECT embver.retire_version('docs', 1)", "VM010"),
    "retire the rollout's version": ("SELECT embver.retire_version('docs', 2)", "VM010"),
    "retire a created version": ("SELECT embver.retire_version('docs', 3)", "VM010"),
    # rollouts
    "second rollout": ("SELECT embver.start_rollout('docs', 3)", "VM010"),
    "the same rollout again": ("SELECT embver.start_rollout('docs', 2)", "VM010"),
    "strategy": ("SELECT embver.start_rollout('fresh', 1, 'big_bang')", "VM006"),
    "strategy null": ("SELECT embver.start_rollout('fresh', 1, NULL)", "VM006"),
    "strategy to come": ("SELECT embver.start_rollout('fresh', 1, 'blue_green')", "VM006"),
    "strategy to come, too": ("SELECT embver.start_rollout('fresh', 1, 'progressive')", "VM006"),
    **{
        f"option {options}": (
            f"SELECT embver.start_rollout('fresh', 1, options => '{options}')",
            "VM006",
        )
        for options in (
            '{"nope": 1}',
            '{"margin": -1}',
            '{"margin": "x"}',
            '{"margin": null}',
            '{"margin": 2}',
            '{"alpha": 0}',
            '{"alpha": 1}',
            '{"alpha": "NaN"}',
            '{"margin": "NaN"}',
            '{"max_changed": 2}',
            '{"max_lag": "soon"}',
            '{"max_lag": "-1 s"}',
            '{"max_age": 0}',
            '{"metric": "f1"}',
            '{"metric": ["ndcg"]}',
            "[]",
            "5",
            "null",
            '"x"',
            '{"margin": true}',
            '{"margin": [0.1]}',
            '{"margin": "0.1; DROP"}',
        )
    },
    "abort without a rollout": ("SELECT embver.abort_rollout('fresh')", "VM010"),
    "pause without a rollout": ("SELECT embver.pause_rollout('fresh')", "VM010"),
    "resume without a rollout": ("SELECT embver.resume_rollout('idle')", "VM010"),
    "promote without a rollout": ("SELECT embver.promote('fresh')", "VM010"),
    "promote without a version": ("SELECT embver.promote('idle')", "VM010"),
    "promote without a gate": ("SELECT embver.promote('docs')", "VM014"),
    "force without a reason": ("SELECT embver.promote('docs', true)", "VM006"),
    "force with a blank reason": ("SELECT embver.promote('docs', true, '  ')", "VM006"),
    "rollback with nothing to go back to": ("SELECT embver.rollback('docs')", "VM010"),
    "rollback without a version": ("SELECT embver.rollback('idle')", "VM010"),
    # routes
    **{
        f"route mode {mode}": (f"SELECT embver.set_route('docs', {mode})", "VM006")
        for mode in ("'split'", "'rrf'", "'zscore'", "'nope'", "NULL", "''")
    },
    "fused without a second version": ("SELECT embver.set_route('fresh', 'fused')", "VM011"),
    "share of more than all": ("SELECT embver.set_route('docs', 'split', 1.5)", "VM006"),
    "share that is no number": ("SELECT embver.set_route('docs', 'split', 'NaN')", "VM006"),
    **{
        f"route option {options}": (
            f"SELECT embver.set_route('docs', '{mode}', {share}, options => '{options}')",
            "VM006",
        )
        for mode, share, options in (
            ("fused", "NULL", '{"weight": 2}'),
            ("fused", "NULL", '{"weight": "x"}'),
            ("fused", "NULL", '{"allow": ["a"]}'),
            ("split", "0.5", '{"allow": "a"}'),
            ("split", "0.5", '{"allow": [1]}'),
            ("split", "0.5", '{"nope": 1}'),
            ("fused", "NULL", "[1]"),
        )
    },
    "share without split": ("SELECT embver.set_route('docs', 'single', 0.5)", "VM006"),
    "route of nothing": ("SELECT * FROM embver.route('idle')", "VM011"),
    "route of a created version": ("SELECT * FROM embver.route('fresh')", "VM011"),
    # repairs
    "requeue what": ("SELECT embver.requeue('docs', 1, 'some')", "VM006"),
    "requeue null": ("SELECT embver.requeue('docs', 1, NULL)", "VM006"),
    "requeue a created version": ("SELECT embver.requeue('docs', 3)", "VM010"),
    "waive without a reason": ("SELECT embver.waive('docs', 1, '{\"id\": 1}', '')", "VM006"),
    "waive with reason null": ("SELECT embver.waive('docs', 1, '{\"id\": 1}', NULL)", "VM006"),
    "waive what lives": ("SELECT embver.waive('docs', 1, '{\"id\": 1}', 'r')", "VM006"),
    "waive another form": ("SELECT embver.waive('docs', 1, '[1]', 'r')", "VM006"),
    "waive no key": ("SELECT embver.waive('docs', 1, NULL, 'r')", "VM006"),
    "waive a wrong type": ("SELECT embver.waive('docs', 1, '{\"id\": \"x\"}', 'r')", "VM006"),
    "waive an unknown key": ("SELECT embver.waive('docs', 1, '{\"nope\": 1}', 'r')", "VM006"),
    "golden set": ("SELECT embver_internal.find_golden_set('docs', 'nope')", "VM006"),
    "no golden set": ("SELECT embver_internal.find_golden_set('docs', NULL)", "VM006"),
    "golden set of strangers": (
        "SELECT embver_internal.import_golden_set('docs', 's', '{q}', '{t}', '{q}', '{999}',"
        " '{1}')",
        "VM006",
    ),
    # leases
    "a lease that is not there": (
        "SELECT * FROM embver_docs_v1.complete(999, '{1}', '{x}', '{}')",
        "VM020",
    ),
}


@pytest.fixture(scope="module")
def database() -> Any:
    server = servers.server()
    installed = new_database(server)
    with installed.connect() as owner, installed.embver() as embver:
        run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
        run(owner, "INSERT INTO docs SELECT i, 'title', 'body ' || i FROM generate_series(1, 3) i")
        run(owner, "CREATE SCHEMA embver_taken")
        collection = register(embver)
        embver.drain()
        collection.promote()
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(2)
        embver.drain()
        collection.add_version("hash:4", index={"type": "none"})
        embver.create_collection("idle", "public.docs", "title")
        embver.create_collection("fresh", "public.docs", "body").add_version("hash:8")
    yield installed
    servers.drop_database(server, installed.admin)


@pytest.mark.parametrize("name", CALLS)
def test_bad_input(database: Installed, name: str) -> None:
    statement, code = CALLS[name]
    with database.connect() as owner:
        before = run(
            owner,
            "SELECT (SELECT count(*) FROM embver_internal.event) AS events,"
            " (SELECT jsonb_agg(to_jsonb(v) ORDER BY v.collection_id, v.version)"
            " FROM embver_internal.version v) AS versions,"
            " (SELECT jsonb_agg(to_jsonb(r) ORDER BY r.rollout_id)"
            " FROM embver_internal.rollout r) AS rollouts,"
            " (SELECT jsonb_agg(to_jsonb(t) ORDER BY t.collection)"
            " FROM embver_internal.route t) AS routes",
        )
        said = refused(owner, code, statement)
        detail = json.loads(said.message_detail or "null")
        assert isinstance(detail, dict)
        assert detail, "the detail is empty"
        assert said.message_hint
        assert said.message_primary
        after = run(
            owner,
            "SELECT (SELECT count(*) FROM embver_internal.event) AS events,"
            " (SELECT jsonb_agg(to_jsonb(v) ORDER BY v.collection_id, v.version)"
            " FROM embver_internal.version v) AS versions,"
            " (SELECT jsonb_agg(to_jsonb(r) ORDER BY r.rollout_id)"
            " FROM embver_internal.rollout r) AS rollouts,"
            " (SELECT jsonb_agg(to_jsonb(t) ORDER BY t.collection)"
            " FROM embver_internal.route t) AS routes",
        )
        assert after == before
        if code == "VM010":
            assert (
                {"from", "to", "allowed"} <= set(detail)
                or "versions" in detail
                or "expected" in detail
            )


def test_versions_that_may_not_become_what_is_asked(installed: Installed, docs: Embver) -> None:
    """From each state, what is not allowed is refused and says what is."""
    collection = docs.collection("docs")
    with installed.connect() as owner:

        def check(state: str, *calls: str) -> None:
            versions = {row["version"]: row["state"] for row in collection.versions()}
            assert versions[1] == state
            for call in calls:
                said = refused(owner, "VM010", f"SELECT {call}")
                assert json.loads(said.message_detail or "")["from"] is not None

        start, retire = "embver.start_rollout('docs', 1)", "embver.retire_version('docs', 1)"
        drop = "embver_internal.drop_store('docs', 1)"
        check("filling", start, retire, drop)
        refused(owner, "VM011", "SELECT embver.promote('docs')")
        refused(owner, "VM011", "SELECT embver.promote('docs', true, 'not even by force')")
        collection.pause_rollout("a reason")
        check("filling", start, retire, drop, "embver.promote('docs')")
        collection.resume_rollout()
        docs.drain()
        check("ready", start, retire, drop)
        collection.promote()
        check("active", start, retire, drop)
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(2)
        docs.drain()
        collection.promote(force=True, reason="a test")
        check("fallback", start, drop)
        refused(owner, "VM010", "SELECT embver.retire_version('docs', 2, true, 'others are live')")
        collection.retire_version(1)
        check("retired", start, retire)
        refused(owner, "VM010", "SELECT embver.rollback('docs')")
        refused(owner, "VM010", "SELECT embver.requeue('docs', 1, 'all')")
        collection.drop_version(1)
        for call in (start, retire, drop, "embver.verify('docs', 1)"):
            refused(owner, "VM002", f"SELECT {call}")


def test_a_collection_is_given_up(installed: Installed, docs: Embver) -> None:
    """The last version, which is active, goes by force and with a reason; then everything may."""
    docs.drain()
    collection = docs.collection("docs")
    collection.promote()
    with installed.connect() as owner:
        said = refused(owner, "VM010", "SELECT embver.drop_collection('docs')")
        assert "version retire docs 1 --force" in (said.message_hint or "")
        said = refused(owner, "VM010", "SELECT embver.retire_version('docs', 1)")
        assert "--force" in (said.message_hint or "")
        refused(owner, "VM006", "SELECT embver.retire_version('docs', 1, true)")
        collection.retire_version(1, force=True, reason="nobody searches here")
        said = refused(owner, "VM010", "SELECT embver.drop_collection('docs')")
        assert said.message_hint == "embver version drop docs 1"
        events = owner.execute(
            "SELECT reason FROM embver.events WHERE kind = 'retire_version'"
        ).fetchall()
        assert events == [{"reason": "nobody searches here"}]
    collection.drop_version(1)
    collection.drop()
    assert docs.collections() == []


def test_a_query_of_another_collection_is_named(installed: Installed, docs: Embver) -> None:
    docs.drain()
    docs.collection("docs").promote()
    with installed.connect() as owner:
        owner.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
        notes = docs.create_collection("notes", "public.notes", "body")
        notes.add_version("hash:8")
        vector = "'[1,0,0,0,0,0,0,0]'"
        said = refused(
            owner,
            "VM012",
            f"SELECT * FROM embver_docs.search(ARRAY[embver.query('notes', 1, {vector})])",
        )
        assert "of collection 'notes', not of 'docs'" in (said.message_primary or "")
        assert json.loads(said.message_detail or "")["encode_for"] == [1]
        said = refused(
            owner,
            "VM012",
            "SELECT * FROM embver_docs.search(ARRAY[ROW('docs', 1, 'another model',"
            f" {vector})::embver.query_vector])",
        )
        assert "of another space than version 1" in (said.message_primary or "")


def test_python_arguments_of_the_wrong_type(docs: Embver) -> None:
    for encoder in (None, 5, b"hash:8"):
        with pytest.raises(InvalidArgument):
            docs.collection("docs").add_version(encoder)  # type: ignore[arg-type]
    for source in ("public.nothing", "nowhere.docs", "a.b.c.d", "1 2"):
        with pytest.raises(UnsupportedSource) as failure:
            docs.create_collection("more", source, "body")
        assert failure.value.detail["source"] == source
        assert failure.value.hint
    docs.create_collection("more", "public.docs", "body", key_columns="id")
    assert docs.collection("more").show()["key_columns"] == ["id"]
