"""What an OpenAI-compatible endpoint answers: its vectors and its refusals."""

from __future__ import annotations

import base64
import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from embver_pg.encoders.base import (
    EncoderRefusedError,
    RejectedInputError,
    TransientEncoderError,
)
from embver_pg.errors import EmbverError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRANSIENT = frozenset({408, 409, 425, 429})
_INPUT = frozenset({400, 413, 422})
_NOT_THE_INPUT = frozenset({"model", "dimensions", "encoding_format", "user"})
_MESSAGE_LENGTH = 500
_USAGE = re.compile(rb'"total_tokens"\s*:\s*(\d+)')
_USAGE_WITHIN = 2000  # bytes from either end of the answer


def decode(content: bytes, n: int) -> list[Any]:
    """The vectors of a response's body, in the order of the ``n`` inputs.

    Each is a float32 array (sent as base64) or the list that was sent.

    Raises:
        EncoderRefusedError: The body is no embeddings response.
        InvalidArgument: It does not hold exactly one vector for each input.
    """
    try:
        items = json.loads(content)["data"]
        vectors = {
            int(item.get("index", i)): _vector(item["embedding"]) for i, item in enumerate(items)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderRefusedError(
            "The endpoint's answer is not that of the embeddings API.",
            detail={"answer": content[:200].decode("utf-8", errors="replace")},
            hint="Check the option base_url; it usually ends in /v1.",
        ) from error
    if len(items) != n or sorted(vectors) != list(range(n)):
        raise InvalidArgument(
            f"The encoder returned {len(items)} vectors for {n} inputs.",
            detail={"returned": len(items), "expected": n},
            hint="An embeddings endpoint returns one vector an input, with its index.",
        )
    return [vectors[i] for i in range(n)]


def billed_tokens(content: bytes) -> int | None:
    """The tokens that a response's body says were used; None where it says nothing, or 0."""
    # Not parsed: vectors fill megabytes between the two ends.
    for part in (content[-_USAGE_WITHIN:], content[:_USAGE_WITHIN]):
        found = _USAGE.search(part)
        if found is not None and int(found[1]) > 0:
            return int(found[1])
    return None


def failure(error: Exception, key: str) -> EmbverError:
    """The error of ours that an exception of the openai library stands for.

    Args:
        error: An ``openai.OpenAIError``.
        key: The secret to keep out of the message.
    """
    import openai

    message = _clean(str(error), key)
    if isinstance(error, openai.APIConnectionError):  # time-outs too
        return TransientEncoderError(
            f"The endpoint cannot be reached: {message}",
            detail={"reason": type(error).__name__},
            hint="Check the option base_url and whether the endpoint runs.",
        )
    if not isinstance(error, openai.APIStatusError):
        return EncoderRefusedError(f"The endpoint's answer is not understood: {message}")
    status = error.status_code
    detail: dict[str, Any] = {"status": status}
    if error.code is not None:
        detail["reason"] = str(error.code)
    if status in _TRANSIENT or status >= 500:
        return TransientEncoderError(
            f"The endpoint answered {status}: {message}",
            retry_after=retry_after(error.response.headers),
            detail=detail,
        )
    if status in _INPUT and error.param not in _NOT_THE_INPUT:
        return RejectedInputError(f"The endpoint refused the input: {message}", detail=detail)
    hints = {
        401: "Check the key: export OPENAI_API_KEY=…",
        403: "Check what the key may use.",
        404: "Check the model's name and the option base_url; it usually ends in /v1.",
    }
    if error.param is not None:
        detail["param"] = str(error.param)
    return EncoderRefusedError(
        f"The endpoint refuses the encoder: {message}", detail=detail, hint=hints.get(status)
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How long the provider asks to wait, in seconds; None where it does not say.

    Reads ``retry-after-ms``, and ``Retry-After`` in seconds or as a date (RFC 9110, 10.2.3).
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if np.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, date.timestamp() - time.time())


def redacted(error: Exception, key: str) -> Exception | None:
    """The cause to show under our error: none where it would show the key."""
    return None if len(key) > 1 and key in str(error) else error


def _vector(value: Any) -> Any:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
    if not isinstance(value, list):
        raise TypeError("an embedding is a list of numbers or base64")
    return value


def _clean(message: str, key: str) -> str:
    if len(key) > 1:
        message = message.replace(key, "***")
    return message[:_MESSAGE_LENGTH]
