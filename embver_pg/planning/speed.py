"""How long encoding takes, measured on a few texts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from embver_pg.encoders import Encoder, RejectedInputError
from embver_pg.planning.sample import CONFIDENCE, Range

_GROUPS = 8
_PATIENCE = 20.0  # seconds, after which what was measured must do


def seconds_a_text(encoder: Encoder, texts: Sequence[str]) -> Range | None:
    """Seconds that one text takes, by batches of equal size; None where there are too few.

    A batch with a text that the encoder refuses is left out.

    Args:
        encoder: A checked encoder; it is called once before the clock starts.
        texts: Up to some hundreds, in random order.
    """
    from scipy import stats

    size = len(texts) // _GROUPS
    if size == 0:
        return None
    measured: list[float] = []
    began = time.monotonic()
    for group in (0, *range(_GROUPS)):  # the first once more: it loads what is loaded late
        start = time.monotonic()
        with suppress(RejectedInputError):
            encoder.encode_documents(texts[group * size : (group + 1) * size])
            measured.append((time.monotonic() - start) / size)
        if time.monotonic() - began > _PATIENCE and len(measured) > 2:
            break
    del measured[:1]
    if len(measured) < 2:
        return None
    mean = float(np.mean(measured))
    error = float(np.std(measured, ddof=1)) / math.sqrt(len(measured))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(measured) - 1)) * error
    return Range(mean, max(0.0, mean - half), mean + half)
