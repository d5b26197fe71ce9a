"""The stage of the concurrency tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.concurrency.stage import Stage, drop_stage, new_stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A database with collection ``docs``, two versions, nothing live."""
    stage = new_stage()
    yield stage
    drop_stage(stage)
