"""Fingerprints: which vectors may be compared with each other.

Two encoders share a fingerprint when they make vectors of the same space, whatever serves
them. A model that has a name is identified by name and revision; one that is loaded from a
directory by the bytes of its configuration and weights, never by its path.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from embver_pg.encoders.base import EncoderSpec
from embver_pg.errors import InvalidArgument

FINGERPRINT_LENGTH = 32  # hexadecimal digits: 128 bits
_CONTENT = "sha256:"
_KEPT = frozenset({".json", ".safetensors", ".bin", ".pt", ".txt", ".model", ".npy", ".npz"})
_PICKLED = frozenset({".bin", ".pt"})
_OTHER_RUNTIMES = frozenset({"onnx", "openvino", "coreml"})


def fingerprint(
    spec: EncoderSpec,
    dimensions: int,
    identity: str | None = None,
    *,
    document_prompt: str | None = None,
    query_prompt: str | None = None,
    max_tokens: int | None = None,
) -> str:
    """The identity of an embedding space, 32 hexadecimal digits.

    SHA-256 over the canonical JSON of model, revision, prompts, normalisation, truncation and
    dimensions; ``dtype`` is added where it is not float32. Provider, endpoint, device and
    batch sizes are left out: moving a model to another server re-encodes nothing.

    Args:
        spec: The encoder's specification.
        dimensions: The length of its vectors.
        identity: The model's content, see :func:`content_identity`, or its full name; None:
            the name in the specification. ``options["alias"]`` wins over both.
        document_prompt: The prompt in effect where the specification leaves it to the model.
        query_prompt: Likewise, for queries.
        max_tokens: The truncation in effect where the specification leaves it to the model.
    """
    alias = spec.options.get("alias")
    by_content = alias is None and (identity or "").startswith(_CONTENT)
    space: dict[str, Any] = {
        "model": alias or identity or spec.model,
        # A directory has no revision: its bytes say which one it is.
        "revision": None if by_content else spec.revision,
        "document_prompt": _first(spec.document_prompt, document_prompt, ""),
        "query_prompt": _first(spec.query_prompt, query_prompt, ""),
        "normalize": spec.normalize,
        "max_tokens": _first(spec.max_tokens, max_tokens, None),
        "dimensions": dimensions,
    }
    dtype = spec.options.get("dtype", "float32")
    if dtype != "float32":
        space["dtype"] = dtype
    canonical = json.dumps(space, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:FINGERPRINT_LENGTH]


def looks_like_path(model: str) -> bool:
    """Whether a model is meant as a directory of this machine and not as a name."""
    if model.startswith(("/", "./", "../", "~")):
        return True
    try:
        return Path(model).is_dir()
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return False


def local_directory(model: str) -> Path | None:
    """The directory of a model given by path; None for a named model.

    Raises:
        InvalidArgument: The path is not a directory.
    """
    if not looks_like_path(model):
        return None
    path = Path(model)
    with suppress(RuntimeError):  # an unknown user after the tilde
        path = path.expanduser()
    if not path.is_dir():
        raise InvalidArgument(
            f"There is no model directory {model!r}.",
            detail={"path": model},
            hint="Name a directory that holds the model's configuration and weights.",
        )
    return path.resolve()


def content_identity(directory: Path) -> str:
    """The identity of a model directory: ``sha256:`` and a digest of its files.

    Configuration, tokenizer and weights count; read-me files, hidden files, copies for other
    runtimes, and pickled weights beside safetensors do not. Files are read once (a 90 MB model
    takes about 0.1 s) and again when the size or the times of one of them change.

    Raises:
        InvalidArgument: The directory holds no model files.
    """
    files = tuple(
        (str(path.relative_to(directory).as_posix()), *_stamp(path))
        for path in sorted(directory.rglob("*"))
        if _counts(path, directory)
    )
    if not files:
        raise InvalidArgument(
            f"The directory {str(directory)!r} holds no model.",
            detail={"path": str(directory)},
            hint="Name a directory that holds the model's configuration and weights.",
        )
    return _digest(str(directory), files)


def _counts(path: Path, root: Path) -> bool:
    relative = path.relative_to(root)
    if path.suffix not in _KEPT or not path.is_file():
        return False
    if any(part.startswith(".") or part in _OTHER_RUNTIMES for part in relative.parts):
        return False
    return path.suffix not in _PICKLED or not any(path.parent.glob("*.safetensors"))


def _stamp(path: Path) -> tuple[int, int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@lru_cache(maxsize=64)
def _digest(directory: str, files: tuple[tuple[str, int, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size, *_ in files:
        with (Path(directory) / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{name}\0{size}\0{content}\n".encode())
    return _CONTENT + digest.hexdigest()


def _first(*values: Any) -> Any:
    return next((value for value in values[:-1] if value is not None), values[-1])
