"""The encoder ``openai:<model>``: any endpoint that speaks the OpenAI embeddings API."""

from __future__ import annotations

import copy
import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from embver_pg.encoders.base import (
    EncoderSpec,
    MissingExtraError,
    RejectedInputError,
    TransientEncoderError,
    Vectors,
)
from embver_pg.encoders.checks import unit_rows, validate
from embver_pg.encoders.gate import Gate
from embver_pg.encoders.identity import fingerprint
from embver_pg.encoders.openai_wire import billed_tokens, decode, failure, redacted
from embver_pg.encoders.options import checked_options
from embver_pg.errors import DimensionMismatch, InvalidArgument

if TYPE_CHECKING:
    from openai import OpenAI
    from tenacity import RetryCallState

KEY_VARIABLE = "OPENAI_API_KEY"
_NO_KEY = "-"  # what a local endpoint that asks for no key is sent
_PROBE = "dimension probe"


class OpenAIEncoder:
    """Embeddings of an OpenAI-compatible endpoint; the key comes from the environment alone.

    Options: ``base_url``; ``max_batch`` (texts a request, 256); ``max_bytes`` (of text a
    request, 262144: a token has at least one byte, so it also bounds the tokens);
    ``timeout`` (seconds, 60); ``max_attempts`` (of one request, 3) and ``max_wait`` (seconds
    between two of them, 20) before the caller is told to back off; ``encoding_format``
    (``base64`` or ``float``); ``alias`` (the model's name where the endpoint uses another).
    """

    def __init__(self, spec: EncoderSpec) -> None:
        """Prepare the client; the endpoint is not called yet.

        Raises:
            MissingExtraError: The library is not installed.
            InvalidArgument: An option is wrong, or there is neither a key nor a ``base_url``.
        """
        number = (int, float)
        options = checked_options(
            spec,
            base_url=str,
            max_batch=int,
            max_bytes=int,
            timeout=number,
            max_attempts=int,
            max_wait=number,
            encoding_format=str,
        )
        base_url = options.get("base_url")
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise InvalidArgument(
                "The option 'base_url' must start with http:// or https://.",
                detail={"option": "base_url"},
                hint="Such as http://127.0.0.1:8080/v1",
            )
        self._format = options.get("encoding_format", "base64")
        if self._format not in ("base64", "float"):
            raise InvalidArgument(
                f"The encoding_format must be base64 or float, not {self._format!r}.",
                detail={"encoding_format": self._format},
            )
        if spec.max_tokens is not None:
            raise InvalidArgument(
                "The truncation of an endpoint is its own: max_tokens cannot be set.",
                detail={"max_tokens": spec.max_tokens},
                hint="Shorten the content expression instead, such as left(body, 8000).",
            )
        if importlib.util.find_spec("openai") is None:
            raise MissingExtraError("openai", "openai")
        key = os.environ.get(KEY_VARIABLE) or (_NO_KEY if base_url else None)
        if key is None:
            raise InvalidArgument(
                f"{KEY_VARIABLE} is not set.",
                detail={"variable": KEY_VARIABLE},
                hint=f"export {KEY_VARIABLE}=… or give the option base_url of a local endpoint.",
            )
        self.spec = spec
        self._key = key
        self._max_batch = int(options.get("max_batch", 256))
        self._max_bytes = int(options.get("max_bytes", 1 << 18))
        self._timeout = float(options.get("timeout", 60))
        self._max_attempts = int(options.get("max_attempts", 3))
        self._max_wait = float(options.get("max_wait", 20))
        self._probing = threading.Lock()
        self._gate: Gate | None = None

    def gated(self, gate: Gate) -> OpenAIEncoder:
        """A copy that asks the gate before each request, those sent again included."""
        _ = self._client  # shared by all copies
        found = copy.copy(self)
        found._gate = gate
        return found

    def count_requests(self, texts: Sequence[str]) -> int:
        """The requests that documents take while none has to be sent again."""
        prompt = self.spec.document_prompt or ""
        return sum(1 for _ in self._batches([prompt + text for text in texts])) if texts else 0

    @cached_property
    def dimensions(self) -> int:
        """The specification's dimensions, or, after one request, the endpoint's."""
        if self.spec.dimensions is not None:
            return self.spec.dimensions
        with self._probing:
            found = len(self._request([_PROBE])[0])
        if not found:
            raise InvalidArgument(
                "The endpoint returned a vector without dimensions.",
                detail={"model": self.spec.model},
            )
        return found

    @cached_property
    def fingerprint(self) -> str:
        """The identity of the space; it may need :attr:`dimensions`, and so a request."""
        return fingerprint(self.spec, self.dimensions)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``; errors as :meth:`encode_queries`."""
        return self._encode(texts, self.spec.document_prompt or "")

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries, ``[n, d] float32``.

        Raises:
            TransientEncoderError: The endpoint cannot answer now.
            RejectedInputError: It refuses an input, or returns no finite vector for it.
            EncoderRefusedError: It refuses everything.
            InvalidArgument: It returns another number of vectors.
            DimensionMismatch: It returns vectors of another length.
        """
        return self._encode(texts, self.spec.query_prompt or "")

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        prompted = [prompt + text for text in texts]
        rows: list[Any] = []
        for start, stop in self._batches(prompted):
            try:
                rows.extend(self._request(prompted[start:stop]))
            except RejectedInputError as error:
                error.detail.update(positions=list(range(start, stop)), exact=stop - start == 1)
                raise
        lengths = {len(row) for row in rows}
        if len(lengths) > 1:
            raise DimensionMismatch(
                f"The endpoint returned vectors of {len(lengths)} different lengths.",
                detail={"returned": sorted(lengths), "expected": self.spec.dimensions},
            )
        if "dimensions" not in self.__dict__ and self.spec.dimensions is None:
            self.__dict__["dimensions"] = lengths.pop()  # saves the probe
        vectors = validate(rows, len(texts), self.dimensions)
        return unit_rows(vectors) if self.spec.normalize else vectors

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[int, int]]:
        """The bounds of each request: at most ``max_batch`` texts and ``max_bytes`` bytes."""
        start = size = 0
        for i, text in enumerate(texts):
            length = len(text.encode("utf-8", errors="replace"))
            if i > start and (i - start >= self._max_batch or size + length > self._max_bytes):
                yield start, i
                start, size = i, 0
            size += length
        yield start, len(texts)

    def _request(self, texts: list[str]) -> list[Any]:
        """The vectors of one request, tried again while it fails for a moment."""
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._worth_waiting),
            wait=_Wait(self._max_wait),
            stop=tenacity.stop_after_attempt(self._max_attempts),
            reraise=True,
        )
        vectors: list[Any] = retrying(self._request_once, texts)
        return vectors

    def _request_once(self, texts: list[str]) -> list[Any]:
        if self._gate is None:
            return decode(self._send(texts), len(texts))
        with self._gate.request(texts) as bill:
            content = self._send(texts)
            bill.tokens = billed_tokens(content)
        return decode(content, len(texts))

    def _send(self, texts: list[str]) -> bytes:
        """The body of the answer to one request."""
        import openai

        request: dict[str, Any] = {"model": self.spec.model, "encoding_format": self._format}
        if self.spec.dimensions is not None:
            request["dimensions"] = self.spec.dimensions
        try:
            response = self._client.embeddings.with_raw_response.create(input=texts, **request)
        except openai.OpenAIError as error:
            raise failure(error, self._key) from redacted(error, self._key)
        return response.http_response.content

    def _worth_waiting(self, error: BaseException) -> bool:
        # A long wait is the caller's: it can give the work back in the meantime.
        return (
            isinstance(error, TransientEncoderError) and (error.retry_after or 0) <= self._max_wait
        )

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI

        return OpenAI(
            api_key=self._key,
            base_url=self.spec.options.get("base_url"),
            timeout=self._timeout,
            max_retries=0,  # one place decides: _request
        )


class _Wait:
    """Seconds to wait: what the provider asked for, else exponential with jitter."""

    def __init__(self, longest: float) -> None:
        import tenacity

        self._backoff = tenacity.wait_random_exponential(multiplier=0.5, max=longest)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after", None)
        return float(asked) if asked is not None else self._backoff(state)
