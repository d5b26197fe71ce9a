"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import Protocol

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from embver_pg.cli.render import Output

PLAIN_INTERVAL = 5.0
"""Seconds between two plain lines, at the least."""


class Meter(Protocol):
    """What the work reports to; safe to call from several threads."""

    def advance(self, count: int = 1) -> None:
        """``count`` more units are done."""

    def update(self, done: int, total: int | None = None) -> None:
        """``done`` units are done in all; a ``total`` replaces the one known so far."""


@contextmanager
def progress(
    output: Output,
    label: str,
    total: int | None,
    unit: str,
    *,
    interval: float = PLAIN_INTERVAL,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Meter]:
    """Show how far the work in the ``with`` block is, on stderr.

    Args:
        output: Where to; nothing is shown when it is quiet or in JSON mode.
        label: What is being done.
        total: Units to do; None where it is not known.
        unit: Name of a unit, in the plural.
        interval: Seconds between two plain lines.
        clock: Time in seconds.

    Yields:
        The meter to report to.
    """
    if output.quiet or output.json_mode:
        yield _SilentMeter()
    elif output.interactive:
        with _bar(output, unit) as bar:
            yield _BarMeter(bar, bar.add_task(label, total=total))
    else:
        meter = _PlainMeter(output, label, total, unit, interval, clock)
        finished = False
        try:
            yield meter
            finished = True
        finally:
            meter.close(finished=finished)


class _SilentMeter:
    def advance(self, count: int = 1) -> None:
        pass

    def update(self, done: int, total: int | None = None) -> None:
        pass


class _BarMeter:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, count: int = 1) -> None:
        self._bar.advance(self._task, count)

    def update(self, done: int, total: int | None = None) -> None:
        self._bar.update(self._task, completed=done, total=total)


class _PlainMeter:
    def __init__(
        self,
        output: Output,
        label: str,
        total: int | None,
        unit: str,
        interval: float,
        clock: Callable[[], float],
    ) -> None:
        self._output = output
        self._label = label
        self._total = total
        self._unit = unit
        self._interval = interval
        self._clock = clock
        self._lock = Lock()
        self._done = 0
        self._started = self._written = clock()

    def advance(self, count: int = 1) -> None:
        with self._lock:
            self._done += count
            self._report()

    def update(self, done: int, total: int | None = None) -> None:
        with self._lock:
            self._done = done
            self._total = self._total if total is None else total
            self._report()

    def close(self, *, finished: bool) -> None:
        with self._lock:
            seconds = self._clock() - self._started
            whole = f"{self._done:,} {self._unit}"
            amount = whole if finished else f"stopped at {self._amount()}"
            rate = _rate(self._done / seconds if seconds > 0 else None, self._unit)
            self._output.note(f"{self._label}: {amount} in {_span(seconds)}{rate}")

    def _report(self) -> None:
        now = self._clock()
        if now - self._written < self._interval:
            return
        self._written = now
        speed = self._done / (now - self._started) if now > self._started else None
        line = f"{self._label}: {self._amount()}{_rate(speed, self._unit)}"
        if self._total is not None and speed:
            line += f", ETA {_span(max(self._total - self._done, 0) / speed)}"
        self._output.note(line)

    def _amount(self) -> str:
        if not self._total:
            return f"{self._done:,} {self._unit}"
        share = min(100 * self._done // self._total, 100)
        return f"{self._done:,} of {self._total:,} {self._unit} ({share} %)"


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(task.finished_speed or task.speed, self._unit).removeprefix(", "))


class _AmountColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{of} {self._unit}")


def _bar(output: Output, unit: str) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _AmountColumn(unit),
        _RateColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=output.errors,
    )


def _rate(speed: float | None, unit: str) -> str:
    if speed is None:
        return ""
    return f", {speed:,.0f} {unit}/s" if speed >= 10 else f", {speed:.2g} {unit}/s"


def _span(seconds: float) -> str:
    """``seconds`` as h:mm:ss; below ten seconds with a decimal."""
    return f"{seconds:.1f} s" if seconds < 10 else str(timedelta(seconds=round(seconds)))
