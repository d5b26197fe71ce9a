"""Chunkers: how a version cuts documents that are longer than one vector can stand for.

``semantic-text-splitter`` does the cutting: chunks as large as the size allows, ended between
paragraphs, sentences or words where possible. The same text and chunker give the same chunks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from embver_pg.encoders import Encoder
from embver_pg.encoders.tokens import token_counter
from embver_pg.errors import InvalidArgument

TYPES = ("characters", "tokens")
LARGEST = 1_000_000
_PACKAGE = "semantic_text_splitter"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text.

    Attributes:
        start: Characters before it.
        end: Characters up to its end.
        text: What stands there.
    """

    start: int
    end: int
    text: str


Splitter = Callable[[str], list[Chunk]]


@dataclass(frozen=True, slots=True)
class Chunker:
    """The description of a chunker, stored with a version.

    Attributes:
        type: ``characters``, or ``tokens`` of the version's encoder, prompt and marks included.
        size: The most that a chunk has of them.
        overlap: How many of them two neighbours may share.
    """

    type: str
    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        """Check types and ranges; the database checks them again.

        Raises:
            InvalidArgument: One is wrong.
        """
        whole = all(type(value) is int for value in (self.size, self.overlap))
        if self.type not in TYPES or not (
            whole and 1 <= self.size <= LARGEST and 0 <= self.overlap < self.size
        ):
            raise InvalidArgument(
                f"The chunker {asdict(self)} is unknown or out of range.",
                detail={"chunker": asdict(self), "types": list(TYPES)},
                hint="characters or tokens, size 1 to 1000000, overlap less than size:"
                " --chunk-size 1000 --chunk-overlap 100",
            )

    def to_json(self) -> dict[str, Any]:
        """The chunker as a JSON object; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Chunker:
        """The chunker that :meth:`to_json` wrote, or that a caller described.

        Raises:
            InvalidArgument: A field is unknown, missing or wrong.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or set(data) - known or {"type", "size"} - set(data):
            raise InvalidArgument(
                f"This is no chunker: {data!r}.",
                detail={"chunker": str(data), "known": sorted(known)},
                hint='{"type": "characters", "size": 1000, "overlap": 100}',
            )
        return cls(**data)


def splitter(chunker: Chunker, encoder: Encoder) -> Splitter:
    """What cuts texts as a chunker says.

    Args:
        chunker: The version's.
        encoder: The version's; its tokenizer counts tokens.

    Returns:
        A function from a text that is not empty to its chunks, at least one, in order.

    Raises:
        InvalidArgument: The package is not installed, or the encoder cannot count tokens, or reads
            fewer than a chunk may have.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise InvalidArgument(
            "Cutting documents needs the package 'semantic-text-splitter', which is not installed.",
            detail={"extra": "chunking", "package": "semantic-text-splitter"},
            hint="pip install 'embver-pg[chunking]'",
        )
    from semantic_text_splitter import TextSplitter

    if chunker.type == "characters":
        library = TextSplitter(chunker.size, overlap=chunker.overlap)
    else:
        library = TextSplitter.from_callback(
            _token_count(chunker, encoder), chunker.size, overlap=chunker.overlap
        )

    def split(text: str) -> list[Chunk]:
        # PostgreSQL's text holds no surrogates; a text of blanks alone is one chunk.
        found = library.chunk_indices(text) or [(0, text)]
        return [Chunk(start, start + len(part), part) for start, part in found]

    return split


def _token_count(chunker: Chunker, encoder: Encoder) -> Callable[[str], int]:
    counter = token_counter(encoder)
    name = f"{encoder.spec.provider}:{encoder.spec.model}"
    if not counter.is_exact:
        raise InvalidArgument(
            f"Nobody here can count the tokens of {name} ({counter.method}).",
            detail={"encoder": name, "chunker": chunker.to_json()},
            hint="Cut by characters, or install the model's tokenizer: pip install"
            " 'embver-pg[tokens]'",
        )

    def count(text: str) -> int:
        return int(counter.documents([text])[0])

    # A counter that stops at the model's limit never says that a text is too long for it.
    most = count("x " * (4 * chunker.size + 8))
    if most <= chunker.size:
        raise InvalidArgument(
            f"{name} reads at most {most} tokens: chunks must have fewer, not {chunker.size}.",
            detail={"encoder": name, "limit": most, "chunker": chunker.to_json()},
            hint=f"--chunk-size {max(1, most - 1)}",
        )
    if count("x") > chunker.size:
        raise InvalidArgument(
            f"A word alone has {count('x')} tokens for {name}, its prompt and marks included:"
            f" more than a chunk of {chunker.size}.",
            detail={"encoder": name, "chunker": chunker.to_json()},
            hint="Write a larger --chunk-size.",
        )
    return count
