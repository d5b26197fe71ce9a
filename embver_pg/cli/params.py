"""Arguments and options that several commands take, and values written as ``NAME=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]
Version = Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version.")]
Reason = Annotated[
    str | None, typer.Option("--reason", help="Why; kept in the audit trail.", metavar="TEXT")
]
PrintSql = Annotated[
    bool, typer.Option("--sql", help="Print the statements for psql and change nothing.")
]


def pairs(given: Sequence[str], option: str) -> dict[str, Any]:
    """``NAME=VALUE`` as a dict; a value that is JSON becomes what it says, all else is text.

    Raises:
        typer.BadParameter: There is no ``=``, or no name before it.
    """
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{each!r} is not NAME=VALUE", param_hint=option)
        found[name.strip().replace("-", "_")] = json_or_text(value)
    return found


def json_or_text(value: str) -> Any:
    """What ``value`` says as JSON; the text itself where it is none."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def json_object(value: str | None, option: str) -> dict[str, Any] | None:
    """A JSON object given on the command line.

    Raises:
        typer.BadParameter: It is something else.
    """
    if value is None:
        return None
    found = json_or_text(value)
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{value!r} is not a JSON object", param_hint=option)
    return found


def numbers(value: str | None, option: str) -> list[int]:
    """Different whole numbers, separated by commas.

    Raises:
        typer.BadParameter: It is something else.
    """
    if value is None:
        return []
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise typer.BadParameter(f"{value!r} is not a list such as 1,2", param_hint=option)
    return [int(part) for part in parts]
