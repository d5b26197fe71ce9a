"""The copy that fills a version from existing vectors, interleaved with everything else.

With one of its guards taken away, the scenarios have to fail.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest

from tests.concurrency import origin_scenarios as scenarios
from tests.concurrency.origin_scenarios import CHANGES
from tests.concurrency.stage import Stage

pytestmark = pytest.mark.both_versions

ISOLATIONS = ("read committed", "repeatable read", "serializable")
ADOPTED: tuple[Callable[[Stage], None], ...] = (
    scenarios.changed_and_encoded_during_copy,
    scenarios.change_begun_before_copy_is_encoded_during_it,
    scenarios.emptied_during_copy,
    scenarios.leased_at_copy,
    scenarios.claim_under_way_at_copy,
    scenarios.completion_under_way_at_copy,
    scenarios.dead_at_copy,
    scenarios.old_writer_at_start,
    scenarios.old_writer_in_a_savepoint,
    scenarios.cached_capture_at_start,
    scenarios.changed_before_abort,
)
DERIVED: tuple[Callable[[Stage], None], ...] = (
    scenarios.parent_lags_behind,
    scenarios.parent_catches_up_during_copy,
    scenarios.older_lease_meets_copy,
)


@pytest.fixture
def adopted(stage: Stage) -> Stage:
    scenarios.adopt(stage)
    return stage


@pytest.mark.parametrize("scenario", ADOPTED, ids=lambda scenario: scenario.__name__)
def test_adopt(adopted: Stage, scenario: Callable[[Stage], None]) -> None:
    scenario(adopted)


@pytest.mark.parametrize("scenario", DERIVED, ids=lambda scenario: scenario.__name__)
def test_derive(stage: Stage, scenario: Callable[[Stage], None]) -> None:
    scenarios.derive(stage)
    scenario(stage)


@pytest.mark.parametrize("change", CHANGES)
def test_change_before_copy(adopted: Stage, change: str) -> None:
    scenarios.changed_before_copy(adopted, change)


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_change_around_copy(adopted: Stage, change: str, isolation: str, commits: bool) -> None:
    scenarios.changed_around_copy(adopted, change, isolation, commits)


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_change_during_copy(adopted: Stage, change: str, isolation: str, commits: bool) -> None:
    scenarios.changed_during_copy(adopted, change, isolation, commits)


def test_untouched_documents_are_all_copied(adopted: Stage) -> None:
    scenarios.start(adopted)
    assert scenarios.copy(adopted) == 3
    assert adopted.claim(3) is None, "nothing is left for the encoder"
    adopted.check()


_UPDATE = partial(scenarios.changed_before_copy, change="update")
_DELETE = partial(
    scenarios.changed_during_copy, change="delete", isolation="read committed", commits=True
)
# Guard: its text in copy_page, what stands there without it, what must fail then.
GUARDS: dict[str, tuple[str, str, tuple[Callable[[Stage], None], ...]]] = {
    "job": (r"NOT EXISTS \(SELECT FROM \S+\.job AS j.*?/\* no job \*/", "true", (_UPDATE,)),
    "lease": (
        r"AND NOT EXISTS \(\s+SELECT FROM \S+\.lease AS .*?/\* no lease \*/",
        "",
        (scenarios.leased_at_copy, scenarios.completion_under_way_at_copy),
    ),
    "dead letter": (
        r"AND NOT EXISTS \(SELECT FROM \S+\.dead_letter AS b.*?/\* no dead letter \*/",
        "",
        (scenarios.dead_at_copy,),
    ),
    "old writers": (
        r"AND \(x\.xid - .*?/\* not by an old writer \*/",
        "",
        (
            scenarios.old_writer_at_start,
            scenarios.old_writer_in_a_savepoint,
            scenarios.cached_capture_at_start,
        ),
    ),
    "newer lease wins": (
        r"WHERE e\.encoded_lease < excluded\.encoded_lease /\* the newer lease wins \*/",
        "",
        (
            scenarios.changed_and_encoded_during_copy,
            scenarios.change_begun_before_copy_is_encoded_during_it,
        ),
    ),
    "key share": (r"FOR KEY SHARE OF d SKIP LOCKED", "", (_DELETE, scenarios.emptied_during_copy)),
}
_TEETH = [
    pytest.param(pattern, replacement, scenario, id=f"{name}-{i}")
    for name, (pattern, replacement, wanted) in GUARDS.items()
    for i, scenario in enumerate(wanted)
]


@pytest.mark.parametrize(("pattern", "replacement", "scenario"), _TEETH)
def test_goes_red_without(
    adopted: Stage, pattern: str, replacement: str, scenario: Callable[[Stage], None]
) -> None:
    function = "embver_docs_v3.copy_page"
    rows = adopted.owner.run("SELECT pg_get_functiondef(%s::regproc) AS body", (function,))
    body, count = re.subn(pattern, replacement, rows[0]["body"], flags=re.DOTALL)
    assert count == 1, f"the guard is in {function} once, not {count} times"
    adopted.owner.connection.execute(body.encode())
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        scenario(adopted)


def test_goes_red_where_jobs_do_not_outlive_an_abort(adopted: Stage) -> None:
    adopted.owner.run(
        "CREATE OR REPLACE FUNCTION embver_docs_v3.clear_queue() RETURNS void LANGUAGE sql"
        " SECURITY DEFINER BEGIN ATOMIC DELETE FROM embver_docs_v3.job; END"
    )
    with pytest.raises(AssertionError):
        scenarios.changed_before_abort(adopted)
