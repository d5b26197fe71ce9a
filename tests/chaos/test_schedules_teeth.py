"""Have the schedules teeth? With one guard of the engine taken away they must go red.

Each guard is removed from the functions of every database that a schedule gets. That the same
schedules pass on the engine as it is, is tested too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from embver_pg.db import open_connection
from tests.chaos.directed import (
    Script,
    late_after_emptied,
    late_behind_newer,
    run_directed,
    start_beside_a_writer,
)
from tests.chaos.faults import Expire, Kill, Late
from tests.chaos.schedule import Profile, plan_for, run
from tests.chaos.world import DIMENSIONS, World, new_world
from tests.concurrency.test_teeth import GUARDS

ATTEMPTS = 8  # schedules, of which one must find it; the first does, nearly always


@dataclass(frozen=True)
class Drawn:
    """Random schedules, drawn towards the histories in which a guard matters."""

    profile: Profile

    def play(self, world: World, seed: int, tinker: Callable[[str], None] | None = None) -> None:
        plan = replace(plan_for(seed, self.profile), stage="active")
        run(world, plan, replace(self.profile, tinker=tinker))


@dataclass(frozen=True)
class Directed:
    """One history; random schedules meet it too rarely."""

    script: Script

    def play(self, world: World, seed: int, tinker: Callable[[str], None] | None = None) -> None:
        run_directed(world, self.script, tinker)


# No rollout starts where a guard of a generated function is gone: it would be generated anew.
SCHEDULES: dict[str, Drawn | Directed] = {
    "hash check": Directed(late_after_emptied),
    "lease check": Drawn(Profile({Late: 1}, {}, ())),
    "newer lease wins": Directed(late_behind_newer),
    # Documents that are deleted under a snapshot older than their vectors.
    "tombstone": Drawn(Profile({Expire: 1, Kill: 1}, {"snapshot": 10}, ())),
    "start barrier": Directed(start_beside_a_writer),
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
@pytest.mark.parametrize("name", SCHEDULES)
def test_goes_red_without(world: World, name: str) -> None:
    for seed in range(ATTEMPTS):
        try:
            SCHEDULES[name].play(world, seed, partial(remove, name))
        except AssertionError as error:
            if "not within" in str(error) or "were felt" in str(error):
                raise  # it did not come to what it is about
            print(f"schedule {seed}: {str(error).splitlines()[0]}")
            return
    raise AssertionError(f"{ATTEMPTS} schedules passed without the {name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_passes_with_it(world: World, name: str) -> None:
    SCHEDULES[name].play(world, 0)
