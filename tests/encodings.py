"""Encodings kept for a run: tests that share a collection encode each of its texts once.

They are kept by the encoder's fingerprint, by whether the text is a document or a query, and by
the text's hash, in ``EMBVER_TEST_CACHE`` where it is set (and then from run to run), else in the
directory of the run, which pytest's workers share.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from embver_pg.encoders import Encoder, EncoderSpec, Vectors, load
from tests import servers
from tests.waiting import PATIENCE

_AT_ONCE = 256  # texts: what a crash can lose


class KeptEncoder:
    """An encoder that asks the one inside only for texts it has not seen."""

    def __init__(self, inner: Encoder, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._inner = inner
        self._path = directory / f"{hashlib.sha256(inner.fingerprint.encode()).hexdigest()[:32]}.db"
        self.encoded = 0
        with closing(self._open()) as kept, kept:
            kept.execute("CREATE TABLE IF NOT EXISTS vector (text BLOB PRIMARY KEY, packed BLOB)")

    @property
    def spec(self) -> EncoderSpec:
        return self._inner.spec

    @property
    def dimensions(self) -> int:
        return self._inner.dimensions

    @property
    def fingerprint(self) -> str:
        return self._inner.fingerprint

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        return self._encode("document", texts, self._inner.encode_documents)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode("query", texts, self._inner.encode_queries)

    def _encode(
        self, kind: str, texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors]
    ) -> Vectors:
        keys = [hashlib.sha256(f"{kind}\0{text}".encode()).digest() for text in texts]
        missing = dict(zip(keys, texts, strict=True))
        found: dict[bytes, bytes] = {}
        with closing(self._open()) as kept:
            for key in list(missing):
                row = kept.execute("SELECT packed FROM vector WHERE text = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = row[0]
                    del missing[key]
            todo = list(missing.items())
            for start in range(0, len(todo), _AT_ONCE):
                part = todo[start : start + _AT_ONCE]
                vectors = encode([text for _, text in part])
                self.encoded += len(part)
                packed = [
                    (key, row.astype("<f4").tobytes())
                    for (key, _), row in zip(part, vectors, strict=True)
                ]
                with kept:
                    kept.executemany("INSERT OR IGNORE INTO vector VALUES (?, ?)", packed)
                found.update(packed)
        rows = [np.frombuffer(found[key], dtype="<f4") for key in keys]
        return np.stack(rows).astype(np.float32) if rows else np.zeros((0, self.dimensions), "f4")

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=PATIENCE)


def kept(spec: EncoderSpec | str) -> KeptEncoder:
    """The encoder of a specification or URI, keeping what it encodes; fits ``encoder_for``."""
    return KeptEncoder(load(spec), directory())


def directory() -> Path:
    """Where encodings are kept."""
    named = os.environ.get("EMBVER_TEST_CACHE")
    return Path(named) / "encodings" if named else servers._run_dir() / "encodings"
