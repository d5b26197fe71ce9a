"""Has the race suite teeth? It must go red when one guard of the engine is taken away.

Each guard is removed from the installed function of a scratch database, and the scenarios that
``test_races`` runs on the whole engine have to fail there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from tests.concurrency import scenarios
from tests.concurrency.stage import Stage

pytestmark = pytest.mark.both_versions


@dataclass(frozen=True)
class Guard:
    """A guard, and how to take it away.

    Attributes:
        function: The generated function that holds it, after version 1 went live.
        pattern: Its text.
        replacement: What stands there without it.
        scenarios: What has to fail then.
        live: Whether version 1 must be live for the function to hold the guard.
    """

    function: str
    pattern: str
    replacement: str
    scenarios: tuple[Callable[[Stage], None], ...]
    live: bool = False


_REMOVED = "DELETE FROM docs WHERE id = 4"
GUARDS = {
    "hash check": Guard(
        "embver_docs_v1.complete",
        r"WHERE f\.content_hash = r\.content_hash /\* the hash check \*/",
        "",
        (scenarios.late_completion_of_emptied, scenarios.stale_content_is_not_written),
    ),
    "lease check": Guard(
        "embver_docs_v1.complete",
        r"IF NOT FOUND THEN\s+PERFORM embver_internal\.fail\('VM020'.*?END IF;",
        "",
        (scenarios.late_completion_is_refused,),
    ),
    "newer lease wins": Guard(
        "embver_docs_v1.complete",
        r"WHERE e\.encoded_lease < excluded\.encoded_lease /\* the newer lease wins \*/",
        "",
        (scenarios.older_lease_never_overwrites, scenarios.unchanged_outranks_older_lease),
    ),
    "tombstone": Guard(
        "embver_docs.capture_delete",
        r"embver_tombstone boolean := [^;]*;",
        "embver_tombstone boolean := false;",
        tuple(
            partial(scenarios.deleted_under_snapshot, change=_REMOVED, isolation=isolation)
            for isolation in ("repeatable read", "serializable")
        ),
        live=True,
    ),
    "start barrier": Guard(
        "embver_docs_v1.walk_step",
        r"walk_phase = 'barrier', walk_barrier = \S*writers\(\)",
        "walk_phase = 'documents', walk_barrier = '{}'",
        (
            scenarios.old_writer_is_waited_for,
            scenarios.cached_capture_is_waited_for,
            scenarios.prepared_writer_is_waited_for,
        ),
    ),
    # Beyond the five: guards of races that these tests found.
    "barrier for completions": Guard(
        "embver_docs_v1.walk_step",
        r"unnest\(\S*lock_holders\('lease'\)\)",
        "unnest(ARRAY[]::text[])",
        (scenarios.held_completion_across_restart,),
    ),
    "sweep of a first filling": Guard(
        "embver_docs_v1.walk_step",
        r"walk_sweep = w\.walk_sweep OR EXISTS \(SELECT FROM \S+\)",
        "walk_sweep = w.walk_sweep",
        (scenarios.old_writer_deletes,),
    ),
    "unchanged outranks": Guard(
        "embver_docs_v1.complete",
        r"AND e\.encoded_lease < p_lease\s+AND NOT EXISTS \(SELECT FROM result",
        "AND false AND NOT EXISTS (SELECT FROM result",
        (scenarios.unchanged_outranks_older_lease,),
    ),
    "key share": Guard(
        "embver_docs_v1.complete",
        r"FOR KEY SHARE OF d SKIP LOCKED",
        "",
        (
            partial(
                scenarios.change_during_completion,
                change="delete",
                isolation="read committed",
                commits=True,
            ),
        ),
    ),
    "emptied rows are locked": Guard(
        "embver_docs_v1.complete",
        r"FOR UPDATE OF d SKIP LOCKED",
        "",
        (scenarios.emptied_during_completion,),
    ),
    "orphans are skipped": Guard(
        "embver_docs_v1.complete",
        r"FOR UPDATE OF e SKIP LOCKED",
        "",
        (scenarios.reinsert_meets_tombstone,),
    ),
}
_TEETH = [
    pytest.param(guard, scenario, id=f"{name}-{getattr(scenario, 'func', scenario).__name__}-{i}")
    for name, guard in GUARDS.items()
    for i, scenario in enumerate(guard.scenarios)
]


def remove(stage: Stage, guard: Guard) -> None:
    """Take a guard out of the installed function, as the function's owner."""
    if guard.live:
        stage.owner.run("SELECT embver.start_rollout('docs', 1)")
    rows = stage.owner.run("SELECT pg_get_functiondef(%s::regproc) AS body", (guard.function,))
    body, count = re.subn(
        guard.pattern, lambda _: guard.replacement, rows[0]["body"], flags=re.DOTALL
    )
    assert count == 1, f"the guard is in {guard.function} once, not {count} times"
    stage.owner.connection.execute(body.encode())


@pytest.mark.parametrize(("guard", "scenario"), _TEETH)
def test_suite_goes_red_without(
    stage: Stage, guard: Guard, scenario: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(stage, guard)
    if guard.live:  # started already: starting once more would write the function anew
        monkeypatch.setattr(stage, "fill", stage.drain)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        scenario(stage)
