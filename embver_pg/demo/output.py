"""What the demo needs of the command line's output, and its progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_PLAIN_SECONDS = 5.0


class Output(Protocol):
    """Where the demo writes: results to stdout, what happens to stderr."""

    console: Console
    errors: Console
    json_mode: bool

    @property
    def interactive(self) -> bool:
        """Whether a person watches."""

    def emit(self, data: object, human: RenderableType | None = None) -> None:
        """Write the result, for programs or for people."""

    def note(self, message: str) -> None:
        """Write a remark."""


class Meter(Protocol):
    """How far the filling is."""

    def update(self, done: int, total: int, remark: str) -> None:
        """``done`` of ``total`` documents have a vector."""


@contextmanager
def filling(output: Output) -> Iterator[Meter]:
    """Show the filling of a version: a bar on a terminal, plain lines otherwise."""
    if output.interactive:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[remark]}", style="dim"),
        )
        with Progress(*columns, console=output.errors, transient=True) as progress:
            yield _Bar(progress)
    else:
        yield _Lines(output)


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("filling", total=None, rate="", remark="")

    def update(self, done: int, total: int, remark: str) -> None:
        speed = self._progress.tasks[0].speed
        self._progress.update(
            self._task,
            completed=done,
            total=total,
            rate=f"{speed:.0f} documents/s" if speed else "",
            remark=remark,
        )


class _Lines:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._written = time.monotonic()
        self._first: tuple[float, int] | None = None

    def update(self, done: int, total: int, remark: str) -> None:
        now = time.monotonic()
        if done == 0:
            return
        if self._first is None:  # before it, models were loaded
            self._first = (now, done)
        if now - self._written < _PLAIN_SECONDS:
            return
        self._written = now
        began, before = self._first
        line = f"{done:,} of {total:,} documents ({100 * done // max(total, 1)} %)"
        if done > before:
            rate = (done - before) / (now - began)
            line += f", {rate:.0f}/s, ETA {max(total - done, 0) / rate:.0f} s"
        self._output.note(" " * 11 + line + (f"; {remark}" if remark else ""))
