"""``embver collection``: registered sources."""

from __future__ import annotations

from typing import Annotated

import typer

from embver_pg.cli.params import Name
from embver_pg.cli.render import table
from embver_pg.cli.session import session

app = typer.Typer(help="Registered source tables.", no_args_is_help=True)


@app.command()
def create(
    ctx: typer.Context,
    name: Name,
    source: Annotated[
        str, typer.Option("--source", metavar="TABLE", help="The table, quoted as in SQL.")
    ],
    content: Annotated[
        str,
        typer.Option("--content", metavar="SQL", help="Expression over its columns: the text."),
    ],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="COLUMN", help="Key column; repeat it. [primary key]"),
    ] = None,
) -> None:
    """Register a table and begin to capture its changes."""
    run = session(ctx)
    run.embver.create_collection(name, source, content, key or None)
    row = run.collection(name).show()
    run.output.emit(
        row, f"Collection {name} is {row['source']} by {', '.join(row['key_columns'])}."
    )
    run.output.note(f"next: embver version add {name} ENCODER")


@app.command("list")
def list_collections(ctx: typer.Context) -> None:
    """List the collections."""
    run = session(ctx)
    rows = run.embver.collections()
    columns = ("name", "source", "key_columns", "content", "active", "previous", "mode")
    cells = ([", ".join(row[c]) if c == "key_columns" else row[c] for c in columns] for row in rows)
    run.output.emit(rows, table(columns, cells) if rows else "There is no collection yet.")


@app.command()
def show(ctx: typer.Context, name: Name) -> None:
    """Show a collection with its versions."""
    run = session(ctx)
    collection = run.collection(name)
    found = {**collection.show(), "versions": collection.versions()}
    human = {
        **found,
        "versions": [f"{row['version']} {row['state']}" for row in found["versions"]],
    }
    run.output.emit(found if run.output.json_mode else human)


@app.command()
def refresh(ctx: typer.Context, name: Name) -> None:
    """Rebuild the generated objects after the source table was altered."""
    run = session(ctx)
    run.collection(name).refresh()
    run.output.emit({"refreshed": name}, f"The generated objects of {name} are rebuilt.")


@app.command()
def drop(ctx: typer.Context, name: Name) -> None:
    """Forget a collection; refused while it has versions."""
    run = session(ctx)
    run.collection(name).drop()
    run.output.emit({"dropped": name}, f"Collection {name} is dropped; its table is untouched.")
