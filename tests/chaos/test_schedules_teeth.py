"""Have the schedules teeth? With one guard of the engine taken away they must go red.

Two real workers, a history in which that guard alone helps, and the checks of every schedule; the
same history passes on the engine as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import pytest

from embver_pg.db import open_connection
from tests.chaos.directed import (
    Script,
    deleted_under_a_snapshot,
    late_after_emptied,
    late_after_takeover,
    late_behind_newer,
    run_directed,
    start_beside_a_writer,
)
from tests.chaos.world import DIMENSIONS, World, new_world
from tests.concurrency.test_teeth import GUARDS

# Histories in which a guard matters; random schedules meet them now and then, and some too rarely.
# No rollout starts where a guard of a generated function is gone: it would be generated anew.
SCRIPTS: dict[str, Script] = {
    "hash check": late_after_emptied,
    "lease check": late_after_takeover,
    "newer lease wins": late_behind_newer,
    "tombstone": deleted_under_a_snapshot,
    "start barrier": start_beside_a_writer,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("workers")) as found:
        yield found


def remove(name: str, url: str) -> None:
    """Take a guard out of every function that holds it, as the functions' owner."""
    guard = GUARDS[name]
    with open_connection(url) as connection:
        for version in DIMENSIONS:
            function = guard.function.replace("docs_v1", f"docs_v{version}")
            row = connection.execute(
                "SELECT pg_get_functiondef(%s::regproc) AS body", (function,)
            ).fetchone()
            assert row is not None
            body, count = re.subn(
                guard.pattern, lambda _: guard.replacement, row["body"], flags=re.DOTALL
            )
            assert count == 1, f"the guard is in {function} once, not {count} times"
            connection.execute(body.encode())
            if "docs_v1" not in guard.function:
                return  # one function for all versions


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_goes_red_without(world: World, name: str) -> None:
    with pytest.raises(AssertionError) as failure:
        run_directed(world, SCRIPTS[name], partial(remove, name))
    assert "not within" not in str(failure.value), "it came to what it is about"


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_passes_with_it(world: World, name: str) -> None:
    run_directed(world, SCRIPTS[name])
