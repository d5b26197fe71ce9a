"""A death between two chunks of a document: nobody ever sees half of it, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from embver_pg.db import Row
from tests.chaos.processes import backends, worker_process
from tests.conftest import Installed
from tests.sql.support import check_stores
from tests.waiting import NEVER, until

pytest.importorskip("semantic_text_splitter", reason="the extra chunking is not installed")

OPTIONS = {"batch": 8, "lease": NEVER}
LOCK = 77
# The server stops before it writes the second chunk of a document.
HOLD = f"""
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({LOCK});
    RETURN NEW;
END $$;
CREATE TRIGGER hold BEFORE INSERT ON embver_docs_v1.embedding
FOR EACH ROW WHEN (NEW.chunk = 1) EXECUTE FUNCTION hold();
"""


@pytest.mark.parametrize("victim", ["worker", "backend"])
def test_killed_between_two_chunks(
    installed: Installed, owner: psycopg.Connection[Row], log: Path, victim: str
) -> None:
    owner.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    owner.execute(
        "INSERT INTO docs SELECT i, repeat('Wings lift glider ' || i || '. ', 1 + i % 4)"
        " FROM generate_series(1, 24) AS i"
    )
    with installed.embver() as embver:
        collection = embver.create_collection("docs", "public.docs", "body")
        chunker = {"type": "characters", "size": 30, "overlap": 0}
        collection.add_version("hash:16", index={"type": "none"}, chunker=chunker)
        collection.start_rollout(1)
    owner.execute(HOLD.encode())
    with (
        installed.connect("admin") as admin,
        worker_process(installed.owner, options=OPTIONS, log=str(log)) as process,
    ):
        admin.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        (backend,) = until(
            lambda: [
                row for row in backends(owner, r'"complete"\(') if row["wait_event_type"] == "Lock"
            ],
            "a completion stands between two chunks",
        )
        assert owner.execute("SELECT FROM embver_docs_v1.embedding").fetchall() == []
        if victim == "backend":
            admin.execute("SELECT pg_terminate_backend(%s)", (backend["pid"],))
        process.kill()
        owner.execute("UPDATE docs SET body = 'short now' WHERE id <= 4")
        owner.execute("DELETE FROM docs WHERE id = 5")
        admin.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
        until(lambda: not backends(owner, r'"complete"\('), "the server ends its statement")
    owner.execute("UPDATE embver_docs_v1.lease SET lease_expires_at = '-infinity'")
    with worker_process(installed.owner, options=OPTIONS, log=str(log), drain=True) as successor:
        successor.finish()
    check_stores(installed)
