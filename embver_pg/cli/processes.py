"""Several worker processes under one parent: it forwards signals and restarts nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from embver_pg.cli.session import Session

_STOP = (signal.SIGTERM, signal.SIGINT)


def run_processes(run: Session, commands: Sequence[Sequence[str]]) -> int:
    """Run a command in each of several processes and wait for them all.

    Args:
        run: The session of the parent.
        commands: What stands after ``embver`` in each.

    Returns:
        The worst exit code.
    """
    from embver_pg.db import DATABASE_URL

    flags = ["--json"] if run.output.json_mode else ["--quiet"] if run.output.quiet else []
    environment = {**os.environ, DATABASE_URL: run.url()}  # not in the list of processes
    share = max(1, (os.cpu_count() or 1) // len(commands))
    environment.setdefault("OMP_NUM_THREADS", str(share))
    run.close()
    forwarded: list[int] = []
    children: list[subprocess.Popen[str]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        forwarded.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _STOP}
    try:
        for arguments in commands:
            if forwarded:
                break
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "embver_pg.cli", *flags, *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if run.output.json_mode else None,
                    text=True,
                    # The terminal's Ctrl-C comes to the parent only, which passes it on once.
                    process_group=0,
                )
            )
        outputs = [child.communicate()[0] for child in children]
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)
    if run.output.json_mode:
        run.output.emit({"workers": [_document(text) for text in outputs]})
    return max((_code(child.returncode, forwarded) for child in children), default=0)


def _document(text: str | None) -> Any:
    """The report of a child; None of one that failed, whose error is on stderr."""
    return json.loads(text) if text else None


def _code(returncode: int, forwarded: Sequence[int]) -> int:
    """An exit code; a child stopped before it could take the signal has leased nothing yet."""
    if returncode >= 0:
        return returncode
    return 0 if -returncode in forwarded else 128 - returncode
