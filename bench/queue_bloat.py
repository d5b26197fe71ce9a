"""The queue after a million jobs: throughput of the last tenth against that of the first.

Jobs are enqueued, claimed and completed by the store's own functions, 500 a lease; the documents
have not changed, so nothing is encoded and the queue alone is measured. Autovacuum runs with the
settings that the queue's tables come with. A second run keeps a snapshot open all the while, which
hides every dead row from vacuum.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from uuid import uuid4

import _common as common

from embver_pg.client import Embver
from embver_pg.db import Database, open_connection

_DOCUMENTS = 20_000
_BATCH = 500
_AHEAD = 10_000  # jobs enqueued at once
_GOAL = 1 / 0.75
_SETTINGS = {"autovacuum": "on", "autovacuum_naptime": "1s"}


def main() -> None:
    args = common.arguments(
        __doc__, jobs=(1_000_000, "jobs"), held=(200_000, "jobs under a held snapshot")
    )
    results = []
    for name, jobs, is_held in (
        ("autovacuum", args.jobs, False),
        ("held snapshot", args.held, True),
    ):
        common.log(f"{jobs} jobs, {name}")
        with common.temporary_server(args.pg_version, _SETTINGS) as servers:
            first, last, size = _run(servers.owner, jobs, is_held)
        goal = None if is_held else _GOAL
        note = f"{first:.0f}, {last:.0f} jobs/s; the queue ends with {size >> 20} MB"
        results.append(
            common.Result(
                f"{jobs} jobs, {name}", "rate", first / last, goal, note=f"first over last; {note}"
            )
        )
    common.report("queue_bloat", results, {"PostgreSQL": args.pg_version}, args.json)


def _run(url: str, jobs: int, is_held: bool) -> tuple[float, float, int]:
    """Jobs a second in the first and in the last tenth, and the bytes of the queue's table."""
    with Embver(Database(url)) as embver:
        embver.database.rows("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
        embver.database.rows(
            f"INSERT INTO docs SELECT i, md5(i::text) FROM generate_series(1, {_DOCUMENTS}) AS i"
        )
        collection = embver.create_collection("docs", "public.docs", "body")
        collection.add_version("hash:8", index={"type": "none"})
        collection.start_rollout(1)
        embver.drain(batch=2000)
    holder = closing(open_connection(url)) if is_held else nullcontext()
    with closing(open_connection(url)) as connection, holder as snapshot:
        if snapshot is not None:
            snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            snapshot.execute("SELECT FROM docs LIMIT 1")
        began: list[float] = []
        for done in range(0, jobs, _BATCH):
            if done % _AHEAD == 0:
                connection.execute(
                    "INSERT INTO embver_docs_v1.job (id) SELECT 1 + mod(%s + i, %s)"
                    " FROM generate_series(1, %s) AS i",
                    (done, _DOCUMENTS, _AHEAD),
                )
            began.append(time.perf_counter())
            row = connection.execute(
                "SELECT lease FROM embver_docs_v1.claim(%s, %s) LIMIT 1", (uuid4(), _BATCH)
            ).fetchone()
            assert row is not None
            connection.execute(
                "SELECT embver_docs_v1.complete(%s, '{}', '{}', '{}')", (row["lease"],)
            )
        began.append(time.perf_counter())
        size = connection.execute(
            "SELECT pg_total_relation_size('embver_docs_v1.job') AS size"
        ).fetchone()
        assert size is not None
    tenth = max(1, (len(began) - 1) // 10)
    rate = tenth * _BATCH
    return rate / (began[tenth] - began[0]), rate / (began[-1] - began[-1 - tenth]), size["size"]


if __name__ == "__main__":
    main()
