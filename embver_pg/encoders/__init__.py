"""Encoders: texts to vectors of one embedding space. No model is imported before it is used."""

from __future__ import annotations

from embver_pg.encoders.base import (
    Encoder,
    EncoderRefusedError,
    EncoderSpec,
    MissingExtraError,
    RejectedInputError,
    TransientEncoderError,
    Vectors,
)
from embver_pg.encoders.checks import checked, validate
from embver_pg.encoders.identity import fingerprint
from embver_pg.encoders.registry import load, parse_uri, providers

__all__ = [
    "Encoder",
    "EncoderRefusedError",
    "EncoderSpec",
    "MissingExtraError",
    "RejectedInputError",
    "TransientEncoderError",
    "Vectors",
    "checked",
    "fingerprint",
    "load",
    "parse_uri",
    "providers",
    "validate",
]
