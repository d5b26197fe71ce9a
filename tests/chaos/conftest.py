"""A collection of sixty documents, its first version filling and not begun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embver_pg.client import Collection, Embver
from embver_pg.db import Row
from tests.conftest import Installed

DOCUMENTS = 60


def make_docs(connection: psycopg.Connection[Row], count: int = DOCUMENTS) -> None:
    """The table ``docs``; every text differs."""
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    connection.execute(
        "INSERT INTO docs SELECT i, 'title ' || i, 'body of ' || md5(i::text)"
        " FROM generate_series(1, %s) AS i",
        (count,),
    )


def begin(embver: Embver, encoder: str = "hash:16") -> Collection:
    """Register ``docs`` and start filling version 1."""
    collection = embver.create_collection("docs", "public.docs", "title || E'\\n' || body")
    collection.add_version(encoder)
    collection.start_rollout(1)
    return collection


@pytest.fixture
def filling(installed: Installed, owner: psycopg.Connection[Row]) -> Iterator[Embver]:
    make_docs(owner)
    with installed.embver() as embver:
        begin(embver)
        yield embver


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where worker processes write what they encode."""
    return tmp_path / "encoded.jsonl"
