"""A database with a bit of everything that a release keeps: what its fixture is dumped from.

One collection with a key of two columns; version 1 is the fallback, version 2 active. There are
documents, a waived dead letter, queued jobs, a golden set, evaluations, a gate and events.
"""

from __future__ import annotations

from collections.abc import Sequence

from embver_pg.encoders import EncoderSpec, RejectedInputError, Vectors
from embver_pg.encoders.hashing import HashEncoder
from embver_pg.evaluation.golden_files import GoldenQuery, GoldenSet
from tests.conftest import Installed

COLLECTION = "articles"
CONTENT = "title || E'\\n' || coalesce(body, '')"
TOPICS = ("wings", "stalls", "flaps", "gliders", "rudders", "tailplanes")
CLEAN = {"missing": 0, "stale": 0, "orphaned": 0}


class Squeamish(HashEncoder):
    """Refuses texts that name it, as an endpoint refuses what it cannot read."""

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        refused = [n for n, text in enumerate(texts) if "unreadable" in text]
        if refused:
            raise RejectedInputError("unreadable", detail={"positions": refused, "exact": True})
        return super().encode_documents(texts)


def squeamish(spec: EncoderSpec) -> Squeamish:
    return Squeamish(spec)


def build(database: Installed) -> None:
    """Fill a database in which embver-pg is installed and nothing registered."""
    with database.connect() as owner:
        owner.execute(
            "CREATE TABLE articles (id int, lang text, title text NOT NULL, body text,"
            " tenant int NOT NULL DEFAULT 1, PRIMARY KEY (lang, id))"
        )
        owner.execute("GRANT SELECT ON articles TO embver_r")
        for number in range(1, 41):
            owner.execute(
                "INSERT INTO articles VALUES (%s, %s, %s, %s, %s)",
                (
                    number,
                    ("de", "en")[number % 2],
                    f"On {TOPICS[number % 6]}",
                    f"chapter {number}",
                    number % 3,
                ),
            )
        owner.execute("INSERT INTO articles VALUES (99, 'en', 'unreadable', NULL, 1)")
    with database.embver() as embver:
        articles = embver.create_collection(COLLECTION, "public.articles", CONTENT)
        for uri in ("hash:8", "hash:16"):
            version = articles.add_version(uri)
            articles.start_rollout(version)
            embver.drain(encoder_for=squeamish)
            articles.waive(version, {"lang": "en", "id": 99}, "nobody reads it")
            if version == 1:
                articles.promote()
        queries = tuple(
            GoldenQuery(f"q{n}", topic, {f'["{("de", "en")[n % 2]}", "{n}"]': 1})
            for n, topic in zip(
                (3, 4, 5, 6), ("gliders", "rudders", "tailplanes", "wings"), strict=True
            )
        )
        articles.import_golden_set(GoldenSet("topics", queries))
        articles.gate(articles.evaluate(2), articles.evaluate(1))
        articles.promote(force=True, reason="four queries prove little")
    with database.connect() as owner:  # nobody works these off
        owner.execute("UPDATE articles SET body = 'rewritten' WHERE id BETWEEN 1 AND 3")
        owner.execute("INSERT INTO articles VALUES (50, 'fr', 'Sur les ailes', NULL, 2)")
        owner.execute("DELETE FROM articles WHERE id = 7")
