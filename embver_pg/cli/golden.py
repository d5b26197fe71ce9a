"""``embver golden``: queries with judgments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embver_pg.cli.params import Name
from embver_pg.cli.render import table
from embver_pg.cli.session import Session, session

if TYPE_CHECKING:
    from embver_pg.evaluation.golden_files import GoldenQuery

app = typer.Typer(help="Golden sets: queries with judgments.", no_args_is_help=True)
_EXAMPLES = 5

QueriesFile = Annotated[
    Path | None,
    typer.Option("--queries", help="The queries, where PATH holds judgments by query id."),
]
SetName = Annotated[
    str | None, typer.Option("--name", help="Name of the set. [the file's name]", metavar="NAME")
]


@app.command("import")
def import_set(
    ctx: typer.Context,
    name: Name,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Directory in BEIR layout, or a .jsonl, .tsv, .csv or TREC file."
        ),
    ],
    queries: QueriesFile = None,
    set_name: SetName = None,
) -> None:
    """Store a golden set as the next version of its name."""
    from embver_pg.evaluation.golden_files import read_golden_set

    run = session(ctx)
    collection = run.collection(name)
    read = read_golden_set(path, queries=queries, name=set_name)
    row = collection.import_golden_set(read)
    run.output.emit(
        {"collection": name, "name": read.name, **row, "left_out": read.left_out},
        f"Golden set {read.name}, version {row['set_version']}: {row['queries']:,} queries,"
        f" {row['judgments']:,} judgments.",
    )
    if row["unknown_documents"]:
        run.output.note(
            f"{row['unknown_documents']:,} judged documents are not in {name};"
            f" see embver golden check {name}"
        )
    if read.left_out:
        run.output.note(f"{read.left_out:,} queries without a relevant document were left out.")


@app.command("list")
def list_sets(ctx: typer.Context, name: Name) -> None:
    """List the golden sets of a collection."""
    run = session(ctx)
    run.collection(name)
    rows = run.embver.database.rows(
        "SELECT * FROM embver.golden_sets WHERE collection = %s ORDER BY name, set_version",
        (name,),
    )
    columns = ("name", "set_version", "queries", "judgments", "unknown_documents", "imported_at")
    human = table(columns, ([row[column] for column in columns] for row in rows))
    run.output.emit(rows, human if rows else f"{name} has no golden set yet.")


@app.command()
def check(
    ctx: typer.Context,
    name: Name,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="A file as for import. [the stored set]"),
    ] = None,
    queries: QueriesFile = None,
    set_name: SetName = None,
) -> None:
    """Check a golden set against the documents there are now; exit code 3 where one is unknown."""
    run = session(ctx)
    run.collection(name)
    judged, left_out = _queries(run, name, path, queries, set_name)
    unknown = _unknown(run, name, judged)
    found = {
        "collection": name,
        "queries": len(judged),
        "judgments": sum(len(query.judgments) for query in judged),
        "left_out": left_out,
        "unknown_documents": len(unknown),
        "examples": unknown[:_EXAMPLES],
        "warnings": _warnings(judged),
    }
    run.output.emit(found)
    if unknown:
        raise typer.Exit(3)


def _queries(
    run: Session, name: str, path: Path | None, queries: Path | None, set_name: str | None
) -> tuple[tuple[GoldenQuery, ...], int]:
    if path is None:
        from embver_pg.evaluation.golden import read_stored

        return read_stored(run.embver.database, name, set_name)[1], 0
    from embver_pg.evaluation.golden_files import read_golden_set

    read = read_golden_set(path, queries=queries, name=set_name)
    return read.queries, read.left_out


def _unknown(run: Session, name: str, judged: tuple[GoldenQuery, ...]) -> list[str]:
    from psycopg import sql

    documents = sorted({key for query in judged for key in query.judgments})
    query = sql.SQL(
        "SELECT j.key FROM unnest(%s::text[]) AS j (key)"
        " WHERE NOT EXISTS (SELECT FROM {}() AS d WHERE d.name = j.key) ORDER BY j.key"
    ).format(sql.Identifier(f"embver_{name}", "document_names"))
    return [row["key"] for row in run.embver.database.rows(query, (documents,))]


def _warnings(judged: tuple[Any, ...]) -> list[str]:
    from embver_pg.evaluation.statistics import FEW_QUERIES

    if len(judged) >= FEW_QUERIES:
        return []
    return [f"{len(judged)} queries are few: below {FEW_QUERIES} a gate's bound is unreliable"]
