"""One batch: texts encoded once each, with the poisoned ones set apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import psycopg
from numpy.typing import NDArray

from embver_pg.encoders import Encoder, RejectedInputError, Vectors
from embver_pg.encoders.overflow import noting_truncated
from embver_pg.errors import EmbverError
from embver_pg.worker.background import AbandonedError

log = logging.getLogger("embver_pg.worker")
_REASON_LENGTH = 1000  # characters kept of an error
_PROBE = "a plain sentence"


@dataclass
class Encoded:
    """The outcome of a batch of ``n`` texts.

    Attributes:
        vectors: ``[n, d] float32``; the rows of texts that failed mean nothing.
        failed: Why the encoder refuses a text, by its position.
        cut: Positions of the texts of which the encoder read the beginning only.
    """

    vectors: Vectors
    failed: dict[int, str] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)


def encode_batch(encoder: Encoder, texts: Sequence[str]) -> Encoded:
    """Encode a batch; where the encoder refuses an input, bisect down to it.

    Equal texts are encoded once.

    Args:
        encoder: A checked encoder.
        texts: The ``n`` texts.

    Raises:
        EmbverError: What is no fault of a document: the provider is down, refuses everything,
            or returns what is not one vector an input.
        Exception: What the encoder raises for a plain sentence too.
    """
    if not texts:
        return Encoded(np.zeros((0, encoder.dimensions), dtype=np.float32))
    unique = list(dict.fromkeys(texts))
    if len(unique) == len(texts):
        return _encode_unique(encoder, unique)
    number = {text: row for row, text in enumerate(unique)}
    rows = np.fromiter(map(number.__getitem__, texts), np.intp, len(texts))
    outcome = _encode_unique(encoder, unique)
    return Encoded(
        outcome.vectors[rows],
        {at: why for row, why in outcome.failed.items() for at in _where(rows == row)},
        _where(np.isin(rows, outcome.cut)),
    )


def _encode_unique(encoder: Encoder, texts: list[str]) -> Encoded:
    """Encode texts that differ."""
    outcome = Encoded(np.zeros((0, 0), dtype=np.float32))

    def attempt(chosen: list[int]) -> None:
        part = texts if len(chosen) == len(texts) else [texts[position] for position in chosen]
        try:
            with noting_truncated() as cut:
                vectors = _encoded(encoder, part)
        except RejectedInputError as error:
            for half in _suspects(chosen, error, outcome):
                attempt(half)
            return
        outcome.cut.extend(chosen[place] for place in cut)
        if len(chosen) == len(texts):
            outcome.vectors = vectors
            return
        if not len(outcome.vectors):
            outcome.vectors = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        outcome.vectors[chosen] = vectors

    attempt(list(range(len(texts))))
    if not len(outcome.vectors):
        outcome.vectors = np.zeros((len(texts), encoder.dimensions), dtype=np.float32)
    return outcome


def _where(mask: NDArray[np.bool_]) -> list[int]:
    found: list[int] = np.flatnonzero(mask).tolist()
    return found


def _encoded(encoder: Encoder, texts: list[str]) -> Vectors:
    """The vectors of texts; a library's own exception is their fault if a plain text is fine."""
    try:
        return encoder.encode_documents(texts)
    except (EmbverError, AbandonedError, psycopg.Error):
        raise  # not the library's
    except Exception as error:
        try:
            encoder.encode_documents([_PROBE])
        except Exception:
            raise error from None
        log.info("the encoder fails on some of %d texts", len(texts), exc_info=error)
        raise RejectedInputError(f"{type(error).__name__}: {error}") from error


def _reason(error: EmbverError, position: int) -> str:
    """What a dead letter says; PostgreSQL's text holds neither NUL nor surrogates."""
    own: str = (error.detail.get("reasons") or {}).get(position, error.message)
    text = own[:_REASON_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-8", errors="replace").decode()


def _suspects(chosen: list[int], error: EmbverError, outcome: Encoded) -> list[list[int]]:
    """What to try again after a refusal: the innocent at once, the suspects by halves."""
    places = sorted(set(error.detail.get("positions") or range(len(chosen))))
    guilty = [chosen[place] for place in places]
    accused = set(places)
    innocent = [position for place, position in enumerate(chosen) if place not in accused]
    if len(guilty) == 1 or error.detail.get("exact"):
        for place in places:
            outcome.failed[chosen[place]] = _reason(error, place)
        return [innocent] if innocent else []
    middle = len(guilty) // 2
    return [part for part in (innocent, guilty[:middle], guilty[middle:]) if part]
