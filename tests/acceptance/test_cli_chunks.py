"""Documents in chunks by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from embver_pg.cli import main
from tests.conftest import Installed

pytest.importorskip("semantic_text_splitter", reason="the extra chunking is not installed")

TEXT = "Wings lift the glider. Flaps slow it down. Rudders turn it. Stalls end flight number %s."
CHUNKER = {"type": "characters", "size": 30, "overlap": 5}
CUT = ("--chunk-size", "30", "--chunk-overlap", "5")
Embver = Callable[..., str]


@pytest.fixture
def embver(installed: Installed, capsys: pytest.CaptureFixture[str]) -> Embver:
    """The command, on a database with 20 documents registered as ``docs``."""

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        found = main(["--database-url", installed.owner, *arguments])
        captured = capsys.readouterr()
        assert found == code, captured
        return captured.err if code else captured.out

    with installed.connect() as owner:
        owner.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        owner.execute(
            "INSERT INTO docs SELECT i, format(%s, i) FROM generate_series(1, 20) AS i", (TEXT,)
        )
    run("collection", "create", "docs", "--source", "public.docs", "--content", "body")
    return run


def test_from_plan_to_search(installed: Installed, embver: Embver) -> None:
    plan = json.loads(embver("--json", "rollout", "plan", "docs", "hash:64", *CUT))
    assert plan["documents"] == 20
    assert plan["chunker"] == CHUNKER
    assert plan["vectors"]["value"] > 60
    assert "chunks" in embver("rollout", "plan", "docs", "hash:64", *CUT)
    assert "chunks of 30 characters, overlap 5" in embver("version", "add", "docs", "hash:64", *CUT)
    shown = json.loads(embver("--json", "version", "show", "docs", "1"))
    assert shown["chunker"] == CHUNKER
    assert len(shown["chunker_hash"]) == 16
    assert "chunker" in embver("version", "show", "docs", "1")
    embver("rollout", "start", "docs", "1")
    embver("rollout", "run", "docs")
    embver("rollout", "promote", "docs")
    with installed.connect() as owner:
        stored = owner.execute("SELECT count(*) AS n FROM embver_docs_v1.embedding").fetchone()
        filled = owner.execute("SELECT vectors FROM embver.progress").fetchone()
    assert filled == {"vectors": 20}  # documents: what the progress is measured by
    assert stored == {"n": plan["vectors"]["value"]}
    found = json.loads(embver("--json", "search", "docs", "stalls end flight number 7", "-k", "3"))
    assert len({hit["key"]["id"] for hit in found}) == 3
    assert found[0]["key"] == {"id": 7}
    assert found[0]["chunk"] > 0
    assert "number 7" in found[0]["text"]
    assert "Wings" not in found[0]["text"]


def test_the_script_for_a_dba_names_the_chunker(installed: Installed, embver: Embver) -> None:
    script = embver("version", "add", "docs", "hash:64", *CUT, "--sql")
    assert '"size": 30' in script
    with installed.connect() as owner:
        owner.execute(script.encode())
    assert json.loads(embver("--json", "version", "show", "docs", "1"))["chunker"] == CHUNKER


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--chunk-overlap", "5"), 2, "--chunk-size"),
        (("--chunker", "tokens"), 2, "--chunk-size"),
        (("--chunk-size", "0"), 2, "--chunk-size"),
        (("--chunk-size", "5", "--chunk-overlap", "5"), 1, "overlap less than size"),
        (("--chunk-size", "5", "--chunker", "pages"), 1, "characters or tokens"),
        (("-o", "chunker=x"), 2, "write --chunker"),
        (("--chunk-size", "9", "--chunker", "tokens", "-o", "max_tokens=9"), 1, "at most 9 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(
    embver: Embver, arguments: tuple[str, ...], code: int, said: str
) -> None:
    answer: Any = embver("version", "add", "docs", "hash:64", *arguments, code=code)
    assert said in " ".join(answer.replace("│", " ").split())
    assert json.loads(embver("--json", "version", "list", "docs")) == []
