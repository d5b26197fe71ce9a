"""README.md and docs/: every block runs, every command, function, view and error is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from embver_pg.errors import EmbverError
from tests.conftest import Installed
from tests.readme_blocks import EXECUTED, SHOWN, Block, Page, read_blocks, read_commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
REFERENCE = ROOT / "docs/reference/sql.md"
CLASSES = EmbverError.__module__
ERRORS = sorted(EmbverError.__subclasses__(), key=lambda error: error.code)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_run(
    page: Path, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name == "chunking.md":
        pytest.importorskip("semantic_text_splitter", reason="the extra chunking is not installed")
    blocks = [block for block in read_blocks(page) if block.language in EXECUTED]
    execution = Page(installed.owner, tmp_path)
    monkeypatch.setenv("EMBVER_DATABASE_URL", installed.owner)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        if block.skip is None:
            execution.run(block)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_are_of_a_known_language_and_skipped_for_a_reason(page: Path) -> None:
    for block in read_blocks(page):
        assert block.language in (*EXECUTED, *SHOWN), f"{block.where}: {block.language!r}"
        assert block.skip is None or len(block.skip) > 5, f"{block.where}: say why"
        assert block.skip is None or block.language in EXECUTED, f"{block.where}: never executed"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for line, command in read_commands(page, "make"):
        for word in command.split()[1:]:
            if re.fullmatch(r"[a-z-]+", word):
                assert word in targets, f"{page.name}:{line}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_embver_commands_exist(page: Path) -> None:
    for line, command in read_commands(page, "embver"):
        problem = command_problem(command)
        assert problem is None, f"{page.name}:{line}: {command}: {problem}"


def test_the_check_of_commands_has_teeth() -> None:
    assert command_problem("embver --json rollout status docs") is None
    assert command_problem("embver db start|stop|url") is None
    assert command_problem("embver worker --drain") is None
    assert command_problem("embver rollout begin docs") == "no command 'begin'"
    assert command_problem("embver undo") == "no command 'undo'"
    assert command_problem("embver worker --forever") == "no option '--forever'"


def command_problem(command: str) -> str | None:
    """What is wrong with a command line of ``embver``, by the tree of commands."""
    import typer

    from embver_pg.cli.app import app

    here: Any = typer.main.get_command(app)
    known = {option for parameter in here.params for option in parameter.opts}
    known |= {"--help"}
    words = iter(shlex.split(command, comments=True)[1:])
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            if name == "--database-url" and "=" not in word:
                next(words, None)
            if name not in known:
                return f"no option {name!r}"
            continue
        commands = getattr(here, "commands", None)
        if commands is None or not re.match(r"[a-z]", word):
            continue  # an argument, or a placeholder
        names = word.split("|")
        for name in names:
            if name not in commands:
                return f"no command {name!r}"
        here = commands[names[0]]
        known |= {option for parameter in here.params for option in parameter.opts}
    return None


def test_the_reference_has_every_function_of_the_api(installed: Installed) -> None:
    text = REFERENCE.read_text()
    with installed.connect() as owner:
        functions = owner.execute(
            "SELECT f.proname AS name, coalesce((SELECT array_agg(n ORDER BY i)"
            " FROM unnest(f.proargnames, coalesce(f.proargmodes, array_fill('i'::\"char\","
            " ARRAY[cardinality(f.proargnames)]))) WITH ORDINALITY AS a (n, mode, i)"
            " WHERE mode = 'i'), '{}') AS parameters"
            " FROM pg_proc AS f WHERE f.pronamespace = 'embver'::regnamespace ORDER BY 1"
        ).fetchall()
    assert len(functions) >= 15
    documented = dict(re.findall(r"^embver\.([a-z_]+)\((.*?)\)", text, re.MULTILINE | re.DOTALL))
    assert set(documented) == {function["name"] for function in functions}
    for function in functions:
        written = [part.split()[0].strip('"') for part in documented[function["name"]].split(",")]
        assert written == function["parameters"], function["name"]


def test_the_reference_has_every_view_with_its_columns(installed: Installed) -> None:
    text = REFERENCE.read_text()
    documented = {
        name: re.findall(r"[a-z_]+", columns)
        for name, columns in re.findall(r"^\| `embver\.([a-z_]+)` \|[^|]*\| (.*?) \|$", text, re.M)
    }
    with installed.connect() as owner:
        views = owner.execute(
            "SELECT r.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns"
            " FROM pg_class AS r INNER JOIN pg_attribute AS a ON a.attrelid = r.oid"
            " WHERE r.relnamespace = 'embver'::regnamespace AND r.relkind = 'v' AND a.attnum > 0"
            " GROUP BY r.relname ORDER BY 1"
        ).fetchall()
    assert len(views) >= 10
    assert documented == {view["name"]: view["columns"] for view in views}


@pytest.mark.parametrize("page", [REFERENCE, ROOT / "sql/README.md"], ids=lambda path: path.name)
def test_every_error_is_listed(page: Path) -> None:
    rows = dict(re.findall(r"^\| (VM\d{3}) \| `(\w+)` \|", page.read_text(), re.MULTILINE))
    numbered = {error.code: error.__name__ for error in ERRORS if error.__module__ == CLASSES}
    assert rows == numbered
    raised = set()
    for path in [*(ROOT / "sql").rglob("*.sql"), *(ROOT / "embver_pg").rglob("*.py")]:
        raised |= set(re.findall(r"\bVM\d{3}\b", path.read_text()))
    assert raised - {EmbverError.code} <= set(rows)


def test_blocks_are_read_as_markdown_has_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n```sh\nmake demo   # see\n```\n\n<!-- not executed: it takes long -->\n\n"
        "  ```sql\n  SELECT 1;\n    SELECT 2;\n  ```\n\ntext `embver init` and `make test`\n"
        "```console\n$ embver status --watch\nembver is fine\n```\n"
    )
    assert read_blocks(page) == [
        Block(page, 4, "sh", "make demo   # see\n"),
        Block(page, 10, "sql", "SELECT 1;\n  SELECT 2;\n", "it takes long"),
        Block(page, 16, "console", "$ embver status --watch\nembver is fine\n"),
    ]
    assert list(read_commands(page, "make")) == [(4, "make demo"), (14, "make test")]
    assert list(read_commands(page, "embver")) == [
        (16, "embver status --watch"),
        (14, "embver init"),
    ]
    page.write_text("```sh\nnever closed\n")
    with pytest.raises(AssertionError, match="not closed"):
        read_blocks(page)
