"""Every race that SQL-NOTES names, made to happen, on the engine as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.concurrency import scenarios
from tests.concurrency.scenarios import CHANGES
from tests.concurrency.stage import Stage

pytestmark = pytest.mark.both_versions

ISOLATIONS = ("read committed", "repeatable read", "serializable")
SNAPSHOTS = ISOLATIONS[1:]
REMOVALS = {
    "delete": "DELETE FROM docs WHERE id = 4",
    "key change": "UPDATE docs SET id = 9 WHERE id = 4",
    "truncate": "TRUNCATE docs",
}
SCENARIOS: tuple[Callable[[Stage], None], ...] = (
    scenarios.update_after_the_look,
    scenarios.late_completion_of_emptied,
    scenarios.stale_content_is_not_written,
    scenarios.older_lease_never_overwrites,
    scenarios.unchanged_outranks_older_lease,
    scenarios.emptied_during_completion,
    scenarios.late_completion_is_refused,
    scenarios.takeover_meets_completion,
    scenarios.reinsert_meets_tombstone,
    scenarios.old_writer_is_waited_for,
    scenarios.cached_capture_is_waited_for,
    scenarios.old_writer_deletes,
    scenarios.old_writer_prepares,
    scenarios.prepared_writer_is_waited_for,
    scenarios.held_completion_across_restart,
    scenarios.writers_never_wait_for_encoding,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_race(stage: Stage, scenario: Callable[[Stage], None]) -> None:
    scenario(stage)


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_change_during_completion(stage: Stage, change: str, isolation: str, commits: bool) -> None:
    scenarios.change_during_completion(stage, change, isolation, commits)


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_completion_during_change(stage: Stage, change: str, isolation: str, commits: bool) -> None:
    scenarios.completion_during_change(stage, change, isolation, commits)


@pytest.mark.parametrize("isolation", SNAPSHOTS)
@pytest.mark.parametrize("removal", REMOVALS)
def test_vector_newer_than_the_snapshot(stage: Stage, removal: str, isolation: str) -> None:
    scenarios.deleted_under_snapshot(stage, REMOVALS[removal], isolation)


@pytest.mark.parametrize("isolation", SNAPSHOTS)
@pytest.mark.parametrize("removal", ["delete", "key change", "truncate"])
def test_vector_rewritten_after_the_snapshot(stage: Stage, removal: str, isolation: str) -> None:
    scenarios.rewritten_under_snapshot(stage, CHANGES[removal], isolation)
