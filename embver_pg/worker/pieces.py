"""Documents into chunks before they are encoded, and documents again before they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embver_pg.chunking import Splitter
from embver_pg.encoders import Vectors
from embver_pg.worker.batch import Encoded

Place = tuple[int | None, int | None, int | None]
_WHOLE: Place = (None, None, None)


@dataclass(frozen=True)
class Pieces:
    """What is encoded of the ``n`` documents of a lease.

    Attributes:
        texts: The ``m`` texts.
        documents: The position of the document that each text is of, ``[m]``.
        places: Of each chunk its number and where in its document it begins and ends, in
            characters; None where documents are encoded whole.
    """

    texts: Sequence[str]
    documents: NDArray[np.intp]
    places: list[Place] | None = None


@dataclass(frozen=True)
class Settled:
    """What is written of a lease: vectors first, then what failed.

    Attributes:
        documents: The position of each element's document.
        vectors: ``[v, d] float32``, of the first ``v`` elements.
        reasons: Why the others failed.
        places: The places of all elements, where documents are cut.
        truncated: Texts of which the model read the beginning only.
    """

    documents: NDArray[np.intp]
    vectors: Vectors
    reasons: list[str]
    places: list[Place] | None
    truncated: int


def cut(contents: Sequence[str], split: Splitter | None) -> Pieces:
    """The chunks of documents, in order, or the documents themselves.

    Args:
        contents: The ``n`` documents.
        split: The version's splitter; None where it does not cut.
    """
    if split is None:
        return Pieces(contents, np.arange(len(contents)))
    texts: list[str] = []
    documents: list[int] = []
    places: list[Place] = []
    for position, content in enumerate(contents):
        for number, chunk in enumerate(split(content)):
            texts.append(chunk.text)
            documents.append(position)
            places.append((number, chunk.start, chunk.end))
    return Pieces(texts, np.array(documents, dtype=np.intp), places)


def settled(pieces: Pieces, outcome: Encoded) -> Settled:
    """The outcome by documents: what has one refused chunk failed as a whole, and once."""
    truncated = len(outcome.cut)
    if not outcome.failed:
        return Settled(pieces.documents, outcome.vectors, [], pieces.places, truncated)
    reasons: dict[int, str] = {}
    for row in sorted(outcome.failed):
        said = outcome.failed[row]
        if pieces.places is not None:
            number, start, end = pieces.places[row]
            said = f"chunk {number} (characters {start} to {end}): {said}"
        reasons.setdefault(int(pieces.documents[row]), said)
    kept = np.flatnonzero(~np.isin(pieces.documents, list(reasons)))
    places = pieces.places
    if places is not None:
        places = [places[row] for row in kept] + [_WHOLE] * len(reasons)
    return Settled(
        np.concatenate([pieces.documents[kept], np.array(list(reasons), dtype=np.intp)]),
        outcome.vectors[kept],
        list(reasons.values()),
        places,
        truncated,
    )
