"""A database of an older release, upgraded, is the same as a fresh one, and goes on working."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from embver_pg import schema
from embver_pg.db import Row
from tests import servers
from tests.catalog import differences, read_catalog
from tests.conftest import Installed
from tests.migrations import dumps, scenario
from tests.migrations.dumps import empty_database
from tests.migrations.freeze import FIXTURES

pytestmark = pytest.mark.both_versions

RELEASES = sorted(path.stem for path in FIXTURES.glob("*.sql"))


@pytest.fixture(params=RELEASES)
def upgraded(request: pytest.FixtureRequest, installed: Installed) -> Iterator[Installed]:
    """The dump of a release, restored, then upgraded to this one by its owner."""
    script = (FIXTURES / f"{request.param}.sql").read_text()
    restored = empty_database()
    dumps.restore(restored.admin, script, servers.server().version)
    schema.init(restored.owner)
    yield restored
    servers.drop_database(servers.server(), restored.admin)


def test_upgraded_equals_fresh(upgraded: Installed, installed: Installed) -> None:
    scenario.build(installed)
    with upgraded.connect("admin") as old, installed.connect("admin") as new:
        found, expected = read_catalog(old), read_catalog(new)
    assert differences(expected, found) == []
    # Not two empty answers: each kind of object is there.
    kinds = {key.partition(" ")[0] for key in expected}
    assert kinds >= {
        "schema", "relation", "column", "sequence", "constraint", "index", "view", "function",
        "type", "policy", "trigger", "template", "revision",
    }  # fmt: skip
    assert len(expected) > 400


def test_upgraded_goes_on_working(upgraded: Installed) -> None:
    with upgraded.embver("reader") as embver:
        articles = embver.collection(scenario.COLLECTION)
        hits = articles.search("On gliders chapter 3", k=3)
        assert hits[0].key == {"lang": "en", "id": 3}
        assert {hit.version for hit in hits} == {2}

    with upgraded.connect() as owner, upgraded.embver() as embver:
        articles = embver.collection(scenario.COLLECTION)
        waiting = queued(owner)
        assert waiting == {1: 4, 2: 4}  # as the release left them
        owner.execute("INSERT INTO articles VALUES (60, 'en', 'On propellers', 'and pitch', 0)")
        owner.execute("UPDATE articles SET tenant = 5 WHERE id = 8")  # content is the same
        owner.execute("DELETE FROM articles WHERE id = 9")
        assert queued(owner) == {1: 5, 2: 5}

        report = embver.drain(encoder_for=scenario.squeamish)
        assert (report.written, report.failed) == (10, 0)
        # Versions of a release without canaries get theirs from the first worker.
        events = owner.execute(
            "SELECT version, reason FROM embver.events WHERE kind = 'store_canary' ORDER BY version"
        ).fetchall()
        assert [row["version"] for row in events] == [1, 2]
        assert {row["reason"] for row in events} == {
            "the version had none: made by its first worker"
        }
        for version in (1, 2):
            # The waived dead letter is missing for good reason.
            assert articles.verify(version) == {**scenario.CLEAN, "missing": 1}
        assert articles.search("propellers and pitch", k=1)[0].key == {"lang": "en", "id": 60}

        articles.rollback("to see that the older version was written too")
        assert articles.search("propellers and pitch", k=1)[0].key == {"lang": "en", "id": 60}
        articles.promote(force=True, reason="the golden set is small")

        assert articles.add_version("hash:32") == 3
        articles.start_rollout(3)
        embver.drain(encoder_for=scenario.squeamish)
        assert articles.verify(3) == {**scenario.CLEAN, "missing": 1}
        articles.abort_rollout("enough")


def test_upgraded_kept_its_history(upgraded: Installed) -> None:
    with upgraded.connect() as owner:
        states = owner.execute(
            "SELECT version, state FROM embver.versions ORDER BY version"
        ).fetchall()
        assert [(row["version"], row["state"]) for row in states] == [
            (1, "fallback"),
            (2, "active"),
        ]
        dead = owner.execute("SELECT version, waived_reason FROM embver.dead_letters").fetchall()
        assert [(row["version"], row["waived_reason"]) for row in dead] == [
            (1, "nobody reads it"),
            (2, "nobody reads it"),
        ]
        for view, rows in (("golden_sets", 1), ("evaluations", 2), ("gates", 1), ("rollouts", 2)):
            found = owner.execute(f"SELECT * FROM embver.{view}".encode()).fetchall()
            assert len(found) == rows, view
        kinds = {row["kind"] for row in owner.execute("SELECT kind FROM embver.events").fetchall()}
        assert kinds >= {"create_collection", "add_version", "start_rollout", "promote", "waive"}


def queued(owner: psycopg.Connection[Row]) -> dict[int, int]:
    rows = owner.execute("SELECT version, ready + waiting AS jobs FROM embver.queue").fetchall()
    return {row["version"]: row["jobs"] for row in rows}
