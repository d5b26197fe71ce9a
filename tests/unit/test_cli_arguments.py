"""Arguments: values written as text, and global options wherever they stand."""

from __future__ import annotations

import signal
from typing import Any

import psycopg
import pytest
import typer

from embver_pg.cli.app import _command, _global_first, _value_of
from embver_pg.cli.failures import DatabaseFailure, UsageProblem, explained
from embver_pg.cli.params import json_object, numbers, pairs
from embver_pg.cli.processes import _code
from embver_pg.cli.render import Output
from embver_pg.cli.session import Session
from embver_pg.errors import GateFailed


def test_pairs() -> None:
    given = ["query_prompt=q: a=b", "dimensions=8", "normalize=false", "base-url=http://x", "e="]
    assert pairs(given, "-o") == {
        "query_prompt": "q: a=b",
        "dimensions": 8,
        "normalize": False,
        "base_url": "http://x",
        "e": "",
    }


@pytest.mark.parametrize("given", ["a", "=b", ""])
def test_pairs_refuse(given: str) -> None:
    with pytest.raises(typer.BadParameter):
        pairs([given], "-o")


def test_numbers() -> None:
    assert numbers(None, "-v") == []
    assert numbers(" 2,1 ", "-v") == [2, 1]


@pytest.mark.parametrize("given", ["", "1,", "1,1", "a", "-1", "²"])
def test_numbers_refuse(given: str) -> None:
    with pytest.raises(typer.BadParameter):
        numbers(given, "-v")


def test_json_object() -> None:
    assert json_object(None, "-f") is None
    assert json_object('{"a": [1]}', "-f") == {"a": [1]}
    for bad in ("[1]", "a", "{"):
        with pytest.raises(typer.BadParameter):
            json_object(bad, "-f")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["status", "--json"], ["--json", "status"]),
        (["a", "--database-url", "u", "b"], ["--database-url", "u", "a", "b"]),
        (["a", "--database-url=u", "--quiet"], ["--database-url=u", "--quiet", "a"]),
        (["search", "d", "--", "--json"], ["search", "d", "--", "--json"]),
        (["a", "--database-url"], ["--database-url", "a"]),
        ([], []),
    ],
)
def test_global_options_come_first(given: list[str], expected: list[str]) -> None:
    assert _global_first(given) == expected


def test_the_command_and_the_url_are_found() -> None:
    ordered = _global_first(["worker", "--json", "--database-url", "a", "--database-url=b"])
    assert _command(ordered) == "worker"
    assert _value_of(ordered, "--database-url") == "b"
    assert _command([]) == ""


@pytest.mark.parametrize(
    ("returncode", "forwarded", "expected"),
    [
        (0, [], 0),
        (3, [], 3),
        (-signal.SIGKILL, [], 137),
        (-signal.SIGTERM, [], 143),
        (-signal.SIGTERM, [signal.SIGTERM], 0),
    ],
)
def test_the_exit_code_of_a_child(returncode: int, forwarded: list[int], expected: int) -> None:
    assert _code(returncode, forwarded) == expected


class Wrapped(Exception):
    """As SQLAlchemy does it."""

    def __init__(self, orig: Exception) -> None:
        super().__init__("wrapped")
        self.orig = orig


def test_errors_become_ours() -> None:
    session = Session(Output())
    gate = GateFailed("no")
    assert explained(gate, session) is gate
    usage = explained(typer.BadParameter("bad"), session)
    assert isinstance(usage, UsageProblem)
    assert usage.exit_code == 2
    for error in (psycopg.OperationalError("gone"), Wrapped(psycopg.OperationalError("gone"))):
        found: Any = explained(error, session)
        assert isinstance(found, DatabaseFailure)
        assert "gone" in found.message
        assert found.hint
    assert explained(ValueError("a fault of ours"), session) is None
    assert explained(Wrapped(ValueError("no database error")), session) is None
