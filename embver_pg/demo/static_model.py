"""The demo's old model: the word vectors that all-MiniLM-L6-v2 begins with, and nothing more.

It takes half a second to make, so the demo needs no second download: the vectors of the input
layer, centred and reduced to their principal components, weighted by inverse frequency as in
Arora et al. (2017), "A simple but tough-to-beat baseline for sentence embeddings", with the
frequency of a word piece estimated from its rank by Zipf's law.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embver_pg.encoders.base import MissingExtraError
from embver_pg.encoders.registry import parse_uri
from embver_pg.encoders.torch_models import load_model

NEW_MODEL = "sentence-transformers:sentence-transformers/all-MiniLM-L6-v2"
DIMENSIONS = 256
_SMOOTHING = 1e-4  # a of a / (a + p(word))


def make_static_model(directory: Path) -> str:
    """Write the static model to a directory.

    Args:
        directory: Where to; it is created.

    Returns:
        The encoder's URI, ``model2vec:<directory>``.

    Raises:
        MissingExtraError: ``sentence-transformers`` or ``model2vec`` is not installed.
        InvalidArgument: The weights can be found neither here nor on the network.
    """
    for package in ("sentence_transformers", "model2vec"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("demo", package.replace("_", "-"))
    from model2vec import StaticModel

    model = load_model(parse_uri(NEW_MODEL), None)
    words = model[0].auto_model.get_input_embeddings().weight.detach().numpy()
    vectors = _components(words, DIMENSIONS) * _inverse_frequency(len(words))[:, None]
    tokenizer = model.tokenizer.backend_tokenizer
    StaticModel(vectors.astype(np.float32), tokenizer, normalize=False).save_pretrained(directory)
    return f"model2vec:{directory}"


def _components(words: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The first principal components, ``[n, d]`` to ``[n, dimensions]``."""
    centred = words - words.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ directions[:, : -dimensions - 1 : -1], dtype=np.float32)


def _inverse_frequency(n: int) -> NDArray[np.float64]:
    """Weights ``[n]`` of word pieces by rank, most frequent first."""
    share = 1.0 / np.arange(1, n + 1)
    share /= share.sum()
    return _SMOOTHING / (_SMOOTHING + share)
