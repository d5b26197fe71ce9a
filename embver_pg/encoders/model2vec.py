"""The encoder ``model2vec:<path>``: static embeddings, one vector a token, averaged."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.base import (
    EncoderSpec,
    MissingExtraError,
    Vectors,
)
from embver_pg.encoders.checks import unit_rows
from embver_pg.encoders.identity import content_identity, fingerprint, local_directory
from embver_pg.encoders.options import checked_options
from embver_pg.encoders.overflow import apply_policy, overflow_policy, tokens_reason
from embver_pg.errors import InvalidArgument


class Model2VecEncoder:
    """A static model of the library model2vec, from a directory or by the hub's name.

    A text without a known token has a zero vector, which the check for the cosine metric
    refuses. Options: ``batch_size`` (texts), ``overflow`` (``truncate`` or ``refuse``),
    ``alias``.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        """Load the model.

        Raises:
            MissingExtraError: The library is not installed.
            InvalidArgument: No such model, or an option it cannot follow.
        """
        options = checked_options(spec, batch_size=int, overflow=str)
        self._overflow = overflow_policy(spec)
        directory = local_directory(spec.model)
        if directory is None and spec.revision is not None:
            raise InvalidArgument(
                "model2vec cannot load a revision of a named model.",
                detail={"model": spec.model, "revision": spec.revision},
                hint="Download that revision and give its path: model2vec:<path>",
            )
        if importlib.util.find_spec("model2vec") is None:
            raise MissingExtraError("model2vec", "model2vec")
        from model2vec import StaticModel

        self._model: Any
        try:
            self._model = StaticModel.from_pretrained(
                str(directory or spec.model),
                normalize=False,
                dimensionality=spec.dimensions,
                force_download=False,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InvalidArgument(
                f"The model {spec.model!r} cannot be loaded: {error}",
                detail={"model": spec.model},
                hint="Give the path of a model2vec directory: model2vec:<path>",
            ) from error
        self.spec = spec
        self.dimensions = int(self._model.dim)
        self._batch_size = int(options.get("batch_size", 1024))
        self._limit = spec.max_tokens or self._model.max_length
        self._tokenizer: Any = _Tokenizer(self._model.tokenizer)
        self._model.tokenizer = self._tokenizer
        self._lock = threading.Lock()  # the tokenizer keeps what it cut
        self.fingerprint = fingerprint(
            spec,
            self.dimensions,
            content_identity(directory) if directory else None,
            max_tokens=self._limit,
        )

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``.

        Raises:
            RejectedInputError: With ``overflow=refuse``, documents are longer than the model reads.
        """
        prompt = self.spec.document_prompt or ""
        prompted = [prompt + text for text in texts]
        with self._lock:
            vectors = self._encode(prompted)
            if self._limit is not None and texts:
                is_long = self._is_cut(prompted)
                apply_policy(
                    self._overflow, is_long, self._limit, lambda i: self._reason(prompted[i])
                )
        return vectors

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries, ``[n, d] float32``."""
        prompt = self.spec.query_prompt or ""
        with self._lock:
            return self._encode([prompt + text for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The tokens of each document as the model sees it, ``[n] int64``."""
        prompt = self.spec.document_prompt or ""
        found = self._tokenizer.encode_batch(
            [prompt + text for text in texts], add_special_tokens=False
        )
        counts = np.fromiter((len(each.ids) for each in found), np.int64, count=len(texts))
        return counts if self._limit is None else np.minimum(counts, self._limit)

    def _encode(self, texts: list[str]) -> Vectors:
        self._tokenizer.is_cut.clear()
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        vectors = self._model.encode(
            texts,
            max_length=self._limit,
            batch_size=self._batch_size,
            use_multiprocessing=False,
        )
        return unit_rows(vectors) if self.spec.normalize else np.asarray(vectors, np.float32)

    @property
    def _characters(self) -> int:
        """The library cuts by characters before it cuts by tokens."""
        return int(self._limit or 0) * int(self._model.median_token_length)

    def _is_cut(self, texts: list[str]) -> NDArray[np.bool_]:
        """Which texts of the last call were read in part only, ``[n]``."""
        is_cut = np.array([len(text) > self._characters for text in texts], dtype=np.bool_)
        by_tokens = self._tokenizer.is_cut
        if len(by_tokens) != len(texts):  # another release of the library tokenizes otherwise
            by_tokens = [self._count(text) > (self._limit or 0) for text in texts]
        is_cut |= np.array(by_tokens, dtype=np.bool_)
        return is_cut

    def _count(self, text: str) -> int:
        self._tokenizer.no_truncation()  # each call of the library sets its own again
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _reason(self, text: str) -> str:
        tokens = self._count(text)
        if self._limit is not None and tokens > self._limit:
            return tokens_reason(tokens, self._limit)
        return f"the document has {len(text)} characters and the model reads {self._characters}"


class _Tokenizer:
    """The model's tokenizer, which remembers the texts that it cut."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.is_cut: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode_batch_fast(self, *arguments: Any, **options: Any) -> list[Any]:
        """What the library tokenizes with, once a batch."""
        encodings: list[Any] = self._inner.encode_batch_fast(*arguments, **options)
        self.is_cut.extend(bool(encoding.overflowing) for encoding in encodings)
        return encodings
