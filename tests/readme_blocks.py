"""Fenced blocks of Markdown pages, and how they are executed: so documentation cannot rot.

* ``sh`` runs in bash and stops at the first failure, ``sql`` runs in psql, ``python`` in one
  namespace a page; all of a page in order, against one database, in one empty directory.
* ``console`` (commands with what they print), ``text``, ``mermaid`` and data are not executed.
* ``<!-- not executed: why -->`` on the line before a block, blank lines aside, leaves it out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import servers
from tests.migrations import dumps
from tests.waiting import PATIENCE

EXECUTED = ("sh", "sql", "python")
SHOWN = ("console", "text", "mermaid", "json", "jsonl", "toml", "yaml")
_OPEN = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<language>[^`\s]*) *$")
_REASON = re.compile(r"^ *<!-- *not executed: *(?P<reason>.*?) *--> *$")
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        path: The page.
        line: Line of its first line of text, from 1.
        language: What stands behind the opening fence.
        text: Its lines, without the indentation of the fence.
        skip: Why it is not executed, where the page says so.
    """

    path: Path
    line: int
    language: str
    text: str
    skip: str | None = None

    @property
    def where(self) -> str:
        return f"{self.path.name}:{self.line}"


def read_blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks, reason = [], None
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        opening = _OPEN.match(line)
        if opening is None:
            stated = _REASON.match(line)
            if stated is not None:
                reason = stated["reason"]
            elif line.strip():
                reason = None
            continue
        indent, fence = len(opening["indent"]), opening["fence"]
        body: list[str] = []
        for _, inner in lines:
            if inner.strip() == fence:
                break
            body.append(inner[indent:] if not inner[:indent].strip() else inner)
        else:
            raise AssertionError(f"{path.name}:{number}: the block is not closed")
        text = "\n".join(body) + "\n"
        blocks.append(Block(path, number + 1, opening["language"], text, reason))
        reason = None
    return blocks


def read_commands(path: Path, program: str) -> Iterator[tuple[int, str]]:
    """Every command line of ``program`` that a page shows, with its line, executed or not.

    In `inline code`, in ``sh`` and in ``console`` blocks; where a block has lines after ``$``,
    these are the commands and the others what they print.
    """
    starts = re.compile(rf"^\s*(?:\$ )?({program} .*?)(?:\s+#.*|\s*[|>;&].*|\s*\\)?$")
    inside = set()
    for block in read_blocks(path):
        inside |= set(range(block.line, block.line + block.text.count("\n")))
        if block.language not in ("sh", "console"):
            continue
        joined = block.text.replace("\\\n", "  ")
        prompts = any(line.startswith("$ ") for line in joined.splitlines())
        for offset, line in enumerate(joined.splitlines()):
            found = starts.match(line)
            if found and (not prompts or line.startswith("$ ")):
                yield block.line + offset, found[1]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if number not in inside:
            for code in _INLINE.findall(line):
                if code.startswith(f"{program} "):
                    yield number, code


@dataclass
class Page:
    """The execution of one page.

    Attributes:
        url: The database.
        directory: An empty directory to work in.
        namespace: Names of the Python blocks.
    """

    url: str
    directory: Path
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})

    def run(self, block: Block) -> None:
        """Execute a block.

        Raises:
            AssertionError: It failed; the message names page and line.
        """
        if block.language == "sql":
            self._program(
                block,
                dumps.program("psql", servers.server().version),
                *("-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.url),
            )
        elif block.language == "sh":
            self._program(block, "bash", "-euo", "pipefail")
        else:
            # The line numbers of the page, for the traceback.
            source = "\n" * (block.line - 1) + block.text
            try:
                exec(compile(source, str(block.path), "exec"), self.namespace)
            except Exception as error:
                raise AssertionError(f"{block.where}: {error!r}\n{block.text}") from error

    def environment(self) -> dict[str, str]:
        """Of the programs that the page runs."""
        bin_dir = Path(sys.executable).parent
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("PG")},
            "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
            "EMBVER_DATABASE_URL": self.url,
            "EMBVER_DATA_HOME": str(self.directory / "embver"),
        }

    def _program(self, block: Block, program: str | Path, *arguments: str) -> None:
        result = subprocess.run(
            [program, *arguments],
            check=False,
            input=block.text,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self.environment(),
            timeout=PATIENCE,
        )
        assert result.returncode == 0, (
            f"{block.where}: exit code {result.returncode}\n{block.text}\n"
            f"{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        )
