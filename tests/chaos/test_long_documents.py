"""Documents longer than the model reads are cut and counted, or refused with their length."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from embver_pg.client import Collection, Embver
from embver_pg.db import Row
from tests.conftest import Installed

LONG = 3  # of ten documents


def filled(embver: Embver, owner: psycopg.Connection[Row], **options: Any) -> Collection:
    owner.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    owner.execute(
        "INSERT INTO docs SELECT i, repeat('word ', CASE WHEN i <= %s THEN 9 ELSE 8 END) || i"
        " FROM generate_series(1, 10) AS i",
        (LONG,),
    )
    collection = embver.create_collection("docs", "public.docs", "body")
    collection.add_version("hash:16", max_tokens=9, **options)
    collection.start_rollout(1)
    return collection


def test_cut_documents_are_counted(installed: Installed, owner: psycopg.Connection[Row]) -> None:
    steps: list[int] = []
    with installed.embver() as embver:
        collection = filled(embver, owner)
        worker = installed.new_worker(
            "worker",
            batch=4,
            on_step=lambda name, figures: (
                steps.append(figures["truncated"]) if name == "completed" else None
            ),
        )
        report = worker.run(drain=True)
        assert (report.written, report.failed, report.truncated) == (10, 0, LONG)
        assert sum(steps) == LONG
        assert collection.verify(1)["missing"] == 0


@pytest.mark.both_versions
def test_refused_documents_are_dead_letters(
    installed: Installed, owner: psycopg.Connection[Row]
) -> None:
    with installed.embver() as embver:
        collection = filled(embver, owner, overflow="refuse")
        report = embver.drain()
        assert (report.written, report.failed, report.truncated) == (10 - LONG, LONG, 0)
        letters = owner.execute("SELECT key, error FROM embver.dead_letters").fetchall()
        assert sorted(row["key"]["id"] for row in letters) == [1, 2, 3]
        assert {row["error"] for row in letters} == {
            "the document has 10 tokens and the model reads 9"
        }
        owner.execute("UPDATE docs SET body = 'shorter' WHERE id <= 3")
        embver.drain()
        assert owner.execute("SELECT FROM embver.dead_letters").fetchall() == []
        assert collection.verify(1) == {"missing": 0, "stale": 0, "orphaned": 0}
