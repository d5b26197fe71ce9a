"""Where the demo happens: a directory and an embedded server of its own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from embver_pg import embedded
from embver_pg.errors import EmbverError


class DemoFailedError(EmbverError):
    """A part of the demo died or made no progress; detail: what it said last."""


@dataclass(frozen=True)
class Site:
    """The demo's own place.

    Attributes:
        directory: Everything is below it.
        url: Of the server's database.
    """

    directory: Path
    url: str

    @property
    def psql(self) -> str:
        """The command that opens a shell on the database."""
        return f"{embedded.bin_dir() / 'psql'} '{self.url}'"

    @property
    def stop(self) -> str:
        """The command that stops the server and removes everything."""
        return f"EMBVER_DATA_HOME={self.directory} embver db stop && rm -r {self.directory}"


@contextmanager
def open_site(*, keep: bool) -> Iterator[Site]:
    """Start a server in a directory of its own; stop and remove both at the end.

    Args:
        keep: Leave them, unless the demo is interrupted.
    """
    directory = Path(tempfile.mkdtemp(prefix="embver-demo-")).resolve()
    if os.geteuid() == 0:
        directory.chmod(0o711)  # the account that runs the server for root must pass through
    data = directory / "postgresql"
    kept = False
    try:
        yield Site(directory, embedded.start(data))
        kept = keep
    except Exception:
        kept = keep
        raise
    finally:
        if not kept:
            if data.exists():
                embedded.stop(data)
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block as an exception, so that everything in it is cleaned up."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
