"""Vectors of the leases just encoded, for texts that come again before they are written.

A claim sees what is written, and not what is on its way: a document that changed, or whose job
came back, may be in two leases that one worker holds. It is paid for once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from embver_pg.encoders import Encoder, Vectors
from embver_pg.worker.batch import Encoded, encode_batch


class Recent:
    """The last leases that were encoded; used by the encoder's thread alone."""

    def __init__(self, leases: int) -> None:
        """Nothing is known.

        Args:
            leases: How many to remember.
        """
        self._leases: deque[tuple[str, dict[str, int], Vectors]] = deque(maxlen=leases)

    def encode(self, store: str, encoder: Encoder, texts: Sequence[str]) -> Encoded:
        """As :func:`encode_batch`, without the texts that are known."""
        found: dict[int, Vectors] = {}
        for of, rows, vectors in self._leases:
            if of == store:
                found |= {n: vectors[rows[text]] for n, text in enumerate(texts) if text in rows}
        if not found:
            return encode_batch(encoder, texts)
        rest = [position for position in range(len(texts)) if position not in found]
        new = encode_batch(encoder, [texts[position] for position in rest])
        vectors = np.empty((len(texts), encoder.dimensions), dtype=np.float32)
        vectors[rest] = new.vectors
        vectors[list(found)] = list(found.values())
        return Encoded(
            vectors,
            {rest[row]: reason for row, reason in new.failed.items()},
            [rest[row] for row in new.cut],
        )

    def remember(self, store: str, texts: Sequence[str], outcome: Encoded) -> None:
        """Keep what was encoded."""
        rows = {text: row for row, text in enumerate(texts) if row not in outcome.failed}
        self._leases.append((store, rows, outcome.vectors))

    def forget(self) -> None:
        """Keep nothing: all is written."""
        self._leases.clear()
