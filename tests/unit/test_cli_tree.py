"""The tree of commands: what there is, and that each explains itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from embver_pg.cli import main
from embver_pg.cli.app import app

TREE = {
    "init",
    "upgrade",
    "status",
    "demo",
    "verify",
    "requeue",
    "waive",
    "evaluate",
    "worker",
    "limits",
    "search",
    *(f"db {verb}" for verb in ("start", "stop", "url")),
    *(f"collection {verb}" for verb in ("create", "list", "show", "refresh", "drop")),
    *(
        f"version {verb}"
        for verb in ("add", "adopt", "derive", "check", "list", "show", "retire", "drop")
    ),
    *(
        f"rollout {verb}"
        for verb in (
            "plan",
            "budget",
            "start",
            "run",
            "status",
            "pause",
            "resume",
            "abort",
            "promote",
            "rollback",
        )
    ),
    *(f"route {verb}" for verb in ("show", "set")),
    *(f"bridge {verb}" for verb in ("fit", "show")),
    *(f"throttle {verb}" for verb in ("show", "set", "clear")),
    *(f"golden {verb}" for verb in ("import", "list", "check")),
}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


FOUND = dict(commands(typer.main.get_command(app)))


def test_the_tree() -> None:
    assert {" ".join(path) for path in FOUND} == TREE


@pytest.mark.parametrize("path", sorted(FOUND), ids=" ".join)
def test_every_command_explains_itself(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"embver {' '.join(path)}" in shown
    assert FOUND[path].help.strip()
    for parameter in FOUND[path].params:
        assert parameter.help, f"{parameter.name} has no help"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("embver-pg ")
