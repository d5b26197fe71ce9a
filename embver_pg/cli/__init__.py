"""The command line: ``embver``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What stands after ``embver``; default those of this process.

    Returns:
        The exit code: 0 ok, 1 domain error, 2 usage, 3 a check failed, 4 incompatible schema,
        130 interrupted.
    """
    from embver_pg.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)
