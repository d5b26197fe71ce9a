"""The shortest whole journey, on the hash encoder: fill, promote, change the model, go back."""

from __future__ import annotations

import psycopg
import pytest

from embver_pg.client import Embver
from embver_pg.db import Row
from embver_pg.errors import GateFailed, NotReady
from embver_pg.evaluation.golden_files import GoldenQuery, GoldenSet
from tests.conftest import Installed

pytestmark = pytest.mark.both_versions


def test_fill_promote_change_the_model_and_go_back(
    installed: Installed, owner: psycopg.Connection[Row], docs: Embver
) -> None:
    collection = docs.collection("docs")
    with pytest.raises(NotReady):
        collection.promote()
    report = docs.drain()
    assert report.written == 3
    collection.promote()
    assert collection.verify(1) == {"missing": 0, "stale": 0, "orphaned": 0}
    assert collection.search("title 2", k=1)[0].id == 2

    assert collection.add_version("hash:16") == 2
    collection.start_rollout(2)
    owner.execute("UPDATE docs SET body = 'wings and stalls' WHERE id = 1")
    owner.execute("DELETE FROM docs WHERE id = 2")
    docs.drain()
    with pytest.raises(GateFailed) as failure:
        collection.promote()
    assert failure.value.detail["reason"] == "not_evaluated"

    golden = GoldenSet(
        "smoke",
        tuple(GoldenQuery(f"q{i}", text, {"1": 1}) for i, text in enumerate(["wings", "stalls"])),
    )
    collection.import_golden_set(golden)
    gate = collection.gate(collection.evaluate(2), collection.evaluate(1))
    assert gate.comparison.passed
    collection.promote()
    assert collection.search("wings", k=1)[0].version == 2

    owner.execute("INSERT INTO docs VALUES (9, 'written', 'after the promotion')")
    docs.drain()
    collection.rollback("to see that nothing is lost")
    assert collection.search("written after the promotion", k=1)[0].id == 9
    with pytest.raises(GateFailed) as failure:
        collection.promote()
    assert failure.value.detail["reason"] == "documents_changed"
    collection.gate(collection.evaluate(2), collection.evaluate(1))
    collection.promote()
    collection.retire_version(1)
    collection.drop_version(1)
    assert [row["state"] for row in collection.versions()] == ["active"]
    assert collection.verify(2) == {"missing": 0, "stale": 0, "orphaned": 0}
