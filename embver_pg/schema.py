"""The database schema: the Alembic lines ``core`` and ``store``, and the routines.

Tables change once, in order, by revisions that name one file of ``sql/schema`` each. Functions
and views (``sql/routines``) and templates (``sql/generated``) are applied whole after every
upgrade, in one transaction, under one advisory lock.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import tenacity
from psycopg import sql
from psycopg.rows import tuple_row

from embver_pg import resources
from embver_pg.errors import IncompatibleSchema, from_database

log = logging.getLogger("embver_pg.database")
CORE_SCHEMA = "embver_internal"
_TEMPLATE_QUOTE = "$embver_template$"
# Whose source is there: what was dropped with its source can only be dropped altogether.
_COLLECTIONS = (
    "SELECT c.name FROM embver_internal.collection AS c"
    " WHERE EXISTS (SELECT FROM pg_class AS r WHERE r.oid = c.source) ORDER BY c.name"
)
_STORES = (
    "SELECT c.name, v.version FROM embver_internal.version AS v"
    " JOIN embver_internal.collection AS c ON c.collection_id = v.collection_id"
    " WHERE v.state <> 'dropped' AND EXISTS (SELECT FROM pg_class AS r WHERE r.oid = c.source)"
    " ORDER BY c.name, v.version"
)
# Alembic keeps its context in module globals. Taken after the advisory lock, never before.
_ALEMBIC = threading.RLock()


def init(url: str) -> None:
    """Install the control schema, or bring it and every store to this release.

    Args:
        url: A PostgreSQL URL, of a role with CREATE on the database.

    Raises:
        IncompatibleSchema: No pgvector, or a server, an extension or a schema we cannot use.
    """
    behind_readers(lambda: _init(url))


def _init(url: str) -> None:
    with _transaction(url) as connection:
        run_sql(connection, resources.read_sql("preflight.sql"))
        raw = driver(connection)
        if (found := revision(raw)) is not None:
            _refuse_newer(found)
        _alembic(connection, "core")
        # The order of every lifecycle verb: first the collection, then its stores.
        raw.execute(
            "SELECT collection_id FROM embver_internal.collection ORDER BY 1 FOR NO KEY UPDATE"
        )
        for collection, version in raw.execute(_STORES).fetchall():
            migrate_store(connection, collection, version)
        for (name,) in raw.execute(_COLLECTIONS).fetchall():
            raw.execute("SELECT embver.refresh_collection(%s)", (name,))


def behind_readers(change: Callable[[], object]) -> None:
    """Make a change that needs the lock of a view, with bounded, jittered tries.

    Between two tries those who queue behind it get their turn.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_behind),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=3),
        stop=tenacity.stop_after_attempt(10),
        reraise=True,
    )
    retrying(change)


def _is_behind(error: BaseException) -> bool:
    found = getattr(error, "orig", error)  # SQLAlchemy wraps what the driver raised
    return isinstance(found, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected)


def log_warning(diagnostic: psycopg.errors.Diagnostic) -> None:
    """Pass a WARNING of the server on to the log, with its hint."""
    if diagnostic.severity_nonlocalized == "WARNING":
        hint = f" ({diagnostic.message_hint})" if diagnostic.message_hint else ""
        log.warning("%s%s", diagnostic.message_primary, hint)


def script() -> str:
    """What :func:`init` runs in an empty database, for a DBA to review and run with psql."""
    buffer = io.StringIO()
    _alembic(None, "core", output=buffer)
    return buffer.getvalue()


def upgrade_script(url: str) -> str:
    """What :func:`init` would run in this database, for a DBA; nothing is changed.

    Raises:
        IncompatibleSchema: The schema is missing, or newer than this library.
    """
    buffer = io.StringIO()
    with _transaction(url) as connection:
        raw = driver(connection)
        found = revision(raw)
        if found is None:
            raise missing()
        _refuse_newer(found)
        _alembic(None, "core", output=buffer, start=found)
        for collection, version in raw.execute(_STORES).fetchall():
            migrate_store(connection, collection, version, output=buffer)
        for (name,) in raw.execute(_COLLECTIONS).fetchall():
            refresh = sql.SQL("SELECT embver.refresh_collection({});\n").format(sql.Literal(name))
            buffer.write(refresh.as_string(raw))
    return buffer.getvalue()


def missing() -> IncompatibleSchema:
    """The error for a database without the control schema."""
    return IncompatibleSchema(
        "embver-pg is not installed in this database.",
        detail={"database": None, "library": head("core")},
        hint="embver init",
    )


def revision(connection: psycopg.Connection[Any]) -> str | None:
    """The revision of the control schema, None where it is not installed."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT to_regclass('embver_internal.alembic_version')")
        found = cursor.fetchone()
        if found is None or found[0] is None:
            return None
        cursor.execute("SELECT version_num FROM embver_internal.alembic_version")
        found = cursor.fetchone()
        return str(found[0]) if found else None


def check(connection: psycopg.Connection[Any]) -> None:
    """Refuse to work on a schema of another release.

    Raises:
        IncompatibleSchema: It is missing, older or newer than this library.
    """
    found, expected = revision(connection), head("core")
    if found == expected:
        return
    detail = {"database": found, "library": expected}
    if found is None:
        raise missing()
    _refuse_newer(found)
    raise IncompatibleSchema(
        "The database schema is older than this library.",
        detail=detail,
        hint="embver upgrade",
    )


def head(line: str) -> str:
    """The newest revision of a line."""
    return str(_script_directory(line).get_current_head())


@contextmanager
def version_transaction(url: str) -> Iterator[Any]:
    """A transaction on a SQLAlchemy connection in which stores are migrated."""
    with _transaction(url) as connection:
        run_sql(connection, resources.read_sql("preflight.sql"))
        yield connection


def migrate_store(
    connection: Any,
    collection: str,
    version: int,
    *,
    output: io.StringIO | None = None,
    first: str | None = None,
) -> None:
    """Create a store's tables, or bring them to this release, then its functions and grants.

    Args:
        connection: From :func:`version_transaction`, with the version registered.
        collection: The collection's name.
        version: The version's number.
        output: Print the statements there and run nothing.
        first: A statement that the printed script begins with.
    """
    raw = driver(connection)
    row = raw.execute(
        "SELECT s.store, embver_internal.source_owner(c.source)::text, c.collection_id"
        " FROM embver_internal.collection c, LATERAL"
        " (SELECT embver_internal.store_name(c.name, %s) AS store) s WHERE c.name = %s",
        (version, collection),
    ).fetchone()
    assert row is not None
    store, owner, collection_id = row
    names = {"store": sql.Identifier(store), "owner": sql.Identifier(owner)}
    create = sql.SQL("CREATE SCHEMA {store} AUTHORIZATION {owner};")
    exists = raw.execute(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)", (store,)
    ).fetchone()
    before = [sql.SQL("SET LOCAL ROLE {owner};").format(**names).as_string(raw)]
    start = None
    if exists is None or not exists[0]:
        before.insert(0, create.format(**names).as_string(raw))
    elif output is not None:
        known = sql.SQL("SELECT version_num FROM {store}.alembic_version").format(**names)
        start = str(raw.execute(known).fetchall()[0][0])
    if output is not None:
        before[:0] = [resources.read_sql("preflight.sql"), *([] if first is None else [first])]
    after = [
        "RESET ROLE;",
        f"SELECT embver_internal.attach_store({collection_id}, {version});",
    ]

    def render(template: str) -> str:
        found = raw.execute(
            "SELECT embver_internal.render_store_schema(%s, %s, %s)",
            (collection, version, template),
        ).fetchone()
        assert found is not None
        return str(found[0])

    _alembic(
        connection,
        "store",
        schema=store,
        before=before,
        after=after,
        render=render,
        output=output,
        start=start,
    )


def run_file(relative: str) -> None:
    """Run one file of ``sql/`` inside a revision, online or into the offline script."""
    from alembic import op

    text = resources.read_sql(relative)
    render = op.get_context().opts.get("render_sql")
    statements = render(text) if render else text
    run_sql(op.get_bind() if not op.get_context().as_sql else None, statements)


def run_sql(connection: Any, text: str) -> None:
    """Run a script as it is: no parameter syntax is looked for in it."""
    if connection is None:
        from alembic import op

        op.get_context().impl.static_output(text)
    else:
        driver(connection).execute(text.encode())


def run_environment(context: Any) -> None:
    """The body of ``migrations/env.py``."""
    given = dict(context.config.attributes)
    line = given.get("line")
    if line == "core":
        given = {
            "schema": CORE_SCHEMA,
            "before": [resources.read_sql("preflight.sql")],
            "after": _routines(),
            **given,
        }
    elif line is None:
        raise SystemExit(
            "There are two lines, and a store line each version: use `embver upgrade`, or"
            " `embver upgrade --sql` to review what it would run."
        )
    options = {
        "version_table_schema": given["schema"],
        "transaction_per_migration": False,
        "render_sql": given.get("render"),
    }
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", **options)
        _run(context, None, given)
    else:
        context.configure(connection=given["connection"], **options)
        _run(context, given["connection"], given)


def _run(context: Any, connection: Any, given: dict[str, Any]) -> None:
    with context.begin_transaction():
        migration = context.get_context()

        def run(text: str) -> None:
            if connection is None:
                migration.impl.static_output(text)
            else:
                run_sql(connection, text)

        for text in given.get("before", []):
            run(text)
        context.run_migrations()
        for text in given.get("after", []):
            run(text)


def _routines() -> list[str]:
    """The scripts applied after every upgrade: templates, then functions and views."""
    root = resources.sql_dir()
    templates = ["DELETE FROM embver_internal.template;"]
    for path in sorted((root / "generated").glob("*.sql")):
        body = path.read_text(encoding="utf-8")
        assert _TEMPLATE_QUOTE not in body
        templates.append(
            "INSERT INTO embver_internal.template (name, body) VALUES"
            f" ('{path.stem}', {_TEMPLATE_QUOTE}{body}{_TEMPLATE_QUOTE});"
        )
    files = sorted((root / "routines").glob("*.sql"))
    return ["\n".join(templates), *(path.read_text(encoding="utf-8") for path in files)]


def _alembic(
    connection: Any,
    line: str,
    *,
    schema: str = CORE_SCHEMA,
    before: list[str] | None = None,
    after: list[str] | None = None,
    render: Callable[[str], str] | None = None,
    output: io.StringIO | None = None,
    start: str | None = None,
) -> None:
    from alembic import command

    config = _config(line, output)
    config.attributes["line"] = line
    if line == "store":
        config.attributes.update(schema=schema, before=before, after=after, render=render)
    if output is None:
        config.attributes["connection"] = connection
    target = "head" if start is None else f"{start}:head"
    with _ALEMBIC:
        command.upgrade(config, target, sql=output is not None)


def _config(line: str, output: io.StringIO | None = None) -> Any:
    from alembic.config import Config

    config = Config(output_buffer=output)
    root = resources.migrations_dir()
    config.set_main_option("script_location", str(root).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(root / line).replace("%", "%%"))
    return config


def _script_directory(line: str) -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config(line))


def _refuse_newer(found: str) -> None:
    if found not in {entry.revision for entry in _script_directory("core").walk_revisions()}:
        raise IncompatibleSchema(
            "The database schema is newer than this library.",
            detail={"database": found, "library": head("core")},
            hint="pip install --upgrade embver-pg",
        )


def _connect(url: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(url, prepare_threshold=None)
    connection.add_notice_handler(log_warning)
    return connection


@contextmanager
def _transaction(url: str) -> Iterator[Any]:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: _connect(url),
        poolclass=NullPool,
    )
    try:
        with engine.begin() as connection:
            yield connection
    except psycopg.Error as error:
        translated = from_database(error)
        if translated is error:
            raise
        raise translated from error
    finally:
        engine.dispose()


def driver(connection: Any) -> psycopg.Connection[Any]:
    """The psycopg connection under a SQLAlchemy connection."""
    driver: psycopg.Connection[Any] = connection.connection.driver_connection
    return driver
