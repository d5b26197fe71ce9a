"""What encoders around an encoder share: they are of its space."""

from __future__ import annotations

from dataclasses import dataclass

from embver_pg.encoders.base import Encoder, EncoderSpec


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The description, dimensions and fingerprint of the encoder inside.

    Attributes:
        inner: The encoder inside.
    """

    inner: Encoder

    @property
    def spec(self) -> EncoderSpec:
        """The description that the encoder was made from."""
        return self.inner.spec

    @property
    def dimensions(self) -> int:
        """The length of every vector."""
        return self.inner.dimensions

    @property
    def fingerprint(self) -> str:
        """The identity of the space."""
        return self.inner.fingerprint
