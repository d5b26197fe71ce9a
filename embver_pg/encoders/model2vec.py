"""The encoder ``model2vec:<path>``: static embeddings, one vector a token, averaged."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

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
from embver_pg.errors import InvalidArgument


class Model2VecEncoder:
    """A static model of the library model2vec, from a directory or by the hub's name.

    A text without a known token has a zero vector, which the check for the cosine metric
    refuses. Options: ``batch_size`` (texts), ``alias``.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        """Load the model.

        Raises:
            MissingExtraError: The library is not installed.
            InvalidArgument: No such model, or an option it cannot follow.
        """
        options = checked_options(spec, batch_size=int)
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
        self.fingerprint = fingerprint(
            spec,
            self.dimensions,
            content_identity(directory) if directory else None,
            max_tokens=self._limit,
        )

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``."""
        return self._encode(texts, self.spec.document_prompt or "")

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries, ``[n, d] float32``."""
        return self._encode(texts, self.spec.query_prompt or "")

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The tokens of each document as the model sees it, ``[n] int64``."""
        prompt = self.spec.document_prompt or ""
        found = self._model.tokenizer.encode_batch(
            [prompt + text for text in texts], add_special_tokens=False
        )
        counts = np.fromiter((len(each.ids) for each in found), np.int64, count=len(texts))
        return counts if self._limit is None else np.minimum(counts, self._limit)

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        vectors = self._model.encode(
            [prompt + text for text in texts],
            max_length=self._limit,
            batch_size=self._batch_size,
            use_multiprocessing=False,
        )
        return unit_rows(vectors) if self.spec.normalize else np.asarray(vectors, np.float32)
