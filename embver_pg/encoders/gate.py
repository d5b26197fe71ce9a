"""A gate before each request to a provider: where rates are kept and money is counted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from embver_pg.encoders.base import Encoder, Vectors
from embver_pg.encoders.checks import CheckedEncoder
from embver_pg.encoders.wrapped import Wrapped


@dataclass
class Bill:
    """What one request cost.

    Attributes:
        tokens: As the provider reports them; None where it does not.
    """

    tokens: int | None = None


class Gate(Protocol):
    """Lets requests through."""

    def request(self, texts: Sequence[str] | None = None) -> AbstractContextManager[Bill]:
        """Wait for leave to send a request; the context is the request.

        Args:
            texts: Its inputs, with their prompt; None: all documents of the call.
        """
        ...


def gated(encoder: Encoder, gate: Gate) -> Encoder:
    """The encoder with a gate before each of its requests.

    An encoder that sends several requests a call, or sends one again, has a method ``gated``
    that returns a copy with the gate; for any other a call is a request.

    Args:
        encoder: The encoder, which is left as it is.
        gate: Asked before each request; it may wait, and raise.
    """
    if isinstance(encoder, CheckedEncoder):
        return replace(encoder, inner=gated(encoder.inner, gate))
    own = getattr(encoder, "gated", None)
    found: Encoder = OneRequest(encoder, gate) if own is None else own(gate)
    return found


def count_requests(encoder: Encoder, texts: Sequence[str]) -> int:
    """The requests that documents take, while none has to be sent again."""
    inner = encoder.inner if isinstance(encoder, CheckedEncoder) else encoder
    count = getattr(inner, "count_requests", None)
    return 1 if count is None else int(count(texts))


@dataclass(frozen=True, slots=True)
class OneRequest(Wrapped):
    """An encoder of which each call is a request."""

    gate: Gate

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``."""
        with self.gate.request():
            return self.inner.encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries, ``[n, d] float32``."""
        with self.gate.request(texts):
            return self.inner.encode_queries(texts)
