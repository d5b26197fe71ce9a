"""What went wrong, in words that help: usage, rights, the network, the server."""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from embver_pg.errors import EmbverError, from_database

if TYPE_CHECKING:
    import psycopg

    from embver_pg.cli.session import Session

_GROUPS = {"search": "embver_reader", "worker": "embver_worker"}
_UsageError = typer.BadParameter.__mro__[1]


class UsageProblem(EmbverError):
    """The command line is not understood."""

    code = "usage"
    exit_code = 2


class NotPermitted(EmbverError):
    """The role lacks a right."""

    code = "42501"


class DatabaseFailure(EmbverError):
    """The server refused or failed; the detail has the SQLSTATE."""

    code = "database"


class EncoderFailure(EmbverError):
    """An encoder raised an exception of its own; the detail has its type."""

    code = "encoder"


def explained(error: Exception, session: Session) -> EmbverError | None:
    """The error to show, or None for one that is a fault of this program.

    Args:
        error: What a command raised.
        session: The run, for the role and the command in question.
    """
    if isinstance(error, EmbverError):
        return error
    if isinstance(error, _UsageError):
        return _usage(error)
    original = getattr(error, "orig", error)  # SQLAlchemy wraps what the driver raised
    if type(original).__module__.partition(".")[0] not in ("psycopg", "psycopg_pool"):
        return _of_encoder(error, session)
    import psycopg

    if not isinstance(original, psycopg.Error):
        return None
    ours = from_database(original)
    return ours if isinstance(ours, EmbverError) else _database(original, session)


def _of_encoder(error: Exception, session: Session) -> EncoderFailure | None:
    """What an encoder raised; None for a fault of this program."""
    from embver_pg.encoders.blame import encoder_of

    name = encoder_of(error)
    if name is None:
        return None
    what = type(error).__name__
    detail: dict[str, Any] = {"encoder": name, "exception": what}
    hint = "It is the encoder's own error: see that its model, its packages and its memory are as"
    hint += " it needs them."
    if session.output.json_mode:
        detail["traceback"] = "".join(traceback.format_exception(error))
    else:
        hint += " The same command with --json shows where it was raised."
    return EncoderFailure(f"The encoder {name} failed: {what}: {error}", detail=detail, hint=hint)


def _usage(error: Any) -> UsageProblem:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "embver")
    if type(error).__name__ == "NoArgsIsHelpError":
        return UsageProblem("")  # the help has been shown
    return UsageProblem(str(error.format_message()), hint=f"{path} --help")


def _database(error: psycopg.Error, session: Session) -> EmbverError:
    import psycopg

    text = (error.diag.message_primary or str(error)).strip()
    detail = {
        "sqlstate": error.sqlstate,
        "detail": error.diag.message_detail,
        "context": error.diag.context,
    }
    detail = {name: value for name, value in detail.items() if value}
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return _rights(error, text, session)
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        hint = "This server is a standby or read-only: name the primary in --database-url."
    elif isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled):
        hint = "Somebody holds it for long: look into pg_stat_activity, then try again."
    elif isinstance(error, psycopg.errors.UndefinedTable):
        hint = "Name the table with its schema, quoted as in SQL: --source 'public.\"Docs\"'"
    elif error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return DatabaseFailure(
            f"The connection to the database failed: {text}",
            detail=detail,
            hint="Check --database-url or EMBVER_DATABASE_URL, and that the server runs.",
        )
    else:
        hint = error.diag.message_hint or ""
    return DatabaseFailure(text, detail=detail, hint=hint or None)


def _rights(error: psycopg.Error, text: str, session: Session) -> NotPermitted:
    """Which role lacks what, and the grant that would help."""
    role, groups = _role(session)
    detail = {"role": role, "member_of": groups, "detail": error.diag.message_detail}
    group = _GROUPS.get(session.command, "embver_admin")
    if error.diag.message_hint:
        hint = error.diag.message_hint
    elif groups is not None and group not in groups and session.command != "init":
        hint = f"As an administrator: GRANT {group} TO {role}"
    elif session.command in ("init", "upgrade"):
        hint = "Use a role with CREATE on the database, the one that installed embver-pg; or print"
        hint += f" the script for an administrator: embver {session.command} --sql"
    else:
        hint = "Use a role that owns the source table, or is a member of its owner."
    who = "The role" if role is None else f"Role {role!r}"
    return NotPermitted(
        f"{who} lacks a right: {text}.",
        detail={name: value for name, value in detail.items() if value is not None},
        hint=hint,
    )


def _role(session: Session) -> tuple[str | None, list[str] | None]:
    """The role of the session, and which of our groups it is in; asked anew."""
    import psycopg

    from embver_pg.db import resolve_url

    with (
        suppress(psycopg.Error, EmbverError),
        psycopg.connect(resolve_url(session.given_url)) as connection,
    ):
        row = connection.execute(
            "SELECT quote_ident(current_user), array(SELECT rolname::text FROM pg_roles"
            " WHERE rolname IN ('embver_admin', 'embver_worker', 'embver_reader')"
            " AND pg_has_role(oid, 'USAGE') ORDER BY 1)"
        ).fetchone()
        assert row is not None
        return row[0], row[1]
    return None, None
