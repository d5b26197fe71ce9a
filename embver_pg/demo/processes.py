"""Processes that the demo starts: each with a log, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from embver_pg.db import DATABASE_URL
from embver_pg.demo.site import DemoFailedError, Site
from embver_pg.encoders.torch_models import THREADS_VARIABLE

_STOP_SECONDS = 20.0


class Process:
    """A Python process in a session of its own: an interrupt reaches it through us only."""

    def __init__(self, name: str, site: Site, arguments: Sequence[str]) -> None:
        """Start ``python <arguments>`` with the site's database in its environment."""
        self.name = name
        self._log = site.directory / f"{name.replace(' ', '-')}.log"
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(site),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process number."""
        return self.popen.pid

    def check(self) -> None:
        """Raise where the process is dead.

        Raises:
            DemoFailedError: With the end of its log.
        """
        if self.popen.poll() is not None:
            raise DemoFailedError(
                f"The {self.name} ended with exit code {self.popen.returncode}.",
                detail={"process": self.name, "log": self.said()},
            )

    def said(self) -> str:
        """The end of its log."""
        return _tail(self._log)

    def stop(self, *, terminate: bool = True) -> int:
        """Close its input and wait for its end; kill it where it does not listen.

        Args:
            terminate: Send SIGTERM too.

        Returns:
            Its exit code.
        """
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        if terminate and self.popen.poll() is None:
            self.popen.terminate()
            self.popen.send_signal(signal.SIGCONT)  # it may be frozen
        try:
            return self.popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


def _environment(site: Site) -> Mapping[str, str]:
    return {
        **os.environ,
        DATABASE_URL: site.url,
        THREADS_VARIABLE: "1",  # several processes share the cores
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
    }


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
