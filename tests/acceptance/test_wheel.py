"""What a user installs: the wheel, in an environment that knows nothing of the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "sentence_transformers", "model2vec", "openai", "numpy", "scipy", "sqlalchemy",
         "alembic", "psycopg", "typer")  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel in it, and a data directory of its own."""

    home: Path

    def run(self, *command: str, exit_code: int = 0) -> str:
        """Run a program of the environment, outside the checkout."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("EMBVER", "PYTHON", "PG"))}
        result = subprocess.run(
            [self.home / "venv/bin" / command[0], *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.home / "elsewhere",
            env={
                **kept,
                "PATH": f"{self.home / 'venv/bin'}:{kept.get('PATH', '')}",
                "VIRTUAL_ENV": str(self.home / "venv"),
                "EMBVER_DATA_HOME": str(self.home / "data"),
            },
        )
        assert result.returncode == exit_code, f"{command}: {result.stdout}\n{result.stderr}"
        return result.stdout

    def python(self, code: str) -> str:
        return self.run("python", "-c", code).strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is built."""
    output = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", output, ROOT],
        check=True,
        cwd=output,
        stdout=subprocess.DEVNULL,
    )
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Iterator[Environment]:
    # pytest's own directories are closed to the account that runs PostgreSQL for root.
    base = "/tmp" if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="embver-wheel-", dir=base))
    home.chmod(0o755)
    (home / "elsewhere").mkdir()
    made = Environment(home)
    try:
        subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
        made.run(
            "pip", "install", "--quiet", "--disable-pip-version-check",
            "-c", str(ROOT / "constraints.txt"), f"{wheel}[embedded]",
        )  # fmt: skip
        yield made
    finally:
        try:
            made.python("from embver_pg import embedded; embedded.stop()")
        finally:
            shutil.rmtree(home, ignore_errors=True)


def test_everything_travels(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for folder, pattern in (("sql", "*.sql"), ("migrations", "*.py")):
            files = sorted((ROOT / folder).rglob(pattern))
            assert len(files) >= 3
            for path in files:
                name = f"embver_pg/_data/{path.relative_to(ROOT).as_posix()}"
                assert name in names
                assert archive.read(name) == path.read_bytes()
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "embver_pg").rglob("*.py")}
        assert modules <= names
        assert {"embver_pg/py.typed", "embver_pg/demo/questions.jsonl"} <= names
        assert not [
            name for name in names if name.startswith(("tests/", "bench/", "embver_pg/sql"))
        ]


def test_the_package_is_the_installed_one(environment: Environment) -> None:
    where = environment.python(
        "import embver_pg.resources as r; print(r.__file__, r.sql_dir(), r.migrations_dir())"
    ).split()
    assert len(where) == 3
    for path in where:
        assert Path(path).is_relative_to(environment.home / "venv")


def test_importing_the_package_is_light(environment: Environment) -> None:
    loaded = environment.python("import embver_pg, sys; print(*sys.modules)").split()
    assert "embver_pg" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    # The command line, too, must answer before a model is loaded.
    loaded = environment.python("import embver_pg.cli, sys; print(*sys.modules)").split()
    assert not {name.partition(".")[0] for name in loaded} & {"torch", "sentence_transformers"}


def test_from_init_to_search(environment: Environment) -> None:
    environment.run("embver", "init")
    url = environment.run("embver", "db", "url").strip()
    assert str(environment.home) in url or url.startswith("postgresql://")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
        connection.execute(
            "INSERT INTO docs VALUES (1, 'Wings', 'how do wings stall'),"
            " (2, 'Flaps', 'when are flaps extended'), (3, 'Gliders', 'the best glide ratio')"
        )

    environment.run(
        "embver", "collection", "create", "docs",
        "--source", "public.docs", "--content", "title || E'\\n' || body",
    )  # fmt: skip
    environment.run("embver", "version", "add", "docs", "hash:64")
    environment.run("embver", "rollout", "start", "docs", "1")
    environment.run("embver", "rollout", "promote", "docs", exit_code=1)  # not filled yet
    environment.run("embver", "worker", "--drain")
    environment.run("embver", "rollout", "promote", "docs")
    hits = json.loads(environment.run("embver", "--json", "search", "docs", "how do wings stall"))
    assert (hits[0]["key"], hits[0]["version"]) == ({"id": 1}, 1)
    assert json.loads(environment.run("embver", "--json", "verify", "docs"))["clean"] is True
    environment.run("embver", "upgrade")
