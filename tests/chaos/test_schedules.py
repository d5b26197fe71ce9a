"""Random schedules of faults: whatever dies, no committed change is lost and every store is right.

``EMBVER_TEST_SCHEDULES=n`` runs so many, ``EMBVER_TEST_SEED=s`` from another seed on; a schedule
that failed is run again by ``EMBVER_TEST_SCHEDULES=1 EMBVER_TEST_SEED=<its seed>``. The seed
decides the plan, and not how threads and processes meet.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from embver_pg import embedded
from tests import servers
from tests.chaos.schedule import ENOUGH, Profile, plan_for, run
from tests.chaos.world import DOCUMENTS, World, new_world

PARTS = 4  # for pytest's workers to share
# The second run of `make test`, on the older server, need not be as long.
SCHEDULES = int(
    os.environ.get("EMBVER_TEST_SCHEDULES")
    or (104 if servers.pg_version() == embedded.DEFAULT_VERSION else 8)
)
SEED = int(os.environ.get("EMBVER_TEST_SEED") or 0)
# Two workers of pytest run two parts each within six minutes; who asks for a number gets it.
BOX = float("inf") if os.environ.get("EMBVER_TEST_SCHEDULES") else 150.0  # seconds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("workers")) as found:
        yield found


@pytest.mark.both_versions
@pytest.mark.slow
@pytest.mark.timeout(0 if os.environ.get("EMBVER_TEST_SCHEDULES") else 900)
@pytest.mark.parametrize("part", range(min(PARTS, SCHEDULES)))
def test_schedules(world: World, part: int, record_property: Callable[[str, object], None]) -> None:
    profile = Profile()
    seeds = range(SEED + part, SEED + SCHEDULES, PARTS)
    felt: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    began = time.monotonic()
    ran = 0
    for seed in seeds:
        if time.monotonic() - began > BOX:
            break
        plan = plan_for(seed, profile)
        outcome = run(world, plan, profile)
        print(f"{plan}\n    {dict(outcome.felt)}, {dict(outcome.counts)}, {outcome.seconds:.1f} s")
        felt += outcome.felt
        counts += outcome.counts
        ran += 1
    figures = ", ".join(f"{number} {what}" for what, number in sorted((felt + counts).items()))
    record_property(
        "figures",
        f"{ran} of {len(seeds)} schedules from seed {seeds.start}, {DOCUMENTS} documents each,"
        f" in {time.monotonic() - began:.0f} s: {figures}",
    )
    assert ran
    assert sum(felt.values()) >= ENOUGH * ran
