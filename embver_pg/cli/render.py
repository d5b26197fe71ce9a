"""What the command line writes: results and errors, for people or as JSON.

Results go to stdout; errors, notes and progress go to stderr, so that a pipe carries results
only. In JSON mode stdout carries one JSON document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from io import TextIOWrapper
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from embver_pg.errors import EmbverError

_PIPE_WIDTH = 240
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_KEPT_CONTROLS = {code: text for code, text in _CONTROLS.items() if code not in (9, 10)}


class Output:
    """The two streams of one command and how to write to them.

    Attributes:
        console: For results (stdout).
        errors: For errors, notes and progress (stderr).
        json_mode: Write JSON for programs.
        quiet: Write results and errors only.
    """

    def __init__(
        self,
        *,
        json_mode: bool = False,
        quiet: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.json_mode = json_mode
        self.quiet = quiet
        self.console = _console(stdout, stderr=False)
        self.errors = _console(stderr, stderr=True)

    @property
    def interactive(self) -> bool:
        """Whether a person watches stderr and wants to."""
        return self.errors.is_terminal and not (self.quiet or self.json_mode)

    def emit(self, data: object, human: RenderableType | None = None) -> None:
        """Write a result; call it once a command.

        Args:
            data: The result for programs, see :func:`to_json`.
            human: The same for people; made from ``data`` where it is left out.
        """
        if self.json_mode:
            self._write_json(self.console, data)
        else:
            self.console.print(_human(data) if human is None else human)

    def script(self, text: str, name: str) -> None:
        """Write text as it is, for another program to read; in JSON mode as ``{name: text}``."""
        if self.json_mode:
            self._write_json(self.console, {name: text})
        else:
            # Not through rich, which would wrap at the console's width.
            self.console.file.write(text if text.endswith("\n") else f"{text}\n")
            self.console.file.flush()

    def note(self, message: str) -> None:
        """Write a remark that is no result; nothing when quiet or in JSON mode."""
        if not (self.quiet or self.json_mode):
            self.errors.print(_clean(message))

    def error(self, error: EmbverError) -> None:
        """Write what went wrong, why, and what to type next."""
        if self.json_mode:
            found = {
                "code": error.code,
                "class": type(error).__name__,
                "message": error.message,
                "detail": error.detail,
                "hint": error.hint,
            }
            self._write_json(self.errors, {"error": found})
            return
        self.errors.print(Text("error: ", style="bold red") + Text(_clean(error.message)))
        for name, value in error.detail.items():
            self.errors.print(Text(_clean(f"  {name}: {_plain(value)}"), style="dim"))
        if error.hint:
            self.errors.print(Text("hint: ", style="bold") + Text(_clean(error.hint)))

    def _write_json(self, console: Console, data: object) -> None:
        console.file.write(json.dumps(to_json(data), indent=2, allow_nan=False) + "\n")
        console.file.flush()


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> Table:
    """A table of ``rows``; numbers are aligned right, None is shown as a dash.

    Args:
        columns: The headings.
        rows: Cells in the order of the columns.
        title: A line above the table.
    """
    cells = [list(row) for row in rows]
    built = Table(title=None if title is None else Text(_clean(title)), title_justify="left")
    for index, heading in enumerate(columns):
        values = [row[index] for row in cells if row[index] is not None]
        numeric = bool(values) and all(_is_number(value) for value in values)
        built.add_column(Text(_clean(heading)), justify="right" if numeric else "left")
    for row in cells:
        built.add_row(*(Text(_clean(_plain(cell))) for cell in row))
    return built


def to_json(value: object) -> Any:
    """``value`` in the types of JSON.

    Datetimes become ISO 8601, timedeltas seconds, bytes hex, dataclasses and named tuples
    objects, arrays and sets lists, numbers that are not finite null, all else its ``str``.
    """
    if value is None or (isinstance(value, (bool, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return to_json(value.value)
    if _is_numpy(value):
        return to_json(value.tolist())  # type: ignore[attr-defined]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (float, Decimal)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return _container_to_json(value)


def _container_to_json(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_json(value._asdict())
    if isinstance(value, Mapping):
        return {_plain(name): to_json(item) for name, item in value.items()}
    if isinstance(value, Set):
        return sorted((to_json(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return str(value)


def _human(data: object) -> RenderableType:
    found = to_json(data)
    if isinstance(found, dict):
        grid = Table.grid(padding=(0, 2))
        for name, value in found.items():
            grid.add_row(Text(_clean(name), style="bold"), Text(_clean(_plain(value))))
        return grid
    if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
        columns = list(dict.fromkeys(name for row in found for name in row))
        return table(columns, ([row.get(name) for name in columns] for row in found))
    return Text(_clean(_plain(found)))


def _plain(value: object) -> str:
    """One cell: text as it is, None as a dash, structures as compact JSON."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return value
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    found = to_json(value)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _is_number(value: object) -> bool:
    if _is_numpy(value) and not getattr(value, "shape", ()):
        value = value.tolist()  # type: ignore[attr-defined]
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _is_numpy(value: object) -> bool:
    # By name: numpy takes a fifth of a second to import, and most commands need none of it.
    return type(value).__module__ == "numpy" and hasattr(value, "tolist")


def _clean(text: str) -> str:
    """``text`` with control characters made visible: data must not steer the terminal."""
    return text.translate(_KEPT_CONTROLS)


def _console(file: TextIO | None, *, stderr: bool) -> Console:
    console = Console(
        file=file, stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=False
    )
    if isinstance(console.file, TextIOWrapper) and console.file.errors == "strict":
        # A stream that is not UTF-8 shows what it cannot write, and does not fail.
        console.file.reconfigure(errors="backslashreplace")
    if not console.is_terminal:
        # A pipe has no width: cut nothing off.
        console.width = _PIPE_WIDTH
    return console
