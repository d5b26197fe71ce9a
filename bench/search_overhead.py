"""What the generated search and views cost a query: against plain pgvector on the same table.

Random unit vectors with an HNSW index (m = 16), prepared statements, the 10 nearest of each query
vector. Every variant answers the same queries in the same round. The goals are held against the
backend's CPU time, where the system tells it: a search does nothing but compute, and waits only for
a processor.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from functools import partial

import _common as common
import numpy as np
from psycopg import sql

from embver_pg import codec
from embver_pg.client import Embver
from embver_pg.db import Database
from embver_pg.encoders import Vectors

_SEARCH, _VIEW = 1.2, 1.05
_OPERATOR = "embedding <=> $1::vector"
_TAGGED = "embver.query('docs', 1, $1::vector)"
# Of the variants, the queries; the first is the base.
_QUERIES = {
    "plain pgvector": (
        f"SELECT id, {_OPERATOR} AS distance FROM embver_docs_v1.embedding"
        f" ORDER BY {_OPERATOR} LIMIT 10"
    ),
    "plain pgvector, joined": (
        f"SELECT d.id, d.title, {_OPERATOR} AS distance FROM embver_docs_v1.embedding AS e"
        f" JOIN docs AS d USING (id) ORDER BY {_OPERATOR} LIMIT 10"
    ),
    "search": f"SELECT id, distance FROM embver_docs.search(ARRAY[{_TAGGED}], 10)",
    "view versions": (
        f"SELECT id, {_OPERATOR} AS distance FROM embver_docs.versions WHERE version = 1"
        f" ORDER BY {_OPERATOR} LIMIT 10"
    ),
    "view versions, title": (
        f"SELECT id, title, {_OPERATOR} AS distance FROM embver_docs.versions WHERE version = 1"
        f" ORDER BY {_OPERATOR} LIMIT 10"
    ),
    "view current": (
        f"SELECT id, {_OPERATOR} AS distance FROM embver_docs.current ORDER BY {_OPERATOR} LIMIT 10"
    ),
}


def main() -> None:
    args = common.arguments(
        __doc__,
        rows=(100_000, "documents"),
        dimensions=(384, "dimensions"),
        rounds=(40, "rounds of 25 queries each"),
    )
    with common.temporary_server(args.pg_version) as servers, ExitStack() as stack:
        began = time.monotonic()
        with Embver(Database(servers.owner)) as embver:
            _fill(embver, args.rows, args.dimensions)
        common.log(f"loaded and indexed in {time.monotonic() - began:.0f} s")
        sessions = {
            role: common.Session(url)
            for role, url in (("owner", servers.owner), ("reader", servers.reader))
        }
        for session in sessions.values():
            stack.callback(session.close)
        queries = _vectors(np.random.default_rng(2), 500, args.dimensions)
        results = [
            result
            for role, session in sessions.items()
            for result in _compare(session, role, queries, args.rounds)
        ]
    facts = {
        "documents": args.rows,
        "dimensions": args.dimensions,
        "rounds": args.rounds,
        "PostgreSQL": args.pg_version,
    }
    common.report("search_overhead", results, facts, args.json)


def _vectors(generator: np.random.Generator, count: int, dimensions: int) -> Vectors:
    rows = generator.standard_normal((count, dimensions), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _fill(embver: Embver, rows: int, dimensions: int) -> None:
    """Documents, and beside each a random vector with the hash of its content, as if encoded."""
    common.log(f"loading {rows} vectors and building the index")
    database = embver.database
    database.rows("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, tenant int)")
    database.rows(
        "INSERT INTO docs SELECT i, 'title ' || i, repeat(md5(i::text) || ' ', 20), mod(i, 100)"
        f" FROM generate_series(1, {rows}) AS i"
    )
    database.rows("GRANT SELECT ON docs TO bench_reader")
    docs = embver.create_collection("docs", "public.docs", "title || E'\\n' || body")
    docs.add_version(f"hash:{dimensions}", index={"type": "hnsw", "m": 16})
    generator = np.random.default_rng(1)
    with database.connection() as connection:
        for first in range(1, rows + 1, 5000):
            vectors = _vectors(generator, min(5000, rows + 1 - first), dimensions)
            connection.execute(
                sql.SQL(
                    "INSERT INTO embver_docs_v1.embedding (id, embedding, content_hash,"
                    " encoded_lease) SELECT d.id, v.embedding, embver.hash(d.content), 0"
                    " FROM unnest(%s) WITH ORDINALITY AS v (embedding, i)"
                    " JOIN embver_docs.document AS d ON d.id = %s + v.i - 1"
                ),
                (codec.vector_array(vectors), first),
            )
    docs.start_rollout(1)
    embver.drain()
    docs.promote()
    with database.connection() as connection:
        connection.execute("VACUUM ANALYZE")


def _compare(
    session: common.Session, role: str, queries: Vectors, rounds: int
) -> list[common.Result]:
    packed = [codec.pack(query[None, :])[4:] for query in queries]
    generator = np.random.default_rng(3)

    def run(query: str) -> int:
        for vector in chosen:
            session.execute(query, [vector], binary=1)
        return len(chosen)

    chosen = packed[:20]
    for query in _QUERIES.values():
        run(query)
    costs: dict[str, list[common.Cost]] = {name: [] for name in _QUERIES}
    for number in range(rounds):
        chosen = [packed[i] for i in generator.choice(len(packed), 25)]
        blocks = {name: partial(session.measure, partial(run, q)) for name, q in _QUERIES.items()}
        for name, found in common.in_rounds(1, blocks, seed=number).items():
            costs[name] += found
    base, *others = _QUERIES
    results = []
    measures = ("wall",) if math.isnan(costs[base][0].cpu) else ("cpu", "wall")
    for name in others:
        goal = _SEARCH if name == "search" else _VIEW if name.startswith("view") else None
        for measure in measures:
            ratio, microseconds = common.median_ratio(costs[name], costs[base], measure)
            results.append(
                common.Result(
                    f"{name}, {role}",
                    measure,
                    ratio,
                    goal if measure == measures[0] else None,
                    microseconds,
                )
            )
    return results


if __name__ == "__main__":
    main()
