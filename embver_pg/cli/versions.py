"""``embver version``: model versions and their stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from embver_pg.cli.params import Name, PrintSql, Reason, Version, pairs
from embver_pg.cli.render import table
from embver_pg.cli.session import session

app = typer.Typer(help="Model versions of a collection.", no_args_is_help=True)


Encoder = Annotated[
    str,
    typer.Argument(
        metavar="ENCODER",
        help="provider:model, such as hash:256 or sentence-transformers:NAME-OR-PATH.",
    ),
]
Metric = Annotated[str, typer.Option(help="cosine, l2 or ip.")]
ElementType = Annotated[
    str, typer.Option(help="vector (up to 2000 dimensions) or halfvec (up to 4000).")
]
Index = Annotated[str, typer.Option(help="hnsw, or none for exact search.")]
M = Annotated[int | None, typer.Option("--m", help="HNSW: links a node. [16]")]
EfConstruction = Annotated[int | None, typer.Option(help="HNSW: candidates while building. [64]")]
EncoderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="NAME=VALUE",
        help="Of the encoder: revision, query_prompt, document_prompt, dimensions,"
        " overflow, base_url, …; repeat it.",
    ),
]


ChunkSize = Annotated[
    int | None,
    typer.Option(min=1, help="Cut documents into chunks of so many at most. [not cut]"),
]
ChunkOverlap = Annotated[
    int, typer.Option(min=0, help="How many of them neighbouring chunks may share.")
]
ChunkerType = Annotated[
    str, typer.Option("--chunker", help="Of what: characters, or the encoder's tokens.")
]


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    encoder: Encoder,
    metric: Metric = "cosine",
    element_type: ElementType = "vector",
    index: Index = "hnsw",
    m: M = None,
    ef_construction: EfConstruction = None,
    chunk_size: ChunkSize = None,
    chunk_overlap: ChunkOverlap = 0,
    chunker: ChunkerType = "characters",
    option: EncoderOption = None,
    sql: PrintSql = False,
) -> None:
    """Create a version and its empty store.

    --sql prints the DDL for a DBA, to be run with psql -v ON_ERROR_STOP=1.
    """
    run = session(ctx)
    collection = run.collection(name)
    spec = index_spec(index, m, ef_construction)
    options = pairs(option or [], "--option")
    taken = {"metric", "element_type", "index", "chunker"} & set(options)
    if taken:
        raise typer.BadParameter(f"write --{min(taken)}", param_hint="--option")
    chosen = {
        "metric": metric,
        "element_type": element_type,
        "index": spec,
        "chunker": chunker_spec(chunker, chunk_size, chunk_overlap),
        **options,
    }
    if sql:
        run.output.script(collection.version_script(encoder, **chosen), "sql")
        return
    number = collection.add_version(encoder, **chosen)
    row = collection.version(number)
    run.output.emit(
        row,
        f"Version {number} of {name}: {encoder_name(row['encoder'])},"
        f" {row['dimensions']} dimensions,{chunker_name(row['chunker'])} store {row['store']}.",
    )
    run.output.note(f"next: embver rollout start {name} {number}")


@app.command("list")
def list_versions(ctx: typer.Context, name: Name) -> None:
    """List the versions of a collection."""
    run = session(ctx)
    rows = run.collection(name).versions()
    cells = (
        [
            row["version"],
            row["state"],
            encoder_name(row["encoder"]),
            row["dimensions"],
            row["metric"],
            row["element_type"],
            row["index_spec"]["type"],
            row["store"],
        ]
        for row in rows
    )
    headings = ("version", "state", "encoder", "dimensions", "metric", "type", "index", "store")
    run.output.emit(rows, table(headings, cells) if rows else f"{name} has no version yet.")


@app.command()
def show(ctx: typer.Context, name: Name, version: Version) -> None:
    """Show a version: its encoder, fingerprint, state and store."""
    run = session(ctx)
    run.output.emit(run.collection(name).version(version))


@app.command()
def retire(
    ctx: typer.Context,
    name: Name,
    version: Version,
    force: Annotated[
        bool, typer.Option("--force", help="Also the active one, the last: its searches end.")
    ] = False,
    reason: Reason = None,
    sql: PrintSql = False,
) -> None:
    """Stop the writes of a version that serves no more; a rollback to it ends with this."""
    run = session(ctx)
    collection = run.collection(name)
    if sql:
        arguments = (name, version, force, reason)
        run.output.script(_call("embver.retire_version", *arguments), "sql")
        return
    collection.retire_version(version, force=force, reason=reason)
    run.output.emit({"collection": name, "retired": version}, f"Version {version} is retired.")
    run.output.note(f"next: embver version drop {name} {version}")


@app.command()
def drop(
    ctx: typer.Context,
    name: Name,
    version: Version,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for older transactions.")
    ] = 60.0,
    sql: PrintSql = False,
) -> None:
    """Drop the store of a created or retired version.

    --sql prints the statement; run it when no transaction that wrote the source before the
    retirement is open any more.
    """
    run = session(ctx)
    if sql:
        run.collection(name).version(version)
        run.output.script(_call("embver_internal.drop_store", name, version), "sql")
        return
    run.collection(name).drop_version(version, timeout=timeout)
    run.output.emit({"collection": name, "dropped": version}, f"Version {version} is dropped.")


def _call(function: str, *arguments: object) -> str:
    from psycopg import sql

    literals = sql.SQL(", ").join(sql.Literal(value) for value in arguments)
    return sql.SQL("SELECT {}({});\n").format(sql.SQL(function), literals).as_string(None)


def index_spec(index: str, m: int | None, ef_construction: int | None) -> dict[str, Any]:
    """The index as ``register_version`` takes it."""
    spec: dict[str, Any] = {"type": index}
    for key, value in (("m", m), ("ef_construction", ef_construction)):
        if value is not None:
            spec[key] = value
    return spec


def chunker_spec(chunker: str, size: int | None, overlap: int) -> dict[str, Any] | None:
    """The chunker as ``add_version`` takes it; None where documents are not cut."""
    if size is None:
        if overlap or chunker != "characters":
            raise typer.BadParameter(
                "goes with --chunk-size", param_hint="--chunk-overlap/--chunker"
            )
        return None
    return {"type": chunker, "size": size, "overlap": overlap}


def chunker_name(chunker: Mapping[str, Any] | None) -> str:
    """A chunker within a sentence, nothing where there is none."""
    if chunker is None:
        return ""
    overlap = f", overlap {chunker['overlap']}" if chunker["overlap"] else ""
    return f" chunks of {chunker['size']} {chunker['type']}{overlap},"


def encoder_name(spec: Mapping[str, Any]) -> str:
    """``provider:model``, of a path its last part."""
    model = str(spec["model"])
    return f"{spec['provider']}:{model.rsplit('/', 1)[-1] if model.startswith('/') else model}"
