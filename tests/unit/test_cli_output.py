"""Output of the command line: one JSON document, errors that help, progress that fits."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pytest

from embver_pg.cli.progress import progress
from embver_pg.cli.render import Output, table, to_json
from embver_pg.errors import EmbverError, GateFailed, InvalidArgument


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class State(StrEnum):
    READY = "ready"


@dataclass(frozen=True)
class Version:
    number: int
    state: State
    made_at: datetime


class Pair(NamedTuple):
    a: int
    b: float


def make(
    stream: Callable[[], io.StringIO] = io.StringIO, **options: bool
) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = stream(), stream()
    return Output(stdout=out, stderr=err, **options), out, err


WHEN = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (WHEN, "2024-05-01T12:30:00+00:00"),
        (timedelta(minutes=1.5), 90.0),
        (b"\x00\xff", "00ff"),
        (memoryview(b"\x01"), "01"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.5"), 1.5),
        (float("nan"), None),
        (float("-inf"), None),
        (Decimal("NaN"), None),
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([np.nan]), [None]),
        (np.bool_(True), True),
        (State.READY, "ready"),
        ({3, 1}, [1, 3]),
        ({1: (True, None)}, {"1": [True, None]}),
        (Pair(1, 0.5), {"a": 1, "b": 0.5}),
        (
            [Version(1, State.READY, WHEN)],
            [{"number": 1, "state": "ready", "made_at": "2024-05-01T12:30:00+00:00"}],
        ),
    ],
)
def test_to_json(value: object, expected: object) -> None:
    found = to_json(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def test_json_mode_writes_one_document_and_nothing_else() -> None:
    output, out, err = make(json_mode=True)
    output.note("a remark")
    with progress(output, "encode", 10, "documents") as meter:
        meter.advance(10)
    long = "word " * 200 + "[bold]not markup[/bold] \x1b[31m ü"
    output.emit({"text": long, "at": WHEN}, human="for people")
    assert json.loads(out.getvalue()) == {"text": long, "at": WHEN.isoformat()}
    assert err.getvalue() == ""


def test_people_get_the_renderable() -> None:
    output, out, err = make()
    output.emit({"a": 1}, human=table(["name", "n"], [["docs", 1], ["other", None]]))
    assert "docs" in out.getvalue()
    assert "{" not in out.getvalue()
    assert err.getvalue() == ""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"name": "docs", "versions": [1, 2], "none": None}, ["name", "docs", "[1, 2]", "-"]),
        ([{"version": 1}, {"version": 2, "state": "ready"}], ["version", "state", "ready"]),
        ("postgresql://host/db", ["postgresql://host/db"]),
        ([], ["[]"]),
    ],
)
def test_people_get_something_readable_by_default(data: Any, expected: list[str]) -> None:
    output, out, _ = make()
    output.emit(data)
    for text in expected:
        assert text in out.getvalue()


def test_data_is_neither_markup_nor_steering() -> None:
    output, out, err = make()
    evil = "[red]x[/red] [/nope] :smile: \x1b[2J\rgone"
    output.emit(None, human=table([evil], [[evil]], title=evil))
    output.emit({evil: evil})
    output.error(InvalidArgument(evil, detail={evil: evil}, hint=evil))
    output.note(evil)
    for text in (out.getvalue(), err.getvalue()):
        assert "\x1b" not in text
        assert "\r" not in text
        assert "[red]x[/red] [/nope] :smile: \\x1b[2J\\x0dgone" in text


def test_a_pipe_does_not_cut_cells() -> None:
    output, out, _ = make()
    output.emit(None, human=table(["a", "b"], [["x" * 90, "y" * 90]]))
    assert "x" * 90 in out.getvalue()
    assert "y" * 90 in out.getvalue()


def test_numbers_align_right() -> None:
    found = table(["name", "n", "mixed"], [["a", 1, 1], ["b", None, "x"], ["c", 20.5, 2]])
    assert [column.justify for column in found.columns] == ["left", "right", "left"]
    assert not table(["a"], []).rows


def test_error_for_people_says_what_why_and_what_next() -> None:
    output, out, err = make(quiet=True)
    error = GateFailed(
        "version 3 is worse", detail={"difference": -0.25, "delta": 0.02}, hint="embver report"
    )
    output.error(error)
    assert err.getvalue().splitlines() == [
        "error: version 3 is worse",
        "  difference: -0.25",
        "  delta: 0.02",
        "hint: embver report",
    ]
    assert out.getvalue() == ""


def test_error_as_json() -> None:
    output, out, err = make(json_mode=True)
    output.error(GateFailed("worse", detail={"bound": float("-inf"), "at": WHEN}, hint=None))
    assert json.loads(err.getvalue()) == {
        "error": {
            "code": "VM014",
            "class": "GateFailed",
            "message": "worse",
            "detail": {"bound": None, "at": WHEN.isoformat()},
            "hint": None,
        }
    }
    assert out.getvalue() == ""
    output.error(EmbverError("plain"))


def test_streams_are_looked_up_when_written(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.emit("result")
    output.note("remark")
    found = capsys.readouterr()
    assert (found.out, found.err) == ("result\n", "remark\n")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_at_most_every_interval() -> None:
    output, out, err = make()
    clock = Clock()
    with progress(output, "encode", 4000, "documents", interval=5, clock=clock) as meter:
        for _ in range(40):
            clock.now += 1
            meter.advance(100)
    lines = err.getvalue().splitlines()
    assert lines[0] == "encode: 500 of 4,000 documents (12 %), 100 documents/s, ETA 0:00:35"
    assert lines[-1] == "encode: 4,000 documents in 0:00:40, 100 documents/s"
    assert len(lines) == 9
    assert out.getvalue() == ""


def test_plain_progress_without_a_total_and_with_a_growing_one() -> None:
    output, _, err = make()
    clock = Clock()
    with progress(output, "walk", None, "rows", interval=1, clock=clock) as meter:
        clock.now += 2
        meter.update(3)
        clock.now += 2
        meter.update(4, total=8)
        clock.now += 2
        meter.update(0, total=0)
    assert err.getvalue().splitlines() == [
        "walk: 3 rows, 1.5 rows/s",
        "walk: 4 of 8 rows (50 %), 1 rows/s, ETA 4.0 s",
        "walk: 0 rows, 0 rows/s",
        "walk: 0 rows in 6.0 s, 0 rows/s",
    ]


def test_work_that_fails_is_not_reported_as_done() -> None:
    output, _, err = make()
    clock = Clock()

    def fail() -> None:
        with progress(output, "encode", 10, "documents", clock=clock) as meter:
            meter.advance(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert err.getvalue() == "encode: stopped at 3 of 10 documents (30 %) in 0.0 s\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output, out, err = make(Terminal)
    assert output.interactive
    with progress(output, "encode [red]", None, "documents") as meter:
        meter.update(0, total=2000)
        meter.advance(2000)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err.getvalue())
    assert "encode [red]" in plain
    assert "2,000/2,000 documents" in plain
    assert "━" in plain
    assert out.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_progress_is_silent(stream: Callable[[], io.StringIO]) -> None:
    output, out, err = make(stream, quiet=True)
    with progress(output, "encode", 10, "documents", interval=0) as meter:
        meter.advance()
        meter.update(10, total=10)
    output.note("remark")
    assert out.getvalue() + err.getvalue() == ""
    output.emit("result")
    assert out.getvalue() == "result\n"
