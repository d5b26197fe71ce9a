"""Alembic's environment for the two lines, ``core`` and ``store``.

Run by :mod:`embver_pg.schema`, which names the line and the store: ``embver upgrade``.
"""

from __future__ import annotations

from alembic import context

from embver_pg import schema

schema.run_environment(context)
