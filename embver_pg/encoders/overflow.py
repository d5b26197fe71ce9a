"""Documents longer than what a model reads: cut, and counted, or refused by the version's policy.

The option ``overflow`` of an encoder is ``truncate`` (the default, what models do by themselves)
or ``refuse`` (the document becomes a dead letter). It changes no vector and no fingerprint.
Queries are cut in any case: a search that is too long still finds something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.base import EncoderSpec, RejectedInputError
from embver_pg.errors import InvalidArgument

POLICIES = ("truncate", "refuse")
_noted: ContextVar[list[int] | None] = ContextVar("embver_truncated", default=None)


@contextmanager
def noting_truncated() -> Iterator[list[int]]:
    """Collect the positions of the texts that encoders cut in this thread, within the block."""
    positions: list[int] = []
    token = _noted.set(positions)
    try:
        yield positions
    finally:
        _noted.reset(token)


def note_truncated(positions: Sequence[int]) -> None:
    """Called by an encoder: it read the beginning only of these texts of the call under way."""
    noted = _noted.get()
    if noted is not None:
        noted.extend(positions)


def overflow_policy(spec: EncoderSpec) -> str:
    """The policy that a specification states.

    Raises:
        InvalidArgument: There is no such policy.
    """
    policy: Any = spec.options.get("overflow", POLICIES[0])
    if policy not in POLICIES:
        raise InvalidArgument(
            f"The option 'overflow' must be truncate or refuse, not {policy!r}.",
            detail={"overflow": policy, "known": list(POLICIES)},
            hint="Leave it out to cut long documents, or use overflow=refuse.",
        )
    return str(policy)


def tokens_reason(tokens: int, limit: int) -> str:
    """What the dead letter of a document says that is too long."""
    return f"the document has {tokens} tokens and the model reads {limit}"


def apply_policy(
    policy: str, is_long: NDArray[np.bool_], limit: int, reason: Callable[[int], str]
) -> None:
    """Note the texts that are cut, or refuse them.

    Args:
        policy: From :func:`overflow_policy`.
        is_long: Which texts are cut, ``[n]``.
        limit: What the model reads, in tokens.
        reason: What is to be said of the text at a position, with its length.

    Raises:
        RejectedInputError: The policy is ``refuse``; ``detail["reasons"]`` has what is said of
            each text.
    """
    positions: list[int] = np.flatnonzero(is_long).tolist()
    if not positions:
        return
    if policy == "truncate":
        note_truncated(positions)
        return
    raise RejectedInputError(
        f"{len(positions)} of {len(is_long)} documents are longer than the {limit} tokens that the"
        " model reads.",
        detail={
            "positions": positions,
            "exact": True,
            "reasons": {position: reason(position) for position in positions},
            "limit": limit,
        },
        hint="Shorten the content expression, or leave out overflow=refuse to have them cut.",
    )
