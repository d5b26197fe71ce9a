"""Where the files of ``sql/`` and ``migrations/`` are: in the checkout, or in the wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def sql_dir() -> Path:
    """The directory ``sql/``."""
    return _root() / "sql"


def migrations_dir() -> Path:
    """The directory ``migrations/``, with Alembic's ``env.py``."""
    return _root() / "migrations"


def read_sql(relative: str) -> str:
    """The text of one file below ``sql/``, such as ``routines/10_route.sql``.

    Raises:
        FileNotFoundError: There is no such file.
    """
    return (sql_dir() / relative).read_text(encoding="utf-8")


@cache
def _root() -> Path:
    """The checkout this package is imported from, else the copy inside the wheel.

    Looked up beside this very file, so that neither a copy left in site-packages nor the working
    directory can stand in for the code that runs.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "sql").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout
    return package / "_data"
