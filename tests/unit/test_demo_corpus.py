"""The demo's corpus is gathered the same way each time, and every judged document is in it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from embver_pg.demo import corpus
from embver_pg.demo.corpus import Document, Question, answerable, gather, load_questions


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return gather()


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return load_questions()


def test_there_are_enough_documents_under_unique_names(documents: list[Document]) -> None:
    assert 2000 <= len(documents) <= 3500
    assert len({d.name for d in documents}) == len(documents)
    assert len({d.body for d in documents}) == len(documents)


def test_documents_are_well_formed(documents: list[Document]) -> None:
    for d in documents:
        assert corpus.MIN_BODY <= len(d.body) <= corpus.MAX_BODY + 2, d.name
        assert not any(part.startswith("_") for part in d.name.split(".")), d.name
        assert d.kind in {"module", "class", "function", "method", "property"}
        assert d.module in corpus.MODULES
        assert d.name in d.title
        assert d.body.isprintable() or d.body.strip(), d.name


def test_gathering_twice_gives_the_same(documents: list[Document]) -> None:
    assert gather() == documents


def test_a_fresh_interpreter_gathers_the_same_quietly(documents: list[Document]) -> None:
    # Neither the hash seed nor what pytest has imported may matter, and nothing may be printed.
    script = (
        "from embver_pg.demo.corpus import gather; import hashlib;"
        "print(hashlib.sha256(repr([(d.name, d.kind, d.module) for d in gather()])"
        ".encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.split()) == 1
    assert [run.stderr for run in runs] == ["", ""]


def test_names_are_the_public_ones(documents: list[Document]) -> None:
    names = {d.name for d in documents}
    assert {
        "str.replace",
        "os.path.join",
        "pathlib.Path.glob",
        "pathlib.PurePath.joinpath",
        "random.choice",
        "contextlib.ExitStack.enter_context",
        "json.dumps",
        "itertools",
    } <= names
    assert not names & {"posixpath.join", "bytearray.replace", "builtins.len"}


def test_no_module_with_side_effects_is_imported() -> None:
    assert not {"antigravity", "this", "idlelib", "tkinter", "turtle"} & set(corpus.MODULES)
    assert [m for m, n in Counter(corpus.MODULES).items() if n > 1] == []


def test_long_docstrings_end_on_a_word() -> None:
    class Long:
        __doc__ = "word " * 500

    body = corpus._body(Long)
    assert body.endswith("word …")
    assert len(body) <= corpus.MAX_BODY + 2


def test_there_are_enough_questions_and_each_has_an_answer(questions: list[Question]) -> None:
    assert len(questions) >= 120
    assert len({q.id for q in questions}) == len(questions)
    assert len({q.text for q in questions}) == len(questions)
    for q in questions:
        assert set(q.relevant.values()) <= {1, 2}, q.id
        assert 2 in q.relevant.values(), q.id


@pytest.mark.skipif(sys.platform != "linux", reason="os and signal differ elsewhere")
def test_every_judged_document_exists(questions: list[Question], documents: list[Document]) -> None:
    names = {d.name for d in documents}
    assert {n for q in questions for n in q.relevant} - names == set()
    assert answerable(questions, documents) == questions


def test_questions_that_nothing_answers_are_left_out(documents: list[Document]) -> None:
    known = documents[0].name
    asked = [
        Question("a", "both", {known: 2, "os.nowhere": 1}),
        Question("b", "helps only", {known: 1, "os.nowhere": 2}),
    ]
    assert answerable(asked, documents) == [Question("a", "both", {known: 2})]
