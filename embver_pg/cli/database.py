"""``init``, ``upgrade`` and ``db``: the schema and the embedded server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embver_pg.cli.params import PrintSql
from embver_pg.cli.session import Session, session
from embver_pg.errors import EmbverError

if TYPE_CHECKING:
    import psycopg

embedded_app = typer.Typer(help="The embedded PostgreSQL server.", no_args_is_help=True)


def init(ctx: typer.Context, sql: PrintSql = False) -> None:
    """Install embver-pg in a database, or bring it to this release.

    Without a URL the embedded server is started. --sql prints the script for an empty database
    and needs none; run it with psql -v ON_ERROR_STOP=1.
    """
    from embver_pg import schema

    run = session(ctx)
    if sql:
        run.output.script(schema.script(), "sql")
        return
    url = run.url()
    schema.init(url)
    _report(run, url)


def upgrade(ctx: typer.Context, sql: PrintSql = False) -> None:
    """Bring the control schema and every store to this release.

    --sql prints the statements for this database, for psql, and changes nothing.
    """
    from embver_pg import schema
    from embver_pg.db import open_connection

    run = session(ctx)
    url = run.url()
    with open_connection(url) as connection:
        if schema.revision(connection) is None:
            raise schema.missing()
    if sql:
        run.output.script(schema.upgrade_script(url), "sql")
        return
    schema.init(url)
    _report(run, url)


@embedded_app.command()
def start(
    ctx: typer.Context,
    pg_version: Annotated[
        int | None,
        typer.Option("--pg-version", help="Major version, 16 or 18.", show_default="18"),
    ] = None,
) -> None:
    """Start the server where it does not run yet, and print its URL."""
    from embver_pg import embedded

    url = embedded.start(version=pg_version or embedded.DEFAULT_VERSION)
    session(ctx).output.script(url, "url")


@embedded_app.command()
def stop(ctx: typer.Context) -> None:
    """Stop the server and disconnect its clients."""
    from embver_pg import embedded

    stopped = embedded.stop()
    text = "The embedded server is stopped." if stopped else "No embedded server was running."
    session(ctx).output.emit({"stopped": stopped}, text)


@embedded_app.command("url")
def show_url(ctx: typer.Context) -> None:
    """Print the running server's URL."""
    from embver_pg import embedded

    found = embedded.url()
    if found is None:
        raise EmbverError(
            "The embedded server does not run.",
            detail={"data_dir": str(embedded.default_dir())},
            hint="embver db start",
        )
    session(ctx).output.script(found, "url")


def _report(run: Session, url: str) -> None:
    from embver_pg.db import DATABASE_URL, open_connection

    with open_connection(url) as connection:
        found = _installed(connection)
    found["embedded"] = not (run.given_url or os.environ.get(DATABASE_URL))
    where = "the embedded server" if found["embedded"] else f"database {found['database']}"
    run.output.emit(
        found,
        f"embver-pg {found['library']} is installed in {where}:"
        f" PostgreSQL {found['server']}, pgvector {found['vector']}, {found['stores']} stores",
    )
    if not found["collections"]:
        run.output.note("next: embver collection create NAME --source TABLE --content SQL")
    if found["missing_roles"]:
        named = ", ".join(found["missing_roles"])
        run.output.note(
            f"The roles {named} do not exist: as an administrator CREATE ROLE … NOLOGIN,"
            f" then embver upgrade"
        )


def _installed(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    from importlib.metadata import version

    from embver_pg import schema

    row = connection.execute(
        "SELECT current_database() AS database, current_setting('server_version') AS server,"
        " (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector,"
        " (SELECT count(*) FROM embver.collections) AS collections,"
        " (SELECT count(*) FROM embver.versions WHERE state <> 'dropped') AS stores,"
        " array(SELECT r FROM unnest(%s::text[]) AS r"
        " WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)) AS missing_roles",
        (["embver_admin", "embver_worker", "embver_reader"],),
    ).fetchone()
    assert row is not None
    revision = schema.revision(connection)
    return {"library": version("embver-pg"), "revision": revision, **row}
