"""Documents into chunks before they are encoded, and documents again before they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from embver_pg.chunking import Splitter
from embver_pg.worker.batch import Encoded, Item

Numbers = list[int | None]


def cut(items: Sequence[Item], split: Splitter | None) -> list[Item]:
    """The chunks of documents, in order, or the documents themselves.

    Args:
        items: Documents with content.
        split: The version's splitter; None where it does not cut.
    """
    if split is None:
        return list(items)
    return [
        replace(item, content=chunk.text, place=(number, chunk.start, chunk.end))
        for item in items
        for number, chunk in enumerate(split(item.content or ""))
    ]


def whole(outcome: Encoded) -> Encoded:
    """The outcome by documents: what has one refused chunk failed as a whole, and once."""
    reasons: dict[int, tuple[Item, str]] = {}
    for item, reason in outcome.failed:
        if item.place is None:
            return outcome
        number, start, end = item.place
        said = f"chunk {number} (characters {start} to {end}): {reason}"
        reasons.setdefault(item.number, (replace(item, place=None), said))
    if not reasons:
        return outcome
    kept = [row for row, item in enumerate(outcome.items) if item.number not in reasons]
    return Encoded(
        [outcome.items[row] for row in kept],
        [outcome.vectors[row] for row in kept],
        list(reasons.values()),
        outcome.truncated,
    )


def places(
    items: Sequence[Item], chunker: Mapping[str, Any] | None
) -> tuple[Numbers | None, Numbers | None, Numbers | None]:
    """What a completion takes of the chunks: numbers, beginnings and ends, or nothing at all."""
    if chunker is None:
        return None, None, None
    found = [item.place or (None, None, None) for item in items]
    return [place[0] for place in found], [place[1] for place in found], [p[2] for p in found]
