"""A model that changes behind its name: not one vector of it is written."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from embver_pg.client import Collection, Embver
from embver_pg.db import Row
from embver_pg.encoders import EncoderRefusedError
from embver_pg.encoders.probes import PROBES
from embver_pg.errors import SpaceChanged
from embver_pg.worker import Worker
from tests.chaos.conftest import make_docs
from tests.chaos.processes import assert_whole, backends
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint, vectors_of
from tests.waiting import PATIENCE, join, until

DOCUMENTS = 50
BATCH = 10


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(dimensions=16) as found:
        yield found


def options(endpoint: FakeEndpoint, **more: Any) -> dict[str, Any]:
    given = {
        "base_url": endpoint.base_url,
        "dimensions": 16,
        "timeout": PATIENCE,
        "max_attempts": 1,
    }
    return {**given, **more}


@pytest.fixture
def remote(
    installed: Installed, owner: psycopg.Connection[Row], endpoint: FakeEndpoint
) -> Iterator[Embver]:
    make_docs(owner, DOCUMENTS)
    with installed.embver() as embver:
        collection = embver.create_collection("docs", "public.docs", "title || E'\\n' || body")
        collection.add_version("openai:fake", **options(endpoint))
        collection.start_rollout(1)
        endpoint.forget()
        yield embver


def worker(installed: Installed, role: str = "owner", **more: Any) -> Worker:
    return installed.new_worker(role, **{"batch": BATCH, **more})


def assert_only_of(model: str, connection: psycopg.Connection[Row]) -> int:
    """Every vector written is of this model; how many there are."""
    rows = connection.execute(
        "SELECT d.title || E'\\n' || d.body AS content, e.embedding::real[] AS vector"
        " FROM embver_docs_v1.embedding AS e INNER JOIN docs AS d ON d.id = e.id"
    ).fetchall()
    if rows:
        expected = vectors_of(model, [row["content"] for row in rows], 16)
        found = np.array([row["vector"] for row in rows])
        np.testing.assert_allclose(found, expected, atol=1e-6)
    return len(rows)


def assert_given_back(connection: psycopg.Connection[Row]) -> None:
    assert connection.execute("SELECT FROM embver_docs_v1.lease").fetchall() == []
    assert connection.execute("SELECT FROM embver_docs_v1.dead_letter").fetchall() == []
    jobs = connection.execute("SELECT DISTINCT job_attempts FROM embver_docs_v1.job").fetchall()
    assert jobs == [{"job_attempts": 0}]


@pytest.mark.both_versions
@pytest.mark.parametrize("drain", [True, False])
def test_changed_before_the_start(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    drain: bool,
) -> None:
    endpoint.model = "other"
    with pytest.raises(SpaceChanged) as failure:
        worker(installed, "worker").run(drain=drain)
    error = failure.value
    assert error.code == "VM022"
    assert error.detail["version"] == 1
    assert error.detail["collection"] == "docs"
    assert error.detail["cosine"] < 0.9
    assert 1 <= error.detail["probe"] <= len(PROBES)
    assert error.detail["verified_at"] is None
    assert "embver version add docs" in str(error.hint)
    assert endpoint.texts == len(PROBES)  # not a document was sent
    assert assert_only_of("", owner) == 0
    assert_given_back(owner)
    # The old model is back, and so is everything else.
    endpoint.model = ""
    assert worker(installed).run(drain=True).written == DOCUMENTS
    assert_whole(owner)


@pytest.mark.parametrize("step", ["claimed", "encoded", "completed"])
def test_changed_while_a_worker_runs(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    step: str,
) -> None:
    """With a look before every write: the batch during which it changed is thrown away."""

    def on_step(name: str, figures: dict[str, Any]) -> None:
        if name == step and endpoint.texts > 20:
            endpoint.model = "other"

    with pytest.raises(SpaceChanged) as failure:
        worker(installed, canary=0, on_step=on_step).run()
    assert failure.value.detail["verified_at"] is not None
    assert 0 < assert_only_of("", owner) < DOCUMENTS
    assert_given_back(owner)


def test_changed_within_a_request(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    """It changes between the answer for the documents and the look: still nothing is written."""
    real = endpoint.answer

    def answer(body: dict[str, Any], key: str) -> Any:
        found = real(body, key)
        if not set(body["input"]) <= set(PROBES):
            endpoint.model = "other"
        return found

    endpoint.answer = answer  # type: ignore[method-assign]
    with pytest.raises(SpaceChanged):
        worker(installed, canary=0).run(drain=True)
    assert assert_only_of("", owner) == 0
    assert_given_back(owner)


def test_the_schedule(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The canary is asked at the start and whenever its last answer is too old, and not between."""
    asked: list[int] = []
    hours = 0.0
    monkeypatch.setattr("embver_pg.worker.model._now", lambda: 3600.0 * hours)

    def on_step(name: str, figures: dict[str, Any]) -> None:
        nonlocal hours
        if name == "encoded":
            asked.append(sum(set(r["input"]) <= set(PROBES) for r in endpoint.requests))
            hours += 0.2

    worker(installed, on_step=on_step).run(drain=True)
    assert asked == [1, 1, 2, 2, 3]  # 15 minutes and more after the last
    assert_whole(owner)
    # After a night without work the first batch is looked at before it is written.
    owner.execute("UPDATE docs SET body = 'evening' WHERE id = 1")
    running = worker(installed)
    running.run(drain=True)
    hours += 9
    endpoint.model = "other"
    owner.execute("UPDATE docs SET body = 'morning' WHERE id = 1")
    with pytest.raises(SpaceChanged):
        running.run(drain=True)
    owner.execute("UPDATE docs SET body = 'evening' WHERE id = 1")
    assert assert_only_of("", owner) == DOCUMENTS


@pytest.mark.both_versions
def test_a_version_of_the_first_release_gets_its_canary_from_a_worker(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner.execute("DELETE FROM embver_internal.canary")
    with caplog.at_level(logging.WARNING, "embver_pg.worker"):
        worker(installed, "worker").run(drain=True)
    assert "had no canary" in caplog.text
    rows = owner.execute("SELECT probe, vector FROM embver_internal.canary").fetchall()
    assert sorted(row["probe"] for row in rows) == [1, 2, 3, 4, 5, 6]
    event = owner.execute(
        "SELECT actor, version, reason FROM embver.events WHERE kind = 'store_canary'"
        " ORDER BY event_id DESC LIMIT 1"
    ).fetchone()
    assert event == {
        "actor": "embver_w",
        "version": 1,
        "reason": "the version had none: made by its first worker",
    }
    endpoint.model = "other"
    owner.execute("UPDATE docs SET body = 'changed'")
    with pytest.raises(SpaceChanged):
        worker(installed, "worker").run(drain=True)


def test_an_endpoint_that_cannot_answer_is_no_changed_model(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    endpoint.faults.reject_containing = PROBES[0]
    with pytest.raises(EncoderRefusedError, match="refuses probe texts"):
        worker(installed).run(drain=True)
    assert_given_back(owner)
    endpoint.heal()
    endpoint.fail_next(503, times=2)
    assert worker(installed).run(drain=True).written == DOCUMENTS
    assert_whole(owner)


def test_workers_that_begin_at_once_agree_on_one_canary(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver
) -> None:
    owner.execute("DELETE FROM embver_internal.canary")
    store = "SELECT embver_internal.store_canary('docs', 1, %s, %s, %s) AS stored"
    vectors = ["{" + ",".join([digit] * 16) + "}" for digit in "12"]
    stored: list[Any] = []
    with installed.connect() as first, installed.connect() as second:

        def late() -> None:
            found = second.execute(store, (['"a"', '"b"'], [vectors[1]] * 2, "second")).fetchone()
            stored.append(found)

        with first.transaction():
            assert first.execute(store, (['"a"'], [vectors[0]], "first")).fetchone() == {
                "stored": True
            }
            thread = threading.Thread(target=late, daemon=True)
            thread.start()
            until(
                lambda: [
                    row
                    for row in backends(owner, "store_canary")
                    if row["wait_event_type"] == "Lock"
                ],
                "the second waits",
            )
        join(thread)
    assert stored == [{"stored": False}]
    rows = owner.execute("SELECT probe, vector[1] AS x FROM embver_internal.canary").fetchall()
    assert rows == [{"probe": 1, "x": 1.0}]


@pytest.mark.parametrize(
    ("texts", "vectors", "code"),
    [([], [], "VM006"), (['"a"'], [], "VM006"), (['"a"'], ["{1,2}"], "VM013")],
)
def test_a_canary_that_fits_no_version_is_refused(
    owner: psycopg.Connection[Row],
    remote: Embver,
    texts: list[str],
    vectors: list[str],
    code: str,
) -> None:
    owner.execute("DELETE FROM embver_internal.canary")
    with pytest.raises(psycopg.Error) as failure:
        owner.execute(
            "SELECT embver_internal.store_canary('docs', 1, %s::text[], %s::text[])",
            (texts, vectors),
        )
    assert failure.value.sqlstate == code
    assert owner.execute("SELECT FROM embver_internal.canary").fetchall() == []


class TestClient:
    """The encoder of queries is looked at once, and a fingerprint names one space."""

    def test_queries(self, installed: Installed, remote: Embver, endpoint: FakeEndpoint) -> None:
        remote.drain()
        remote.collection("docs").promote()
        with installed.embver("reader") as reader:
            docs: Collection = reader.collection("docs")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                docs.search("title 3")  # of the source; the canary may be read
            endpoint.forget()
        with installed.embver() as client:
            client.collection("docs").search("title 3")
            client.collection("docs").search("title 4")
            assert endpoint.texts == len(PROBES) + 2
        endpoint.model = "other"
        with installed.embver() as client, pytest.raises(SpaceChanged):
            client.collection("docs").search("title 3")

    def test_a_version_of_the_changed_model_needs_a_name_of_its_own(
        self, remote: Embver, endpoint: FakeEndpoint
    ) -> None:
        docs = remote.collection("docs")
        assert docs.add_version("openai:fake", **options(endpoint)) == 2
        endpoint.model = "other"
        with pytest.raises(SpaceChanged) as failure:
            docs.add_version("openai:fake", **options(endpoint))
        assert "alias=" in str(failure.value.hint)
        assert docs.add_version("openai:fake", **options(endpoint, alias="fake-2")) == 3
        prints = [row["fingerprint"] for row in docs.versions()]
        assert prints[0] == prints[1] != prints[2]

    def test_an_alias_keeps_the_fingerprint_and_must_be_true(
        self, remote: Embver, endpoint: FakeEndpoint
    ) -> None:
        docs = remote.collection("docs")
        moved = docs.add_version("openai:deployment-7", **options(endpoint, alias="fake"))
        prints = {row["fingerprint"] for row in docs.versions()}
        assert (moved, len(prints)) == (2, 1)
        with FakeEndpoint(dimensions=16) as elsewhere:
            elsewhere.model = "other"
            with pytest.raises(SpaceChanged):
                docs.add_version("openai:deployment-8", **options(elsewhere, alias="fake"))
        assert len(docs.versions()) == 2


@pytest.mark.both_versions
def test_the_canary_is_kept_with_the_version(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    rows = owner.execute(
        "SELECT probe, probe_text, vector FROM embver_internal.canary ORDER BY probe"
    ).fetchall()
    assert [row["probe"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["probe_text"].isascii() for row in rows)
    np.testing.assert_array_equal(
        np.array([row["vector"] for row in rows], dtype=np.float32),
        vectors_of("", list(PROBES), 16),
    )
    # A false alarm is ended with a reason, and only by who administers.
    for role in ("worker", "reader"):
        with (
            installed.connect(role) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("SELECT embver.forget_canary('docs', 1, 'no')")
    with (
        installed.connect("worker") as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("DELETE FROM embver_internal.canary")
    with installed.connect("worker") as connection:
        stored = connection.execute(
            "SELECT embver_internal.store_canary('docs', 1, ARRAY['\"x\"'], ARRAY['{1}']) AS stored"
        ).fetchone()
        assert stored == {"stored": False}  # what is there stays
    owner.execute("SELECT embver.forget_canary('docs', 1, 'the provider changed its arithmetic')")
    assert owner.execute("SELECT FROM embver_internal.canary").fetchall() == []
    endpoint.model = "other"
    worker(installed).run(drain=True)
    assert assert_only_of("other", owner) == DOCUMENTS
