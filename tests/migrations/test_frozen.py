"""What a release has installed never changes: databases out there were made of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.migrations.freeze import FIXTURES, ROOT, current_release, frozen_files

RELEASES = sorted(path.stem for path in FIXTURES.glob("*.sha256"))

ADVICE = """{path} was released with {release} and has changed since.

Databases that run {release} will never see the change. Put the file back as it was, and write a
new revision: sql/schema/{line}/{number}_<what>.sql with the statements that lead from the old
tables to the new ones, and migrations/{line}/{number}_<what>.py that names it. Functions and
views are free to change: they live in sql/routines and sql/generated.

(Before {release} is tagged: python -m tests.migrations.freeze)"""


def frozen() -> list[tuple[str, str, str]]:
    """(release, path, checksum) of every file that a release has frozen."""
    found = []
    for release in RELEASES:
        for line in (FIXTURES / f"{release}.sha256").read_text().splitlines():
            checksum, path = line.split()
            found.append((release, path, checksum))
    return found


@pytest.mark.parametrize(("release", "path", "checksum"), frozen(), ids=lambda value: value[:60])
def test_released_schema_is_frozen(release: str, path: str, checksum: str) -> None:
    name = Path(path)
    advice = ADVICE.format(
        path=path, release=release, line=name.parent.name, number=next_number(name.parent)
    )
    assert (ROOT / path).is_file(), advice
    assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == checksum, advice


def test_every_release_has_its_checksums_and_its_dump() -> None:
    for release in RELEASES:
        assert (FIXTURES / f"{release}.sql").is_file(), "python -m tests.migrations.freeze"
    known, there = {path for _, path, _ in frozen()}, set(frozen_files())
    if ".dev" in current_release():
        assert RELEASES[-1] < current_release()
        assert known <= there
    else:
        assert current_release() in RELEASES, "python -m tests.migrations.freeze"
        assert known == there, "a revision without a release: raise the version, freeze"


def test_every_revision_runs_one_file_of_its_number() -> None:
    for line in ("core", "store"):
        files = [path.stem for path in sorted((ROOT / "sql/schema" / line).glob("*.sql"))]
        assert files == [path.stem for path in sorted((ROOT / "migrations" / line).glob("*.py"))]
        for stem in files:
            text = (ROOT / "migrations" / line / f"{stem}.py").read_text()
            assert f'"schema/{line}/{stem}.sql"' in text
            assert f'revision = "{line}_{stem[:4]}"' in text


def next_number(folder: Path) -> str:
    numbers = [int(path.stem[:4]) for path in (ROOT / folder).glob("[0-9]*")]
    return f"{max(numbers, default=0) + 1:04d}"
