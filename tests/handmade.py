"""Tables with embeddings made by hand, and an encoder that counts what it is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg import sql

from embver_pg.encoders import Encoder, EncoderSpec, load
from embver_pg.encoders.probes import PROBES
from tests.sql.support import Connection

TEXT = "document {0} tells of {1} and {2} near the river in the year {0}"
_NAMES = ("wings", "stalls", "flaps", "gliders", "rudders", "ice", "lift")


def text(number: int) -> str:
    """The text of a document, many words long."""
    return TEXT.format(number, _NAMES[number % 7], _NAMES[number % 5])


def vectors(texts: Sequence[str], encoder: str = "hash:64") -> np.ndarray[Any, Any]:
    """``[n, d] float32``."""
    return load(encoder).encode_documents(list(texts))


def make_table(
    owner: Connection,
    rows: int = 40,
    *,
    encoder: str = "hash:64",
    kind: str = "vector(64)",
    scale: float = 1.0,
) -> None:
    """``public.docs (id, body, embedding, old)``, ids from 1, its vectors made by hand."""
    owner.execute(
        sql.SQL(
            "CREATE TABLE docs (id bigint PRIMARY KEY, body text, embedding {kind},"
            " old boolean NOT NULL DEFAULT false)"
        ).format(kind=sql.SQL(kind))
    )
    owner.execute("GRANT SELECT ON docs TO embver_r")
    add_rows(owner, range(1, rows + 1), encoder=encoder, scale=scale)


def add_rows(
    owner: Connection, numbers: Sequence[int], *, encoder: str = "hash:64", scale: float = 1.0
) -> None:
    """Documents with their vectors."""
    texts = [text(number) for number in numbers]
    made = vectors(texts, encoder) * scale
    with owner.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO docs (id, body, embedding) VALUES (%s, %s, %s::real[]::vector)",
            [(n, t, v.tolist()) for n, t, v in zip(numbers, texts, made, strict=True)],
        )


class Counting:
    """Loads encoders for a worker; keeps every text that was encoded."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, spec: EncoderSpec) -> Encoder:
        return _Counted(load(spec), self.texts)


class _Counted:
    def __init__(self, inner: Encoder, texts: list[str]) -> None:
        self._inner = inner
        self._texts = texts
        self.spec = inner.spec
        self.dimensions = inner.dimensions
        self.fingerprint = inner.fingerprint

    def encode_documents(self, texts: Sequence[str]) -> Any:
        self._texts.extend(text for text in texts if text not in PROBES)  # the canary is not one
        return self._inner.encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> Any:
        return self._inner.encode_queries(texts)
