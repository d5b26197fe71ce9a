"""Index against exact search: the figures, what is kept, the gate that reads them, the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embver_pg.cli import main
from embver_pg.client import Embver
from embver_pg.errors import GateFailed, InvalidArgument, NotReady
from embver_pg.evaluation.ann import AnnReport, AnnSetting, recall_of
from embver_pg.evaluation.golden_files import GoldenQuery, GoldenSet
from tests import servers
from tests.conftest import Installed, new_database
from tests.sql.support import Connection, register, run

ROWS = 1500
DIMENSIONS = 64


def fill(owner: Connection, store: str) -> None:
    """Random vectors in place of the encoder's: an index of few links loses its way in them."""
    vectors = np.random.default_rng(7).standard_normal((ROWS, DIMENSIONS)).astype(np.float32)
    with owner.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {store}.embedding SET embedding = %s::vector WHERE id = %s",
            [
                ("[" + ",".join(map(str, row)) + "]", number)
                for number, row in enumerate(vectors, start=1)
            ],
        )


@pytest.fixture(scope="module")
def poor() -> Iterator[Installed]:
    """Version 1 of ``docs`` is active; its index has two links a node."""
    server = servers.server()
    installed = new_database(server)
    with installed.connect() as owner, installed.embver() as embver:
        run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
        run(
            owner,
            "INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i"
            f" FROM generate_series(1, {ROWS}) AS i",
        )
        collection = register(
            embver,
            encoder=f"hash:{DIMENSIONS}",
            index={"type": "hnsw", "m": 2, "ef_construction": 4},
        )
        embver.drain()
        fill(owner, "embver_docs_v1")
        run(owner, "REINDEX INDEX embver_docs_v1.embedding_embedding_idx")
        run(owner, "VACUUM ANALYZE embver_docs_v1.embedding")
        collection.promote()
    yield installed
    servers.drop_database(server, installed.admin)


def test_recall_counts_ties_as_found() -> None:
    assert recall_of([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1
    assert recall_of([0.1, 0.2, 0.3], [0.1, 0.3, 0.4]) == pytest.approx(2 / 3)
    assert recall_of([0.1, 0.3, 0.3], [0.1, 0.3, 0.3 + 1e-15]) == 1
    assert recall_of([0.1, 0.2], []) == 0
    assert recall_of([0.0], [0.0, 0.0]) == 1


@pytest.mark.parametrize(("goal", "suggested"), [(0.5, 40), (0.85, 100), (0.99, None)])
def test_the_smallest_whose_lower_bound_reaches_the_goal(goal: float, suggested: int) -> None:
    settings = (
        AnnSetting(40, 0.7, 0.6, 0.8, 0.001, True),
        AnnSetting(60, 0.9, 0.8, 0.95, 0.001, False),
        AnnSetting(100, 0.95, 0.9, 0.98, 0.001, False),
    )
    report = AnnReport(1, 10, "ef_search", settings, 0, 300, goal, 0.01)
    assert report.suggested == suggested


def test_a_poor_index_is_found_out(poor: Installed) -> None:
    with poor.embver() as embver, poor.connect() as owner:
        report = embver.collection("docs").evaluate_ann(
            1, queries=60, values=(20, ROWS // 2), goal=0.95
        )
        kept = run(owner, "SELECT * FROM embver.ann_recalls ORDER BY value")
    assert (report.golden, report.stored, report.setting) == (0, 60, "ef_search")
    assert [each.value for each in report.settings] == [20, 40, ROWS // 2]
    assert [each.is_default for each in report.settings] == [False, True, False]
    few, default, many = report.settings
    assert few.recall < default.recall < many.recall, report
    assert few.high < 0.9, "two links a node cannot find the neighbours of random vectors"
    assert all(each.low <= each.recall <= each.high for each in report.settings)
    for row, each in zip(kept, report.settings, strict=True):
        assert (row["value"], row["recall"]) == (each.value, pytest.approx(each.recall))
        assert (row["collection"], row["version"], row["k"]) == ("docs", 1, 10)
        assert (row["golden_queries"], row["stored_queries"]) == (0, 60)
        assert row["documents"] == ROWS
        assert row["index_spec"] == {"type": "hnsw", "m": 2, "ef_construction": 4}
    assert kept[0]["lower_bound"] == pytest.approx(few.low)


def test_golden_queries_come_first(poor: Installed) -> None:
    with poor.embver() as embver:
        collection = embver.collection("docs")
        queries = tuple(
            GoldenQuery(f"q{number}", f"title {number}", {str(number): 1}) for number in range(1, 6)
        )
        collection.import_golden_set(GoldenSet("five", queries))
        report = collection.evaluate_ann(1, queries=8, values=())
        assert (report.golden, report.stored) == (5, 3)
        report = collection.evaluate_ann(1, queries=4, values=())
        assert (report.golden, report.stored) == (4, 0)
        report = collection.evaluate_ann(1, queries=8, values=(), encode=False)
        assert (report.golden, report.stored) == (0, 8)
        with pytest.raises(InvalidArgument, match="no golden set"):
            collection.evaluate_ann(1, golden_set="other")


def test_what_cannot_be_measured_is_refused(docs: Embver, owner: Connection) -> None:
    docs.drain()
    collection = docs.collection("docs")
    run(owner, "DROP INDEX embver_docs_v1.embedding_embedding_idx")
    with pytest.raises(NotReady, match="index"):
        collection.evaluate_ann(1, encode=False)
    with pytest.raises(InvalidArgument, match="above 0"):
        collection.evaluate_ann(1, goal=0)
    exact = collection.add_version("hash:16", index={"type": "none"})
    with pytest.raises(InvalidArgument, match="no vector"):
        collection.evaluate_ann(exact, encode=False)


class Promotion:
    """A rollout from version 1 to version 2 of ``docs``, asked for a recall."""

    def __init__(self, embver: Embver, owner: Connection) -> None:
        self.owner = owner
        self.collection = embver.collection("docs")
        embver.drain()
        self.collection.promote()
        self.collection.add_version("hash:16")
        self.embver = embver

    def start(self, ann: dict[str, Any]) -> None:
        self.collection.start_rollout(2, options={"ann": ann, "margin": 1})
        self.embver.drain()
        queries = tuple(GoldenQuery(f"q{n}", f"title {n}", {str(n): 1}) for n in range(1, 4))
        self.collection.import_golden_set(GoldenSet("three", queries))
        self.collection.gate(self.collection.evaluate(2), self.collection.evaluate(1))

    def refused(self) -> GateFailed:
        with pytest.raises(GateFailed) as failure:
            self.collection.promote()
        return failure.value


def test_the_gate_reads_it(docs: Embver, owner: Connection) -> None:
    promotion = Promotion(docs, owner)
    promotion.start({"recall": 0.9})
    error = promotion.refused()
    assert error.detail["reason"] == "ann_not_measured"
    assert "embver evaluate docs 2 --ann" in str(error.hint)
    promotion.collection.evaluate_ann(1, queries=3, encode=False)
    assert promotion.refused().detail["reason"] == "ann_not_measured", "of the other version"
    promotion.collection.evaluate_ann(2, queries=3, encode=False, k=5)
    assert promotion.refused().detail["reason"] == "ann_not_measured", "at another depth"
    report = promotion.collection.evaluate_ann(2, queries=3, encode=False)
    assert report.settings[0].recall == 1
    # Worse figures, as a poor index would have given.
    run(
        owner,
        "UPDATE embver_internal.ann_recall SET recall = .9, lower_bound = .8 WHERE value < 100",
    )
    detail = promotion.refused().detail
    assert (detail["reason"], detail["metric"]) == ("ann_recall", "ann_recall")
    assert (detail["recall"], detail["bound"], detail["goal"]) == (0.9, 0.8, 0.9)
    assert (detail["setting"], detail["value"], detail["enough"]) == ("ef_search", 40, 100)
    promotion.collection.evaluate_ann(2, queries=3, encode=False)  # the newest counts
    promotion.collection.promote()
    assert promotion.collection.show()["active"] == 2


def test_the_gate_reads_the_setting_that_searches_will_use(docs: Embver, owner: Connection) -> None:
    promotion = Promotion(docs, owner)
    promotion.start({"recall": 0.9, "ef_search": 150})
    promotion.collection.evaluate_ann(2, queries=3, encode=False)
    assert promotion.refused().detail["reason"] == "ann_not_measured"
    promotion.collection.evaluate_ann(2, queries=3, encode=False, values=(150,))
    promotion.collection.promote()


def test_old_figures_do_not_open(docs: Embver, owner: Connection) -> None:
    promotion = Promotion(docs, owner)
    promotion.start({"recall": 0.9})
    promotion.collection.evaluate_ann(2, queries=3, encode=False)
    run(owner, "UPDATE embver_internal.ann_recall SET documents = 9")
    assert promotion.refused().detail["reason"] == "ann_documents_changed"
    run(
        owner,
        "UPDATE embver_internal.ann_recall SET documents = 3,"
        " measured_at = measured_at - interval '8 days'",
    )
    assert promotion.refused().detail["reason"] == "ann_expired"
    run(owner, "UPDATE embver_internal.ann_recall SET measured_at = now(), fingerprint = 'other'")
    assert promotion.refused().detail["reason"] == "ann_not_measured"
    promotion.collection.promote(force=True, reason="the index is known to be good")
    (event,) = run(owner, "SELECT after FROM embver.events WHERE kind = 'promote' AND version = 2")
    assert event["after"]["overridden"]["reason"] == "ann_not_measured"


@pytest.mark.parametrize(
    "ann", [{}, {"recall": 2}, {"ef_search": 40}, {"recall": 0.9, "m": 3}, 0.95, None, [], "x"]
)
def test_an_option_that_says_nothing_is_refused(docs: Embver, ann: Any) -> None:
    collection = docs.collection("docs")
    collection.add_version("hash:16")
    collection.abort_rollout()
    with pytest.raises(InvalidArgument):
        collection.start_rollout(2, options={"ann": ann})


def test_the_command(
    poor: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBVER_DATABASE_URL", poor.owner)
    command = ["evaluate", "docs", "1", "--ann", "--queries", "30", "--stored"]
    assert main(["--json", *command, "--goal", "1"]) == 3
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["suggested"], shown["stored"]) == (1, None, 30)
    assert [each["value"] for each in shown["settings"]] == [40, 60, 100, 200, 400]
    assert main([*command, "--goal", "0.01"]) == 0
    assert "ef_search 40 is the smallest" in capsys.readouterr().out
    assert main(["evaluate", "docs", "--ann", "--versions", "1,2"]) == 2
