"""Errors: one class for each SQLSTATE of class VM, and the one seam that maps them.

The codes are listed in ``sql/README.md``; the SQL functions raise them with a message for
people, a ``jsonb`` detail for programs, and a hint that says what to type next.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import psycopg


class EmbverError(Exception):
    """Base of every error of embver-pg.

    Attributes:
        code: The SQLSTATE, such as ``VM001``.
        detail: What a program needs to react.
        hint: What to type next.
        exit_code: The exit code of the command line.
    """

    code: ClassVar[str] = "VM000"
    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, detail: dict[str, Any] | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail: dict[str, Any] = detail or {}
        self.hint = hint


class CollectionNotFound(EmbverError):
    """No collection has this name."""

    code = "VM001"


class VersionNotFound(EmbverError):
    """The collection has no such version."""

    code = "VM002"


class AlreadyExists(EmbverError):
    """The name is taken."""

    code = "VM003"


class UnsupportedSource(EmbverError):
    """The source table cannot be captured; the detail says why."""

    code = "VM004"


class InvalidContent(EmbverError):
    """The content expression does not parse, is not immutable, or reads outside its row."""

    code = "VM005"


class InvalidArgument(EmbverError):
    """An argument is out of its range or of the wrong form."""

    code = "VM006"


class InvalidTransition(EmbverError):
    """The state machine does not allow this step; detail: from, to, allowed."""

    code = "VM010"


class NotReady(EmbverError):
    """Something that must be complete is not; detail: missing, stale, dead letters, index."""

    code = "VM011"


class RouteChanged(EmbverError):
    """The query's space does not serve; detail: the versions to encode for."""

    code = "VM012"


class DimensionMismatch(EmbverError):
    """The vector's dimensions are not the version's."""

    code = "VM013"


class GateFailed(EmbverError):
    """No passed gate opens this promotion; detail: metric, difference, bound, margin."""

    code = "VM014"
    exit_code = 3


class LeaseLost(EmbverError):
    """The lease was given to another worker; nothing was written."""

    code = "VM020"


class BudgetExceeded(EmbverError):
    """The rollout's budget is spent."""

    code = "VM021"


class SpaceChanged(EmbverError):
    """The model behind the name is not the one the version was made with."""

    code = "VM022"


class IncompatibleSchema(EmbverError):
    """The library and the database schema do not fit."""

    code = "VM030"
    exit_code = 4


_BY_CODE: dict[str, type[EmbverError]] = {cls.code: cls for cls in EmbverError.__subclasses__()}


def from_database(error: psycopg.Error) -> Exception:
    """The exception of ours that an error of the database stands for.

    Args:
        error: What psycopg raised; SQLAlchemy keeps it as ``.orig``.

    Returns:
        An instance of :class:`EmbverError` for SQLSTATEs of class VM, else ``error`` itself.
    """
    cls = _BY_CODE.get(error.sqlstate or "")
    if cls is None:
        return error
    diag = error.diag
    try:
        detail = json.loads(diag.message_detail or "{}")
    except ValueError:
        detail = {"detail": diag.message_detail}
    return cls(diag.message_primary or str(error), detail=detail, hint=diag.message_hint)
