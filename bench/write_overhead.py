"""What the capture triggers cost the application: writes with capture against none.

Three equal tables, without capture, with one live version and with two. Backend CPU and wall time
at synchronous_commit = off. One row is written in two ways: as an application does by default (a
transaction, its statement parsed and planned anew), and as cheaply as can be (a prepared statement
in autocommit), where the same overhead stands against the smallest base. The goals are those of
the former.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count

import _common as common

from embver_pg.client import Embver
from embver_pg.db import Database

_TABLES = {"none": "bench_none", "one version": "bench_one", "two versions": "bench_two"}
_VERSIONS = {"none": 0, "one version": 1, "two versions": 2}
_BULK = 1000
_STEP = 7919  # spreads the keys over the table; it divides no usual number of documents
# Of the issue, for one live version: CPU and wall.
_GOALS = {
    "update content, 1 row": {"cpu": 1.4, "wall": 1.1},
    "update content, 1000 rows": {"cpu": 1.8},
    "update other column, 1 row": {"cpu": 1.3},
    "update other column, 1000 rows": {"cpu": 1.3},
}
# CPU ratios of the trigger of pgai 0.12.1, measured outside this benchmark; quoted to compare.
_PGAI = {
    "update content, 1 row": 3.0,
    "update content, 1000 rows": 7.0,
    "update other column, 1000 rows": 5.0,
}


@dataclass(frozen=True)
class Write:
    """One kind of write.

    Attributes:
        query: With ``{table}``; ``%(key)s`` is the first key.
        rows: Rows written by one execution.
        repeats: Executions in one block.
        is_prepared: Sent as a prepared statement in autocommit.
    """

    query: str
    rows: int = 1
    repeats: int = 150
    is_prepared: bool = False


_CONTENT = "UPDATE {table} SET body = overlay(body PLACING md5(%(key)s::text) FROM 1) WHERE "
_OTHER = "UPDATE {table} SET views = views + 1 WHERE "
_INSERT = (
    "INSERT INTO {table} SELECT i, 'title ' || i, repeat(md5(i::text) || ' ', 30), mod(i, 100)"
    " FROM generate_series(%(key)s::bigint, %(key)s::bigint + {last}) AS i"
)
_DELETE = "DELETE FROM {table} WHERE "
_ONE = "id = %(key)s::bigint"
_MANY = f"id BETWEEN %(key)s::bigint AND %(key)s::bigint + {_BULK - 1}"


def _writes() -> dict[str, Write]:
    singles = {
        "update content, 1 row": _CONTENT + _ONE,
        "update other column, 1 row": _OTHER + _ONE,
        "insert, 1 row": _INSERT.replace("{last}", "0"),
        "delete, 1 row": _DELETE + _ONE,
    }
    bulks = {
        "update content, 1000 rows": _CONTENT + _MANY,
        "update other column, 1000 rows": _OTHER + _MANY,
        "insert, 1000 rows": _INSERT.replace("{last}", str(_BULK - 1)),
        "delete, 1000 rows": _DELETE + _MANY,
    }
    return {
        **{name: Write(query) for name, query in singles.items()},
        **{f"{name}, prepared": Write(query, is_prepared=True) for name, query in singles.items()},
        **{name: Write(query, _BULK, 2, is_prepared=True) for name, query in bulks.items()},
    }


def main() -> None:
    args = common.arguments(
        __doc__, documents=(20_000, "rows of each table"), rounds=(25, "rounds")
    )
    results: list[common.Result] = []
    with common.temporary_server(args.pg_version) as servers, ExitStack() as stack:
        common.log("filling three tables")
        with Embver(Database(servers.owner)) as embver:
            for variant in _TABLES:
                _fill(embver, variant, args.documents)
        session = common.Session(servers.owner)
        stack.callback(session.close)
        for name, write in _writes().items():
            common.log(name)
            results += _compare(session, name, write, args)
    facts = {"documents": args.documents, "rounds": args.rounds, "PostgreSQL": args.pg_version}
    common.report("write_overhead", results, facts, args.json)


def _fill(embver: Embver, variant: str, documents: int) -> None:
    table = _TABLES[variant]
    for statement in (
        f"CREATE TABLE {table} (id bigint PRIMARY KEY, title text NOT NULL,"
        " body text NOT NULL, tenant int NOT NULL, views int NOT NULL DEFAULT 0)",
        f"CREATE INDEX ON {table} (tenant)",
        _INSERT.replace("{table}", table)
        .replace("{last}", str(documents - 1))
        .replace("%(key)s", "1"),
        f"CREATE TABLE {table}_copy AS TABLE {table}",
    ):
        embver.database.rows(statement)
    if not _VERSIONS[variant]:
        return
    collection = embver.create_collection(table, f"public.{table}", "title || E'\\n' || body")
    for number in range(1, _VERSIONS[variant] + 1):
        collection.add_version(f"hash:{63 + number}", index={"type": "none"})
        collection.start_rollout(number)
        embver.drain(batch=2000)
        if number < _VERSIONS[variant]:
            collection.promote()
        embver.database.rows(
            f"CREATE TABLE {table}_vectors_{number} AS TABLE embver_{table}_v{number}.embedding"
        )


def _compare(
    session: common.Session, name: str, write: Write, args: argparse.Namespace
) -> list[common.Result]:
    keys = count(1)
    variants = {
        variant: partial(_block, session, write, variant, args.documents, keys)
        for variant in _TABLES
    }
    costs = common.in_rounds(args.rounds, variants)
    results = []
    for variant in list(_TABLES)[1:]:
        for measure in ("cpu", "wall"):
            ratio, base = common.median_ratio(costs[variant], costs["none"], measure)
            is_goal = variant == "one version"
            goal = _GOALS.get(name, {}).get(measure) if is_goal else None
            quoted = _PGAI.get(name) if is_goal and measure == "cpu" else None
            note = f"pgai's trigger {quoted:.1f}" if quoted else ""
            results.append(common.Result(f"{name}, {variant}", measure, ratio, goal, base, note))
    return results


def _block(
    session: common.Session, write: Write, variant: str, documents: int, keys: count[int]
) -> common.Cost:
    table = _TABLES[variant]
    query = write.query.replace("{table}", table)
    prepared = query.replace("%(key)s", "$1")
    connection = session.connection
    _restore(session, variant)

    def run(repeats: int) -> int:
        for _ in range(repeats):
            number = next(keys)
            if "INSERT" in query:
                key = documents + number * write.rows
            else:
                key = 1 + number * _STEP % (documents - write.rows)
            if write.is_prepared:
                session.execute(prepared, [str(key).encode()])
            else:
                with connection.transaction():
                    connection.execute(query, {"key": key})
        return repeats

    run(max(3, write.repeats // 15))  # plans anew after VACUUM
    return session.measure(lambda: run(write.repeats))


def _restore(session: common.Session, variant: str) -> None:
    """Bring the tables back to what they were, with no leftovers for the next block to meet."""
    table = _TABLES[variant]
    execute = session.connection.execute
    execute(
        f"DELETE FROM {table} AS t WHERE NOT EXISTS"
        f" (SELECT FROM {table}_copy AS c WHERE c.id = t.id)"
    )
    execute(f"INSERT INTO {table} SELECT * FROM {table}_copy ON CONFLICT DO NOTHING")
    tables = [table]
    for number in range(1, _VERSIONS[variant] + 1):
        store = f"embver_{table}_v{number}"
        execute(
            f"INSERT INTO {store}.embedding SELECT * FROM {table}_vectors_{number}"
            " ON CONFLICT DO NOTHING"
        )
        execute(f"TRUNCATE {store}.job")
        tables += [f"{store}.embedding", f"{store}.job"]
    execute(f"VACUUM {', '.join(tables)}")


if __name__ == "__main__":
    main()
