"""``embver search``: what a user of the collection would find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embver_pg.cli.params import Name, json_object
from embver_pg.cli.render import table
from embver_pg.cli.session import Session, session

if TYPE_CHECKING:
    from embver_pg.client import Hit

_EXCERPT = 80


def search(
    ctx: typer.Context,
    name: Name,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The query.")],
    k: Annotated[int, typer.Option("-k", "--k", help="How many documents.")] = 10,
    version: Annotated[
        int | None, typer.Option(help="Ask this live version, whatever the route says.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="How versions are combined. [route]")] = None,
    route_key: Annotated[str | None, typer.Option(help="Of the caller, for split traffic.")] = None,
    filter: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='Conditions on source columns: {"tenant": 5}.'),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Scan every vector.")] = False,
    ef_search: Annotated[int | None, typer.Option(help="HNSW: candidates of a search.")] = None,
) -> None:
    """Search a collection with the encoder of the version that the route names."""
    run = session(ctx)
    options: dict[str, Any] = {"exact": True} if exact else {}
    if ef_search is not None:
        options["ef_search"] = ef_search
    hits = run.collection(name).search(
        text,
        k,
        route_key=route_key,
        filter=json_object(filter, "--filter"),
        mode=mode,
        version=version,
        options=options,
    )
    texts = _excerpts(run, name, hits)
    human = table(
        ("rank", "key", "score", "version", "text"),
        (
            [hit.rank, _key(hit), round(hit.score, 4), hit.version, excerpt]
            for hit, excerpt in zip(hits, texts, strict=True)
        ),
    )
    data = [
        {
            "rank": hit.rank,
            "key": dict(hit.key),
            "score": hit.score,
            "distance": hit.distance,
            "version": hit.version,
            "chunk": hit.chunk,
            "text": excerpt,
        }
        for hit, excerpt in zip(hits, texts, strict=True)
    ]
    run.output.emit(data, human if hits else "Nothing was found.")


def _key(hit: Hit) -> str:
    return ", ".join(str(value) for value in hit.key.values())


def _excerpts(run: Session, name: str, hits: Sequence[Hit]) -> list[str | None]:
    """The beginning of each chunk or document, as far as this role may read the source."""
    import psycopg
    from psycopg import sql

    if not hits:
        return []
    collection, database = run.collection(name), run.embver.database
    row = database.row("SELECT source FROM embver.collections WHERE name = %s", (name,))
    assert row is not None
    columns = [sql.Identifier("d", column) for column in hits[0].key]
    query = sql.SQL("SELECT {content}(d) AS content FROM {source} AS d WHERE {match}").format(
        content=sql.Identifier(f"embver_{name}", "content"),
        source=sql.SQL(row["source"]),  # a regclass: quoted by the server where it needs to be
        match=sql.SQL(" AND ").join(sql.SQL("{} = %s").format(column) for column in columns),
    )
    found: list[str | None] = []
    try:
        for hit in hits:
            part = collection.chunk_text(hit) if hit.chunk else None
            document = database.row(query, tuple(hit.key.values())) if part is None else None
            found.append(_short(document["content"] if document else part))
    except psycopg.errors.InsufficientPrivilege:
        return [None] * len(hits)
    return found


def _short(text: str | None) -> str | None:
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= _EXCERPT else f"{line[: _EXCERPT - 1]}…"
