"""Alembic's environment for the two lines, ``core`` and ``store``.

Normally run by :mod:`embver_pg.schema`. By hand: ``alembic -x line=core upgrade head``.
"""

from __future__ import annotations

from alembic import context

from embver_pg import schema

schema.run_environment(context)
