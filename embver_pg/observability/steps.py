"""The steps that a worker reports, handed to several listeners."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from embver_pg.errors import InvalidArgument

OnStep = Callable[[str, dict[str, Any]], None]
EXTRA = "observability"


def all_of(*listeners: OnStep) -> OnStep:
    """One listener that tells several, in their order."""

    def tell(name: str, figures: dict[str, Any]) -> None:
        for listener in listeners:
            listener(name, figures)

    return tell


def require(module: str, package: str) -> Any:
    """A module of an optional package.

    Raises:
        InvalidArgument: The package is not installed; the hint is the command to type.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidArgument(
            f"The package {package!r} is not installed.",
            detail={"extra": EXTRA, "package": package},
            hint=f"pip install 'embver-pg[{EXTRA}]'",
        ) from error
