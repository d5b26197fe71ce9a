"""The encoder ``sentence-transformers:<name or path>``: models of that library, run here.

Where the weights of a name come from is in :mod:`embver_pg.encoders.torch_models`.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.base import (
    EncoderSpec,
    MissingExtraError,
    Vectors,
)
from embver_pg.encoders.batching import (
    DEFAULT_TOKEN_BUDGET,
    approximate_lengths,
    encode_in_batches,
)
from embver_pg.encoders.checks import unit_rows
from embver_pg.encoders.identity import content_identity, fingerprint, local_directory
from embver_pg.encoders.options import checked_options
from embver_pg.encoders.overflow import apply_policy, overflow_policy, tokens_reason
from embver_pg.encoders.torch_models import full_name, load_model
from embver_pg.errors import InvalidArgument

_DTYPES = ("float32", "bfloat16", "float16")
_CHARACTERS_COUNTED = 16  # per token of the limit, for which almost every text is too long


class SentenceTransformersEncoder:
    """A model of the library sentence-transformers, encoded in token-budgeted batches.

    Options: ``token_budget`` (padded tokens in a batch), ``device``, ``dtype`` (``float32``;
    ``bfloat16`` and ``float16`` make another space), ``overflow`` (``truncate`` or ``refuse``:
    documents longer than the model reads), ``alias`` (the name under which a model directory is
    fingerprinted). ``EMBVER_TORCH_THREADS`` sets the number of threads.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        """Load the model.

        Raises:
            MissingExtraError: The library is not installed.
            InvalidArgument: No such model, or an option it cannot follow.
        """
        options = checked_options(spec, token_budget=int, device=str, dtype=str, overflow=str)
        self._overflow = overflow_policy(spec)
        self._budget = int(options.get("token_budget", DEFAULT_TOKEN_BUDGET))
        if options.get("dtype", "float32") not in _DTYPES:
            raise InvalidArgument(
                f"The dtype {options['dtype']!r} is not supported.",
                detail={"dtype": options["dtype"], "known": list(_DTYPES)},
                hint=f"Use one of {', '.join(_DTYPES)}.",
            )
        directory = local_directory(spec.model)
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingExtraError("sentence-transformers", "sentence-transformers")
        self.spec = spec
        self._model = load_model(spec, directory)
        self._lock = threading.Lock()  # fast tokenizers refuse a second thread
        self._limit = _truncation(self._model, spec)
        self.dimensions = _dimensions(self._model, spec)
        self._document_prompt = _prompt(
            self._model, spec.document_prompt, ("document", "passage", "corpus")
        )
        self._query_prompt = _prompt(self._model, spec.query_prompt, ("query",))
        self.fingerprint = fingerprint(
            spec,
            self.dimensions,
            content_identity(directory) if directory else full_name(spec.model),
            document_prompt=self._document_prompt,
            query_prompt=self._query_prompt,
            max_tokens=self._limit,
        )

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` documents, ``[n, d] float32``.

        Raises:
            RejectedInputError: With ``overflow=refuse``, documents are longer than the model reads.
        """
        return self._encode(
            texts, self._model.encode_document, self._document_prompt, self._apply_policy
        )

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``n`` queries, ``[n, d] float32``."""
        return self._encode(texts, self._model.encode_query, self._query_prompt)

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The tokens of each document as the model sees it, ``[n] int64``."""
        with self._lock:
            return self._lengths([self._document_prompt + text for text in texts])

    def _encode(
        self,
        texts: Sequence[str],
        encode: Any,
        prompt: str,
        look: Callable[[list[str], NDArray[np.int64]], None] = lambda texts, lengths: None,
    ) -> Vectors:
        def batch(part: list[str]) -> Vectors:
            return np.asarray(
                encode(part, prompt=prompt, batch_size=len(part), show_progress_bar=False),
                dtype=np.float32,
            )

        with self._lock:
            prompted = [prompt + text for text in texts]
            lengths = self._lengths(prompted)
            look(prompted, lengths)
            if self._limit is not None:
                lengths = np.minimum(lengths, self._limit)
            vectors = encode_in_batches(texts, lengths, batch, self.dimensions, self._budget)
        return unit_rows(vectors) if self.spec.normalize else vectors

    def _lengths(self, texts: list[str]) -> NDArray[np.int64]:
        """The lengths in tokens, ``[n] int64``; of what is far too long, only that it is so."""
        tokenizer = getattr(self._model, "tokenizer", None)
        if not texts or self._limit is None or not callable(tokenizer):
            return approximate_lengths(texts, self._limit)
        longest = self._limit * _CHARACTERS_COUNTED
        lengths = _count(tokenizer, [text[:longest] for text in texts])
        for position in np.flatnonzero(lengths <= self._limit).tolist():
            if len(texts[position]) > longest:  # words without end: what follows may count
                lengths[position] = _count(tokenizer, [texts[position]])[0]
        return lengths

    def _apply_policy(self, texts: list[str], lengths: NDArray[np.int64]) -> None:
        limit = self._limit
        if limit is not None:
            tokenizer = self._model.tokenizer
            apply_policy(
                self._overflow,
                lengths > limit,
                limit,
                lambda i: tokens_reason(int(_count(tokenizer, [texts[i]])[0]), limit),
            )


def _count(tokenizer: Any, texts: list[str]) -> NDArray[np.int64]:
    """The tokens of whole texts, those that mark their ends included, ``[n] int64``."""
    encoded = tokenizer(
        texts,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # it warns of what is longer than the model reads
    )
    return np.fromiter(map(len, encoded["input_ids"]), dtype=np.int64, count=len(texts))


def _truncation(model: Any, spec: EncoderSpec) -> int | None:
    """Apply ``max_tokens``; the limit in effect, in tokens, or None where there is none."""
    if spec.max_tokens is None:
        return int(model.max_seq_length) if model.max_seq_length else None
    config = getattr(getattr(model, "transformers_model", None), "config", None)
    bounds = (
        getattr(config, "max_position_embeddings", None),
        getattr(getattr(model, "tokenizer", None), "model_max_length", None),
    )
    # Tokenizers write "no limit" as a huge number.
    longest = min((b for b in bounds if isinstance(b, int) and b < 1 << 30), default=None)
    if longest is not None and spec.max_tokens > longest:
        raise InvalidArgument(
            f"The model {spec.model!r} reads at most {longest} tokens, not {spec.max_tokens}.",
            detail={"max_tokens": spec.max_tokens, "longest": longest},
            hint=f"Use max_tokens={longest} or less.",
        )
    model.max_seq_length = spec.max_tokens
    return spec.max_tokens


def _dimensions(model: Any, spec: EncoderSpec) -> int:
    named = getattr(model, "get_embedding_dimension", None)  # the name since release 5.x
    dimensions = int((named or model.get_sentence_embedding_dimension)())
    if spec.dimensions is not None and dimensions != spec.dimensions:
        raise InvalidArgument(
            f"The model {spec.model!r} has {dimensions} dimensions, not {spec.dimensions}.",
            detail={"dimensions": spec.dimensions, "model": dimensions},
            hint=f"Use dimensions={dimensions} or less.",
        )
    return dimensions


def _prompt(model: Any, given: str | None, names: Sequence[str]) -> str:
    """The prompt in effect: the given one, else the model's own."""
    if given is not None:
        return given
    own = model.prompts or {}
    default = own.get(model.default_prompt_name) if model.default_prompt_name else None
    return next((own[name] for name in names if own.get(name)), default or "")
