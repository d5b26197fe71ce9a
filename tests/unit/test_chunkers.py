"""Chunkers: what they cut, that nothing is lost between, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embver_pg.chunking import Chunker, splitter
from embver_pg.encoders import EncoderSpec, load
from embver_pg.errors import InvalidArgument
from embver_pg.worker.batch import Encoded
from embver_pg.worker.pieces import cut, settled

pytest.importorskip("semantic_text_splitter", reason="the extra chunking is not installed")
HASH = load("hash:8")
TEXT = "First sentence here. Second one.\n\nA new paragraph, with more words in it than before."


def spans(text: str, chunker: Chunker) -> list[tuple[int, int]]:
    return [(chunk.start, chunk.end) for chunk in splitter(chunker, HASH)(text)]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.integers(1, 40),
    st.integers(0, 39),
)
def test_chunks_are_spans_in_order_that_lose_only_blanks(
    text: str, size: int, overlap: int
) -> None:
    found = splitter(Chunker("characters", size, min(overlap, size - 1)), HASH)(text)
    assert found, "a text that is not empty has a chunk"
    assert found == splitter(Chunker("characters", size, min(overlap, size - 1)), HASH)(text)
    lost = set(range(len(text)))
    for chunk in found:
        assert text[chunk.start : chunk.end] == chunk.text
        lost -= set(range(chunk.start, chunk.end))
    assert all(text[position].isspace() for position in lost)
    starts = [chunk.start for chunk in found]
    assert starts == sorted(starts)
    if text.strip():
        assert all(0 < len(chunk.text) <= size for chunk in found)


def test_chunks_end_where_sentences_do() -> None:
    assert [TEXT[a:b] for a, b in spans(TEXT, Chunker("characters", 34))] == [
        "First sentence here. Second one.",
        "A new paragraph, with more words",
        "in it than before.",
    ]


def test_positions_count_characters_as_the_database_does() -> None:
    text = "Äpfel 🍎 fallen. Birnen 🍐 auch."
    assert [text[a:b] for a, b in spans(text, Chunker("characters", 16))] == [
        "Äpfel 🍎 fallen.",
        "Birnen 🍐 auch.",
    ]


def test_blanks_alone_are_one_chunk() -> None:
    assert spans(" \n ", Chunker("characters", 2)) == [(0, 3)]


def test_tokens_are_those_of_the_encoder_prompt_included() -> None:
    plain = splitter(Chunker("tokens", 4, 1), HASH)("a b c d e f g h")
    assert [chunk.text for chunk in plain] == ["a b c d", "d e f g", "g h"]
    prompted = load("hash:8", document_prompt="search document: ")
    found = splitter(Chunker("tokens", 4), prompted)("a b c d")
    assert [chunk.text for chunk in found] == ["a b", "c d"]


@pytest.mark.parametrize(
    ("encoder", "size", "said"),
    [
        (load("hash:8", max_tokens=5), 5, "reads at most 5 tokens"),
        (load("hash:8", max_tokens=5), 6, "reads at most 5 tokens"),
        (load("hash:8", document_prompt="one two three "), 3, "A word alone has 4 tokens"),
    ],
)
def test_tokens_that_never_fit_are_refused(encoder: Any, size: int, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        splitter(Chunker("tokens", size), encoder)
    assert splitter(Chunker("tokens", 4), load("hash:8", max_tokens=5))("a b c d e f")


def test_a_guess_counts_no_tokens() -> None:
    class Nameless:
        spec = EncoderSpec("elsewhere", "unknown")

    with pytest.raises(InvalidArgument, match="Nobody here can count the tokens"):
        splitter(Chunker("tokens", 4), Nameless())  # type: ignore[arg-type]  # only its spec is asked


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidArgument) as failure:
        splitter(Chunker("characters", 4), HASH)
    assert failure.value.hint == "pip install 'embver-pg[chunking]'"


@pytest.mark.parametrize(
    "data",
    [
        {"type": "pages", "size": 4},
        {"type": "characters", "size": 0},
        {"type": "characters", "size": True},
        {"type": "characters", "size": 4.0},
        {"type": "characters", "size": "4"},
        {"type": "characters", "size": 10**7},
        {"type": "characters", "size": 4, "overlap": 4},
        {"type": "characters", "size": 4, "overlap": -1},
        {"type": "characters"},
        {"size": 4},
        {"type": "characters", "size": 4, "by": "hand"},
        "characters",
    ],
    ids=str,
)
def test_unfit_descriptions_are_refused(data: Any) -> None:
    with pytest.raises(InvalidArgument):
        Chunker.from_json(data)


def test_a_description_survives_json() -> None:
    chunker = Chunker("tokens", 9, 2)
    assert chunker.to_json() == {"type": "tokens", "size": 9, "overlap": 2}
    assert Chunker.from_json(chunker.to_json()) == chunker
    assert Chunker.from_json({"type": "tokens", "size": 9}).overlap == 0


def test_pieces_of_documents_and_back() -> None:
    pieces = cut(["aa bb cc", "dd"], splitter(Chunker("characters", 5), HASH))
    assert pieces.texts == ["aa bb", "cc", "dd"]
    assert pieces.documents.tolist() == [0, 0, 1]
    assert pieces.places == [(0, 0, 5), (1, 6, 8), (0, 0, 2)]
    vectors = np.eye(3, 8, dtype=np.float32)
    done = settled(pieces, Encoded(vectors))
    assert done.vectors is vectors
    assert (done.documents.tolist(), done.reasons, done.places) == ([0, 0, 1], [], pieces.places)
    torn = settled(pieces, Encoded(vectors, {1: "bad", 0: "worse"}, [2]))
    assert torn.documents.tolist() == [1, 0]
    np.testing.assert_array_equal(torn.vectors, vectors[[2]])
    assert torn.reasons == ["chunk 0 (characters 0 to 5): worse"]
    assert torn.places == [(0, 0, 2), (None, None, None)]
    assert torn.truncated == 1


def test_whole_documents_pass_as_they_are() -> None:
    contents = ["aa bb cc", "dd"]
    pieces = cut(contents, None)
    assert (pieces.texts, pieces.documents.tolist(), pieces.places) == (contents, [0, 1], None)
    failed = settled(pieces, Encoded(np.eye(2, 8, dtype=np.float32), {0: "bad"}))
    assert (failed.documents.tolist(), failed.reasons, failed.places) == ([1, 0], ["bad"], None)
