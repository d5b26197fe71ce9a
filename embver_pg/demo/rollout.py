"""The filling of version 2 under load: a worker dies, and a naive cutover is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from embver_pg.demo.fill import Milestone, coverage, wait_until_ready
from embver_pg.demo.material import TABLE
from embver_pg.demo.output import filling
from embver_pg.demo.processes import Process
from embver_pg.demo.report import KilledWorker, Quality, quality
from embver_pg.demo.searcher import Searcher
from embver_pg.demo.stage import Stage
from embver_pg.demo.workers import Kill, is_taken_over, kill_at_work, settled

_KILL_AT, _NAIVE_AT = 0.4, 0.5
_VERSION = 2


@dataclass
class Filling:
    """What happened on the way.

    Attributes:
        killed: The worker that was killed.
        naive: What the half-filled store would have answered.
    """

    killed: KilledWorker | None = None
    naive: Quality | None = None
    _kill: Kill | None = None
    _taken_over: bool = False


def fill_second(stage: Stage, doomed: Process, survivor: Process, searcher: Searcher) -> Filling:
    """Start the rollout and watch it until version 2 is ready.

    Args:
        stage: The run.
        doomed: The worker to kill.
        survivor: The worker that goes on.
        searcher: The client that searches all the time.
    """
    found = Filling()

    def look() -> str:
        _watch_lease(stage, found)
        return searcher.so_far()

    milestones = [
        Milestone(_KILL_AT, lambda share: _kill(stage, found, doomed)),
        Milestone(_NAIVE_AT, lambda share: _measure_naive(stage, found)),
    ]
    stage.docs.start_rollout(_VERSION)
    stage.say("rollout to version 2 (all-MiniLM-L6-v2) started; two workers fill it")
    with filling(stage.output) as meter:
        wait_until_ready(stage.docs, _VERSION, survivor, meter, milestones=milestones, remark=look)
    stage.say("version 2 is filled, its index built CONCURRENTLY: ready")
    _watch_lease(stage, found)
    _settle(stage, found)
    return found


def _kill(stage: Stage, found: Filling, doomed: Process) -> None:
    kill = kill_at_work(doomed, stage.embver.database, stage.store(_VERSION), stage.material.key)
    vectors, documents = coverage(stage.docs, _VERSION)
    found._kill = kill
    found.killed = KilledWorker(kill.pid, vectors / documents, len(kill.keys), 0, None)
    stage.say(
        f"kill -9 of worker {kill.pid} at {vectors / documents:.0%}, {len(kill.keys)} documents"
        " in its hands"
    )


def _watch_lease(stage: Stage, found: Filling) -> None:
    if found._kill is None or found.killed is None or found._taken_over:
        return
    if is_taken_over(found._kill, stage.embver.database, stage.store(_VERSION)):
        after = time.monotonic() - found._kill.at
        found._taken_over = True
        found.killed = replace(found.killed, taken_over_after_seconds=after)
        stage.say(f"the dead worker's lease is taken over after {after:.1f} s")


def _measure_naive(stage: Stage, found: Filling) -> None:
    """What searches would answer if the new store served now; it is asked explicitly.

    The evaluation is kept in the database, but no gate is decided by it.
    """
    stage.docs.pause_rollout("to measure a half-filled store")
    before, documents = coverage(stage.docs, _VERSION)
    evaluation = stage.docs.evaluate(_VERSION)
    after, _ = coverage(stage.docs, _VERSION)
    stage.docs.resume_rollout()
    share = (before + after) / 2 / documents
    found.naive = quality(f"naive cutover at {share:.0%} coverage", evaluation, share)
    stage.say(
        f"a naive cutover now ({share:.0%}) would serve nDCG@10 {found.naive.ndcg};"
        " version 1 goes on answering"
    )


def _settle(stage: Stage, found: Filling) -> None:
    if found._kill is None or found.killed is None:
        stage.expect(False, "no worker was killed: the filling was too quick for it")
        return
    done = settled(
        found._kill, stage.embver.database, stage.store(_VERSION), TABLE, stage.material.key
    )
    found.killed = replace(found.killed, settled=done)
    stage.expect(
        done == found.killed.documents,
        f"only {done} of the {found.killed.documents} documents of the killed worker are done",
    )
