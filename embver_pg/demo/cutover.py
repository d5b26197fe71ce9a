"""Gate, promotion, rollback, and the refusal of a version that is worse."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from embver_pg.demo.checks import lost
from embver_pg.demo.fill import wait_until_ready
from embver_pg.demo.output import filling
from embver_pg.demo.processes import Process
from embver_pg.demo.report import Gate, Quality, Switch, Verified, Writes, quality
from embver_pg.demo.searcher import Search, stall_around
from embver_pg.demo.stage import Stage
from embver_pg.demo.writer import Writer
from embver_pg.errors import GateFailed

BAD_MODEL = "hash:32"
_LATER_SECONDS = 3.0  # of writing between the promotion and the rollback
_BACK_SECONDS = 1.0  # of searching with version 1 again


@dataclass(frozen=True)
class Moment:
    """One change of the active version.

    Attributes:
        what: ``promote``, ``rollback`` or ``forward``.
        version: The version that is active after it.
        began: On the monotonic clock, in seconds.
        ended: The same.
        later: Documents written after the first promotion.
        found: How many of them the version has as they were written.
    """

    what: str
    version: int
    began: float
    ended: float
    later: int = 0
    found: int = 0


@dataclass(frozen=True)
class Promotion:
    """What led to it, and what was written meanwhile."""

    gate: Gate
    old: Quality
    new: Quality
    writes: Writes
    moment: Moment


def verify(stage: Stage, writer: Writer) -> tuple[Verified, ...]:
    """Compare the stores of versions 1 and 2 with the source, exactly, with nothing on its way."""
    found = []
    with writer.paused():
        stage.drain()
        for version in (1, 2):
            counts = stage.docs.verify(version)
            stage.expect(not any(counts.values()), f"verify of version {version} finds {counts}")
            found.append(
                Verified(f"SELECT * FROM embver.verify('{stage.docs.name}', {version});", **counts)
            )
    return tuple(found)


def promote(stage: Stage, writer: Writer) -> Promotion:
    """Evaluate both versions, decide and promote; look for all that was written until then."""
    gate, new, old = _decide(stage, 2, 1)
    with writer.paused():
        during = dict(writer.written.bodies)
        statements = dict(writer.written.counts)
    moment = _switch(stage, "promote", 2)
    stage.say(f"promoted in {_ms(moment)}: version 2 answers")
    with writer.paused():
        stage.drain()
        missing = lost(stage.docs, stage.material, 2, writer.written.bodies, stage.known)
    stage.expect(not missing, f"version 2 lost documents that were written: {missing[:5]}")
    found = len(during.keys() - set(missing))
    stage.say(f"written during the rollout: {len(during)} documents, found after it: {found}")
    time.sleep(_LATER_SECONDS)
    return Promotion(
        gate,
        replace(old, what="version 1: static word vectors"),
        replace(new, what="version 2: all-MiniLM-L6-v2"),
        Writes(statements, len(during), found),
        moment,
    )


def go_back_and_forward(stage: Stage, writer: Writer, since: Moment) -> list[Moment]:
    """Roll back, look for what was written after the promotion, and roll forward again."""
    moments = []
    with writer.paused():
        stage.drain()
        later = {name for name, at in writer.written.times.items() if at > since.ended}
        stage.expect(bool(later), "nothing was written between the promotion and the rollback")
        for what, version in (("rollback", 1), ("forward", 2)):
            moment = _switch(stage, what, version)
            hits = stage.docs.search(stage.material.golden.queries[0].text)
            stage.expect(
                bool(hits) and hits[0].version == version,
                f"after the {what} version {version} does not answer",
            )
            missing = lost(stage.docs, stage.material, version, writer.written.bodies, stage.known)
            stage.expect(not missing, f"after the {what} version {version} lacks {missing[:5]}")
            found = len(later - set(missing))
            moments.append(replace(moment, later=len(later), found=found))
            stage.say(
                f"{what} in {_ms(moment)}: version {version} answers, {found} of {len(later)}"
                " documents written after the promotion found"
            )
            time.sleep(_BACK_SECONDS)
    return moments


def refuse_third(stage: Stage, worker: Process) -> tuple[Gate, Quality]:
    """Fill a version that is worse, measure it, and see its promotion refused."""
    stage.docs.add_version(BAD_MODEL)
    stage.docs.start_rollout(3)
    with filling(stage.output) as meter:
        wait_until_ready(stage.docs, 3, worker, meter)
    gate, bad, _ = _decide(stage, 3, 2)
    try:
        stage.docs.promote()
    except GateFailed as failure:
        stage.say(f"version 3 is refused: {failure.code} {failure.message}")
        gate = replace(
            gate,
            error={
                "code": failure.code,
                "message": failure.message,
                "detail": failure.detail,
                "hint": failure.hint,
            },
        )
    stage.expect(gate.error is not None, "the gate let a bad version pass")
    if gate.error is not None:
        stage.docs.abort_rollout("refused by the gate")
    return gate, replace(bad, what=f"version 3: {BAD_MODEL}, deliberately bad")


def timed(moments: Sequence[Moment], searches: Sequence[Search]) -> tuple[Switch, ...]:
    """The changes of version, with what the searching client noticed of them."""
    return tuple(
        Switch(
            each.what,
            each.version,
            1000 * (each.ended - each.began),
            1000 * stall_around(searches, each.began, each.ended),
            each.later,
            each.found,
        )
        for each in moments
    )


def _decide(stage: Stage, candidate: int, baseline: int) -> tuple[Gate, Quality, Quality]:
    old, new = stage.docs.evaluate(baseline), stage.docs.evaluate(candidate)
    found = stage.docs.gate(new, old).comparison
    gate = Gate(candidate, baseline, found.difference, found.lower_bound, found.delta, found.passed)
    stage.say(
        f"gate of version {candidate} against {baseline}: nDCG@10 {gate.difference:+.3f}, lower"
        f" bound {gate.lower_bound:+.3f}, margin {gate.margin:g}:"
        f" {'passed' if gate.passed else 'not passed'}"
    )
    return gate, quality("", new), quality("", old)


def _switch(stage: Stage, what: str, version: int) -> Moment:
    began = time.monotonic()
    if what == "rollback":
        stage.docs.rollback("to show that nothing is lost")
    else:
        stage.docs.promote()
    return Moment(what, version, began, time.monotonic())


def _ms(moment: Moment) -> str:
    return f"{1000 * (moment.ended - moment.began):.0f} ms"
