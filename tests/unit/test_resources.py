"""The files of sql/ and migrations/ are found in a checkout and in a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from embver_pg import resources

CHECKOUT = Path(__file__).resolve().parents[2]
SHOW = "from embver_pg import resources as r; print(r.sql_dir()); print(r.migrations_dir())"


def test_a_checkout_uses_its_own_files() -> None:
    assert resources.sql_dir() == CHECKOUT / "sql"
    assert resources.migrations_dir() == CHECKOUT / "migrations"
    found = sorted((CHECKOUT / "sql").rglob("*.sql"))[0]
    assert resources.read_sql(str(found.relative_to(CHECKOUT / "sql"))) == found.read_text()


def test_an_unknown_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such\.sql"):
        resources.read_sql("no_such.sql")


def shown(directory: Path, *path: Path) -> list[Path]:
    """What a Python started elsewhere, with this search path, takes the files from."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-S", "-c", SHOW]
    asked = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=True
    )
    return [Path(line) for line in asked.stdout.split()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout and unpacked."""
    made = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(made)]
    subprocess.run([*command, str(CHECKOUT)], check=True, capture_output=True)
    unpacked = made / "site-packages"
    zipfile.ZipFile(next(made.glob("*.whl"))).extractall(unpacked)
    return unpacked


def test_a_wheel_carries_every_file(installed: Path, tmp_path: Path) -> None:
    data = installed / "embver_pg" / "_data"
    assert shown(tmp_path, installed) == [data / "sql", data / "migrations"]
    for folder in ("sql", "migrations"):
        kept = [p for p in (CHECKOUT / folder).rglob("*") if p.suffix in (".sql", ".py", ".mako")]
        assert kept
        for path in kept:
            copied = data / path.relative_to(CHECKOUT)
            assert copied.read_bytes() == path.read_bytes()
    package_data = [p for p in (CHECKOUT / "embver_pg").rglob("*") if p.suffix == ".jsonl"]
    for path in [*package_data, CHECKOUT / "embver_pg" / "py.typed"]:
        assert (installed / path.relative_to(CHECKOUT)).is_file()


def test_a_wheel_outside_a_checkout_ignores_the_working_directory(installed: Path) -> None:
    data = installed / "embver_pg" / "_data"
    assert shown(CHECKOUT / "sql", installed)[0] == data / "sql"


def test_a_stale_copy_in_site_packages_does_not_win(tmp_path: Path) -> None:
    stale = tmp_path / "site-packages"
    (stale / "embver_pg" / "_data" / "sql").mkdir(parents=True)
    assert shown(tmp_path, stale, CHECKOUT)[0] == CHECKOUT / "sql"
