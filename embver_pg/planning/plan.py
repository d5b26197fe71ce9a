"""The plan of a rollout: documents, tokens, price, time and storage. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from embver_pg.chunking import Chunker, splitter
from embver_pg.db import Database
from embver_pg.encoders import Encoder
from embver_pg.encoders.tokens import token_counter
from embver_pg.planning import storage
from embver_pg.planning.sample import EXACT_BYTES, Range, draw
from embver_pg.planning.speed import seconds_a_text

DEFAULT_SAMPLE = 1000
_TIMED = 256  # texts that are encoded to measure the time


@dataclass(frozen=True)
class Plan:
    """What a rollout would cost.

    Attributes:
        collection: The collection's name.
        version: The version planned, None where it is not added yet.
        encoder: ``provider:model``.
        fingerprint: Identity of the space.
        dimensions: Length of its vectors.
        element_type: ``vector`` or ``halfvec``.
        index: The index's specification.
        chunker: How documents are cut; None: not at all.
        documents: Rows with content.
        documents_are_exact: Whether they were counted; else estimated from the sample.
        rows: Rows of the source.
        sampled: Rows in the sample.
        vectors: To make: one a document, or one a chunk.
        tokens: Of all documents; the interval is the sample's.
        token_method: Who counted.
        tokens_are_guessed: Whether no tokenizer of the model was at hand.
        price_per_million: Of a million tokens; None where it is not known.
        price: Of all tokens, in the currency of the price.
        seconds: One worker's encoding; None where it was not measured.
        table_bytes: The store's table, its TOAST and its primary key.
        table_formula: How that comes about.
        index_bytes: The vector index.
        index_formula: How that comes about.
        notes: What else to know.
    """

    collection: str
    version: int | None
    encoder: str
    fingerprint: str
    dimensions: int
    element_type: str
    index: Mapping[str, Any]
    chunker: Mapping[str, Any] | None
    documents: int
    documents_are_exact: bool
    rows: int
    sampled: int
    vectors: Range
    tokens: Range
    token_method: str
    tokens_are_guessed: bool
    price_per_million: float | None
    price: Range | None
    seconds: Range | None
    table_bytes: int
    table_formula: str
    index_bytes: int
    index_formula: str
    notes: tuple[str, ...]


def make_plan(
    database: Database,
    collection: str,
    encoder: Encoder,
    *,
    version: int | None = None,
    element_type: str = "vector",
    index: Mapping[str, Any],
    chunker: Chunker | None = None,
    price: float | None = None,
    sample: int = DEFAULT_SAMPLE,
    encode: bool = True,
    exact_bytes: int = EXACT_BYTES,
) -> Plan:
    """Count, sample, measure and add up.

    Args:
        database: Where the collection is.
        collection: Its name.
        encoder: The encoder to plan for, checked.
        version: The version that it is of, if it is there.
        element_type: Of the store.
        index: Of the store.
        chunker: How documents are cut.
        price: Of a million tokens; default the encoder's option ``price_per_million``.
        sample: Rows to look at.
        encode: Measure the time by encoding up to 256 of them.
        exact_bytes: Tables up to this size are counted; larger ones are sampled by pages.
    """
    drawn = draw(database, collection, sample, exact_bytes)
    counter = token_counter(encoder)
    split = None if chunker is None else splitter(chunker, encoder)
    # Of each document the texts that are encoded: itself, or its chunks.
    texts = [[text] if split is None else [c.text for c in split(text)] for text in drawn.contents]
    tokens = drawn.total([int(counter.documents(pieces).sum()) for pieces in texts])
    vectors = drawn.total([len(pieces) for pieces in texts])
    pieces = list(chain.from_iterable(texts))
    spec = encoder.spec
    price = spec.options.get("price_per_million") if price is None else price
    each = seconds_a_text(encoder, pieces[:_TIMED]) if encode else None
    dimensions = encoder.dimensions
    count = drawn.documents if chunker is None else round(vectors.value)
    return Plan(
        collection=collection,
        version=version,
        encoder=f"{spec.provider}:{spec.model}",
        fingerprint=encoder.fingerprint,
        dimensions=dimensions,
        element_type=element_type,
        index=dict(index),
        chunker=None if chunker is None else chunker.to_json(),
        documents=drawn.documents,
        documents_are_exact=drawn.is_exact,
        rows=drawn.rows,
        sampled=len(drawn.texts),
        vectors=vectors,
        tokens=tokens,
        token_method=counter.method,
        tokens_are_guessed=not counter.is_exact,
        price_per_million=price,
        price=None if price is None else tokens.times(price / 1e6),
        seconds=None if each is None else each.times(count),
        table_bytes=storage.table_bytes(
            count, dimensions, element_type, drawn.key_bytes, is_chunked=chunker is not None
        ),
        table_formula=storage.table_formula(dimensions, element_type),
        index_bytes=storage.index_bytes(count, dimensions, element_type, index),
        index_formula=storage.index_formula(dimensions, element_type, index),
        notes=tuple(_notes(database, collection, element_type, drawn.is_exact, each is not None)),
    )


def _notes(
    database: Database, collection: str, element_type: str, is_exact: bool, is_timed: bool
) -> list[str]:
    found = []
    shown = database.row(
        "SELECT v.version, v.element_type FROM embver.versions AS v WHERE v.collection = %s"
        " ORDER BY v.version LIMIT 1",
        (collection,),
    )
    if shown is not None and shown["element_type"] != element_type:
        found.append(
            f"embver_{collection}.current and embver_{collection}.versions show the element type"
            f" of the first version, {shown['element_type']}: a {element_type} version is not in"
            " them, and is served by search and its store"
        )
    if not is_exact:
        found.append(
            "rows and documents are estimates, from the density of the table's pages; the"
            " intervals are those of the sample and leave out the error of that"
        )
    if is_timed:
        found.append("the time is that of one worker here, without a rate limit")
    return found
