"""One batch: what was leased, encoded with the poisoned inputs set apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import psycopg

from embver_pg.encoders import Encoder, RejectedInputError, Vectors
from embver_pg.encoders.overflow import noting_truncated
from embver_pg.errors import EmbverError
from embver_pg.worker.background import AbandonedError

log = logging.getLogger("embver_pg.worker")
_REASON_LENGTH = 1000  # characters kept of an error
_PROBE = "a plain sentence"


@dataclass(frozen=True)
class Item:
    """A document of a lease, or a chunk of one.

    Attributes:
        number: Its number within the lease.
        content: The text to encode; None where nothing is to be encoded.
        content_hash: Hash of the document's content.
        place: Of a chunk, its number and where in the content it begins and ends, in characters.
    """

    number: int
    content: str | None
    content_hash: bytes | None
    place: tuple[int, int, int] | None = None


@dataclass
class Encoded:
    """The outcome of a batch.

    Attributes:
        items: Items encoded, in the order of ``vectors``.
        vectors: ``[n, d] float32``.
        failed: Items that the encoder refuses, with the reason.
        truncated: Items of which the encoder read the beginning only.
    """

    items: list[Item] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    failed: list[tuple[Item, str]] = field(default_factory=list)
    truncated: int = 0


def encode_batch(encoder: Encoder, items: Sequence[Item]) -> Encoded:
    """Encode a batch; where the encoder refuses an input, bisect down to it.

    Equal texts are encoded once.

    Args:
        encoder: A checked encoder.
        items: Items with content.

    Raises:
        EmbverError: What is no fault of a document: the provider is down, refuses everything,
            or returns what is not one vector an input.
        Exception: What the encoder raises for a plain sentence too.
    """
    by_content: dict[str, list[Item]] = {}
    for item in items:
        if item.content is not None:
            by_content.setdefault(item.content, []).append(item)
    texts = list(by_content)
    outcome = Encoded()

    def attempt(chosen: list[str]) -> None:
        try:
            with noting_truncated() as cut:
                vectors = _encoded(encoder, chosen)
        except RejectedInputError as error:
            for half in _suspects(chosen, error, outcome, by_content):
                attempt(half)
            return
        outcome.truncated += sum(len(by_content[chosen[row]]) for row in cut)
        for row, text in enumerate(chosen):
            for item in by_content[text]:
                outcome.items.append(item)
                outcome.vectors.append(vectors[row])

    if texts:
        attempt(texts)
    return outcome


def stacked(vectors: Sequence[Vectors], dimensions: int) -> Vectors:
    """Rows as a matrix ``[n, d] float32``, also where there are none."""
    return np.stack(vectors) if vectors else np.zeros((0, dimensions), dtype=np.float32)


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


def _suspects(
    texts: list[str],
    error: EmbverError,
    outcome: Encoded,
    by_content: dict[str, list[Item]],
) -> list[list[str]]:
    """What to try again after a refusal: the innocent at once, the suspects by halves."""
    positions = sorted(set(error.detail.get("positions") or range(len(texts))))
    guilty = [texts[position] for position in positions]
    innocent = [text for number, text in enumerate(texts) if number not in set(positions)]
    if len(guilty) == 1 or error.detail.get("exact"):
        for position in positions:
            reason = _reason(error, position)
            outcome.failed.extend((item, reason) for item in by_content[texts[position]])
        return [innocent] if innocent else []
    middle = len(guilty) // 2
    return [part for part in (innocent, guilty[:middle], guilty[middle:]) if part]
