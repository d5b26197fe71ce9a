"""Change the embedding model of a live PostgreSQL/pgvector system.

``connect()`` opens a database; see :class:`embver_pg.client.Embver`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embver_pg.client import Collection, Embver, Hit, connect
    from embver_pg.encoders import Encoder, EncoderSpec
    from embver_pg.errors import EmbverError
    from embver_pg.planning import Plan
    from embver_pg.query_cache import QueryCache

__all__ = [
    "Collection",
    "Embver",
    "EmbverError",
    "Encoder",
    "EncoderSpec",
    "Hit",
    "Plan",
    "QueryCache",
    "connect",
]

_HOMES = {
    "Collection": "embver_pg.client",
    "Embver": "embver_pg.client",
    "EmbverError": "embver_pg.errors",
    "Encoder": "embver_pg.encoders",
    "EncoderSpec": "embver_pg.encoders",
    "Hit": "embver_pg.client",
    "Plan": "embver_pg.planning",
    "QueryCache": "embver_pg.query_cache",
    "connect": "embver_pg.client",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and only then: the package itself imports in milliseconds."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
