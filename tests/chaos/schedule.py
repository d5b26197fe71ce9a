"""One schedule: what is planned for a seed, how it is run, and what must hold afterwards."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from embver_pg.errors import InvalidArgument
from tests import servers
from tests.chaos.application import Application
from tests.chaos.crew import Crew
from tests.chaos.faults import FAULTS, Crash, Expire, Fault, Freeze, Kill, Scene, Terminate
from tests.chaos.invariants import check, drain
from tests.chaos.operators import Operator
from tests.chaos.reader import Reader
from tests.chaos.record import Record
from tests.chaos.world import World
from tests.waiting import PATIENCE

ENOUGH = 3  # faults that must have been felt
SPAN = 1.2  # seconds in which faults begin


@dataclass(frozen=True)
class Profile:
    """What schedules are drawn from.

    Attributes:
        faults: How often each is chosen.
        latency: Seconds of the endpoint's answers.
    """

    faults: Mapping[type[Fault], float] = field(
        default_factory=lambda: {kind: weight for kind, (_, _, weight) in FAULTS.items()}
    )
    latency: tuple[float, float] = (0.002, 0.06)


@dataclass(frozen=True)
class Planned:
    """A fault to come: when it begins and how long it lasts, in seconds."""

    at: float
    lasts: float
    kind: type[Fault]

    def __str__(self) -> str:
        return f"{self.kind.__name__} at {self.at:.2f} for {self.lasts:.2f} s"


@dataclass(frozen=True)
class Plan:
    """All that a seed decides; how threads and processes meet, it does not."""

    seed: int
    stage: str
    faults: tuple[Planned, ...]
    same_workers: bool

    def __str__(self) -> str:
        faults = "; ".join(map(str, self.faults))
        return f"seed {self.seed}: {self.stage}, same workers {self.same_workers}; {faults}"


@dataclass(frozen=True)
class Outcome:
    """What a schedule did: faults that were felt, and figures of everybody."""

    felt: Counter[str]
    counts: Counter[str]
    seconds: float


def plan_for(seed: int, profile: Profile) -> Plan:
    """The schedule of a seed."""
    chance = random.Random(f"plan {seed}")
    kinds = chance.choices(
        list(profile.faults), list(profile.faults.values()), k=chance.choice((4, 5, 6))
    )
    if kinds.count(Crash) > 1:  # each takes a second
        kinds = [Crash, *(kind for kind in kinds if kind is not Crash), Kill]
    planned = []
    for kind in kinds:
        shortest, longest, _ = FAULTS[kind]
        planned.append(Planned(chance.uniform(0.05, SPAN), chance.uniform(shortest, longest), kind))
    stage = chance.choice(("active", "active", "ready"))
    same_workers = chance.random() < 0.5
    return Plan(seed, stage, tuple(sorted(planned, key=lambda p: p.at)), same_workers)


def run(world: World, plan: Plan, profile: Profile) -> Outcome:
    """Run a schedule on a database of its own.

    Raises:
        AssertionError: A promise of the design was broken; with the plan and the timeline.
    """
    began = time.monotonic()
    database = world.new_database(plan.stage)
    try:
        return _run(world, plan, profile, database, began)
    finally:
        with suppress(psycopg.Error):
            servers.drop_database(world.server, database)


def _run(world: World, plan: Plan, profile: Profile, database: str, began: float) -> Outcome:
    owner, admin, reader = (
        world.server.url(database, role) for role in ("embver_owner", None, "embver_r")
    )
    record = Record()
    crew = Crew(world, database, record, world.directory / f"{database}.jsonl")
    scene = Scene(world, crew, database, record, profile.latency)
    chance = random.Random(f"people {plan.seed}")
    application = Application(owner, admin, random.Random(chance.random()), record)
    operator = Operator(owner, random.Random(chance.random()), record)
    readers = Reader(reader, random.Random(chance.random()), record, application.life)
    world.endpoint.forget()
    scene.heal()
    felt: Counter[str] = Counter()
    try:
        crew.start()
        people = (operator, application, readers)
        for person in people:
            person.start()
        scene.until(lambda: world.endpoint.calls, 5.0)  # the workers are at work
        _make_faults(scene, plan, chance, felt)
        operator.stop()
        application.stop()
        scene.heal()
        if not plan.same_workers:
            crew.dismiss()
        drain(scene)
        readers.stop()
        check(scene, application.model)
        crew.judge()
        assert not record.violations, record.violations[0]
        assert sum(felt.values()) >= ENOUGH, f"only {dict(felt)} were felt"
    except Exception as error:
        story = "\n".join(record.lines)
        raise AssertionError(
            f"{error}\n{plan}\nfelt {dict(felt)}, {record.counts}\n{story}\n{crew.story()}"
        ) from error
    finally:
        for person in (operator, application, readers):
            if person.is_alive():
                person.stop()
        crew.dismiss()
        world.network.restore()
        world.server.restart()  # where it still runs, nothing happens
    return Outcome(felt, Counter(record.counts), time.monotonic() - began)


def _make_faults(scene: Scene, plan: Plan, chance: random.Random, felt: Counter[str]) -> None:
    """The planned faults, overlapping as they may; then more, should too few have been felt."""
    start = time.monotonic()
    waiting = [(start + planned.at, planned) for planned in plan.faults]
    under_way: list[tuple[float, Fault]] = []
    while waiting or under_way:
        now = time.monotonic()
        scene.crew.tend()
        for entry in [found for found in under_way if found[0] <= now]:
            under_way.remove(entry)
            _end(scene, entry[1], felt)
        if waiting and waiting[0][0] <= now:
            _, planned = waiting.pop(0)
            fault = planned.kind(scene, random.Random(chance.random()))
            if _begin(scene, fault):
                under_way.append((time.monotonic() + planned.lasts, fault))
        time.sleep(0.01)
    deadline = time.monotonic() + PATIENCE
    handy: tuple[type[Fault], ...] = (Kill, Expire, Terminate, Freeze)
    for kind in itertools.cycle(handy):
        if sum(felt.values()) >= ENOUGH or time.monotonic() > deadline:
            return
        fault = kind(scene, random.Random(chance.random()))
        if _begin(scene, fault):
            time.sleep(0.05)
            _end(scene, fault, felt)
        scene.crew.tend()


def _begin(scene: Scene, fault: Fault) -> bool:
    """Begin a fault; False where another one is in its way."""
    began = time.monotonic()
    scene.record.say(f"{type(fault).__name__} begins")
    try:
        fault.begin()
    except (psycopg.Error, InvalidArgument):
        if not scene.record.excuses(began):
            raise
        return False
    return True


def _end(scene: Scene, fault: Fault, felt: Counter[str]) -> None:
    number = fault.end()
    scene.record.say(f"{type(fault).__name__} ends, felt {number} times")
    felt[type(fault).__name__] += number > 0
