"""Installing again, upgrading, moving a live database by dump, and schemas that do not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embver_pg import resources, schema
from embver_pg.client import Embver
from embver_pg.errors import IncompatibleSchema, NotReady
from tests import servers
from tests.catalog import differences, read_catalog
from tests.conftest import Installed
from tests.migrations import dumps, scenario

ROOT = Path(__file__).resolve().parents[2]
NEXT_REVISION = """
from alembic import op

revision = "{line}_9999"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("{statement}")
"""


def catalog(database: Installed) -> dict[str, str]:
    with database.connect("admin") as connection:
        return read_catalog(connection)


@pytest.fixture
def bare(installed: Installed) -> Iterator[Installed]:
    """A database without embver-pg."""
    database = dumps.empty_database()
    yield database
    servers.drop_database(servers.server(), database.admin)


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The migrations of a release to come: one more revision in each line."""
    copy = tmp_path / "migrations"
    shutil.copytree(resources.migrations_dir(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    statements = {
        "core": "COMMENT ON TABLE embver_internal.worker IS 'of the next release'",
        # The search path of a store's migration has no store in it: see 0001_store.sql.
        "store": "COMMENT ON TABLE embver_docs_v1.job IS 'of the next release'",
    }
    for line, statement in statements.items():
        text = NEXT_REVISION.format(line=line, head=schema.head(line), statement=statement)
        (copy / line / "9999_next.py").write_text(text)
    return copy


@pytest.mark.both_versions
def test_init_is_idempotent(installed: Installed) -> None:
    empty = catalog(installed)
    schema.init(installed.owner)
    assert differences(empty, catalog(installed)) == []
    scenario.build(installed)
    filled = catalog(installed)
    for _ in range(2):
        schema.init(installed.owner)
        assert differences(filled, catalog(installed)) == []


@pytest.mark.both_versions
def test_upgrade_makes_generated_objects_again(installed: Installed, docs: Embver) -> None:
    docs.drain()
    docs.collection("docs").promote()
    before = catalog(installed)
    with installed.connect() as owner:
        for statement in (
            "DROP FUNCTION embver_docs_v1.queue_status()",
            "DROP VIEW embver_docs.current",
            "DROP FUNCTION embver_docs.search",
            "CREATE OR REPLACE FUNCTION embver_docs.capture_insert() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "DROP POLICY embedding_follows_source ON embver_docs_v1.embedding",
            "DROP TRIGGER embver_docs_update ON docs",
            "DROP TRIGGER embver_docs_truncate ON docs",
            "DROP TRIGGER embver_docs_insert ON docs",
            "DROP TRIGGER embver_docs_delete ON docs",
            "REVOKE ALL ON embver_docs_v1.embedding FROM embver_reader",
        ):
            owner.execute(statement.encode())
    assert len(differences(before, catalog(installed))) >= 10
    schema.init(installed.owner)
    assert differences(before, catalog(installed)) == []
    with installed.connect() as owner:
        owner.execute("INSERT INTO docs VALUES (7, 'flaps', 'and slats')")
    docs.drain()
    assert docs.collection("docs").search("flaps and slats", k=1)[0].id == 7


@pytest.mark.both_versions
def test_a_rollout_goes_on_in_a_restored_dump(
    installed: Installed, docs: Embver, bare: Installed
) -> None:
    docs.drain()
    collection = docs.collection("docs")
    collection.promote()
    assert collection.add_version("hash:16") == 2
    with installed.connect() as owner:
        owner.execute(
            "INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i, i % 2"
            " FROM generate_series(10, 400) AS i"
        )
        collection.start_rollout(2)
        owner.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        owner.execute("CREATE POLICY own ON docs FOR SELECT TO embver_r USING (tenant = 1)")
    # Midway: part of the walk done, documents queued, and a batch leased by a worker that dies.
    with installed.connect("worker") as worker:
        for _ in range(3):
            worker.execute("SELECT embver_docs_v2.walk_step(150)")
        leased = worker.execute(
            "SELECT item FROM embver_docs_v2.claim(gen_random_uuid(), 20, '1 second')"
        ).fetchall()
    assert len(leased) == 20
    with installed.connect() as owner:
        progress = owner.execute(
            "SELECT phase, queued, seen FROM embver.progress WHERE version = 2"
        ).fetchone()
        assert progress is not None
        assert progress["phase"] == "documents"
        assert 0 < progress["seen"] < 394

    version = servers.server().version
    dumps.restore(bare.admin, dumps.dump(installed.admin, version), version)
    assert differences(catalog(installed), catalog(bare)) == []

    with bare.connect() as owner, bare.embver() as embver:
        # The source is another table with another oid now: the registration has followed.
        row = owner.execute(
            "SELECT source = 'public.docs'::regclass AS same FROM embver_internal.collection"
        ).fetchone()
        assert row == {"same": True}
        owner.execute("UPDATE docs SET body = 'wings and stalls' WHERE id = 10")
        owner.execute("DELETE FROM docs WHERE id = 11")
        owner.execute("INSERT INTO docs VALUES (900, 'after', 'the move', 1)")
        docs_there = embver.collection("docs")
        with pytest.raises(NotReady):
            docs_there.promote()
        report = embver.drain()
        assert report.failed == 0
        for number in (1, 2):
            assert docs_there.verify(number) == scenario.CLEAN
        docs_there.promote(force=True, reason="no golden set in this test")
        assert docs_there.search("wings and stalls", k=1)[0].id == 10
        docs_there.rollback()
        assert docs_there.search("after the move", k=1)[0].version == 1
        docs_there.promote(force=True, reason="forward again")
        # TRUNCATE and replication's role fire the capture as before: ENABLE ALWAYS was kept.
        owner.execute("TRUNCATE docs")
        embver.drain()
        assert docs_there.verify(2) == scenario.CLEAN
        assert docs_there.search("wings", k=1) == []
    with bare.connect("admin") as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute("INSERT INTO docs VALUES (1, 'replicated', 'row', 0), (2, 'seen', 'row', 1)")
    with bare.embver() as embver:
        assert embver.drain().written == 4
    with bare.embver("reader") as embver:  # its policy came along
        hits = embver.collection("docs").search("replicated row", k=5)
        assert [hit.id for hit in hits] == [2]


def test_a_missing_schema(bare: Installed) -> None:
    with pytest.raises(IncompatibleSchema) as failure, bare.embver() as embver:
        embver.collections()
    assert failure.value.hint == "embver init"
    assert failure.value.detail == {"database": None, "library": schema.head("core")}
    assert failure.value.exit_code == 4


def test_an_older_and_a_newer_schema(
    installed: Installed, docs: Embver, next_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs.drain()
    current = schema.head("core")
    with monkeypatch.context() as patch:
        patch.setattr(resources, "migrations_dir", lambda: next_release)
        with pytest.raises(IncompatibleSchema) as failure, installed.embver() as embver:
            embver.collections()
        assert failure.value.detail == {"database": current, "library": "core_9999"}
        assert failure.value.hint == "embver upgrade"

        schema.init(installed.owner)
        with installed.embver() as embver:
            assert len(embver.collections()) == 1
        with installed.connect() as owner:
            for table in ("embver_internal.worker", "embver_docs_v1.job"):
                found = owner.execute(
                    "SELECT obj_description(%s::regclass) AS comment", (table,)
                ).fetchone()
                assert found == {"comment": "of the next release"}
            stored = owner.execute("SELECT version_num FROM embver_docs_v1.alembic_version")
            assert stored.fetchall() == [{"version_num": "store_9999"}]

    with pytest.raises(IncompatibleSchema) as failure, installed.embver() as embver:
        embver.collections()
    assert failure.value.detail == {"database": "core_9999", "library": current}
    assert failure.value.hint == "pip install --upgrade embver-pg"
    with pytest.raises(IncompatibleSchema):
        schema.init(installed.owner)


def test_a_failed_upgrade_leaves_everything_as_it_was(
    installed: Installed, docs: Embver, next_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = catalog(installed)
    broken = next_release / "store" / "9999_next.py"
    broken.write_text(broken.read_text().replace("COMMENT ON", "COMMENT AT"))
    monkeypatch.setattr(resources, "migrations_dir", lambda: next_release)
    with pytest.raises(Exception, match="COMMENT AT"):
        schema.init(installed.owner)
    assert differences(before, catalog(installed)) == []


def test_plain_alembic_without_a_line_refuses(installed: Installed, tmp_path: Path) -> None:
    before = catalog(installed)
    config = tmp_path / "alembic.ini"
    config.write_text(f"[alembic]\nscript_location = {resources.migrations_dir()}\n")

    def alembic(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "alembic", "-c", config, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "EMBVER_DATABASE_URL": installed.owner},
        )

    for arguments in (["upgrade", "heads"], ["-x", f"url={installed.owner}", "upgrade", "heads"]):
        refused = alembic(*arguments)
        assert refused.returncode != 0
        assert "use `embver upgrade`" in refused.stderr
    assert differences(before, catalog(installed)) == []
