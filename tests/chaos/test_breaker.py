"""An encoder that is away: its stores rest together, one batch tries, the others go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from embver_pg.client import Embver
from embver_pg.db import Row
from embver_pg.encoders.probes import PROBES
from tests.chaos.conftest import make_docs
from tests.chaos.test_drain import running
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint
from tests.waiting import PATIENCE, until

STORES = ("one", "two", "three")
DOCUMENTS = 20


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(dimensions=16) as found:
        yield found


@pytest.fixture
def stores(
    installed: Installed, owner: psycopg.Connection[Row], endpoint: FakeEndpoint
) -> Iterator[Embver]:
    """Three collections of one endpoint, and one that needs none."""
    make_docs(owner, DOCUMENTS)
    with installed.embver() as embver:
        for name in (*STORES, "local"):
            collection = embver.create_collection(name, "public.docs", "title || E'\\n' || body")
            if name == "local":
                collection.add_version("hash:8", index={"type": "none"})
            else:
                collection.add_version(
                    "openai:fake",
                    index={"type": "none"},
                    base_url=endpoint.base_url,
                    dimensions=16,
                    max_attempts=1,
                    timeout=PATIENCE,
                )
            collection.start_rollout(1)
        endpoint.forget()
        yield embver


def has_no_lease(connection: psycopg.Connection[Row], name: str) -> bool:
    return connection.execute(f"SELECT FROM embver_{name}_v1.lease".encode()).rowcount == 0


def state(embver: Embver, name: str) -> Any:
    return embver.collection(name).version(1)["state"]


def test_stores_of_one_encoder_rest_together(
    installed: Installed, owner: psycopg.Connection[Row], stores: Embver, endpoint: FakeEndpoint
) -> None:
    endpoint.faults.status, endpoint.faults.retry_after = 503, "600"
    with running(installed, drain=False) as worker:
        until(lambda: worker.reached("resting"), "one of them tried")
        until(lambda: state(stores, "local") == "ready", "the others go on")
        # Whoever was first, nobody else asked in vain while it rested.
        rests = [figures for name, figures in worker.steps if name == "resting"]
        assert endpoint.calls == len(rests) <= 2
        assert {rest["what"] for rest in rests} == {f"openai:fake at {endpoint.base_url}"}
        assert all(rest["seconds"] == 600.0 for rest in rests)
    endpoint.heal()
    with running(installed, drain=False):
        until(lambda: all(state(stores, name) == "ready" for name in STORES), "it is back")
    for name in STORES:
        assert stores.collection(name).verify(1) == {"missing": 0, "stale": 0, "orphaned": 0}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_said_once_and_burns_no_attempts(
    installed: Installed,
    owner: psycopg.Connection[Row],
    stores: Embver,
    endpoint: FakeEndpoint,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint.faults.status = status
    with caplog.at_level(logging.INFO, "embver_pg.worker"), running(installed, drain=False):
        until(lambda: endpoint.calls >= 4, "it is tried again, now and then")
        said = [record for record in caplog.records if "rests for" in record.getMessage()]
        assert len(said) == 1
        assert said[0].levelno == logging.ERROR
        for name in STORES:
            rows = owner.execute(
                f"SELECT max(job_attempts) AS n FROM embver_{name}_v1.job".encode()
            ).fetchall()
            assert rows[0]["n"] in (0, None)
            until(partial(has_no_lease, owner, name), "no lease is kept")
        endpoint.heal()
        until(lambda: all(state(stores, name) == "ready" for name in STORES), "it has healed")
        until(lambda: "answers again" in caplog.text, "which is said, too")
    assert owner.execute("SELECT FROM embver.dead_letters").fetchall() == []


def test_one_batch_tries_after_a_rest(
    installed: Installed, owner: psycopg.Connection[Row], stores: Embver, endpoint: FakeEndpoint
) -> None:
    """Of an encoder that was used already: its loaded model needs no look, so a batch tries."""
    with running(installed, drain=False, batch=5) as worker:
        until(lambda: all(state(stores, name) == "ready" for name in STORES), "all is filled")
        endpoint.forget()
        endpoint.faults.status, endpoint.faults.retry_after = 429, "0.5"
        owner.execute("UPDATE docs SET body = 'changed ' || id")
        until(lambda: endpoint.calls >= 3, "two batches tried again")
        calls = endpoint.calls
        until(
            lambda: sum(name == "resting" for name, _ in worker.steps) >= calls - 1,
            "each was followed by a rest, but for the one under way",
        )
        assert {len(request["input"]) for request in endpoint.requests} == {5}
        endpoint.heal()
        until(
            lambda: all(
                stores.collection(name).verify(1)["stale"] == 0 for name in (*STORES, "local")
            ),
            "everything is written",
        )
    assert not any(set(request["input"]) <= set(PROBES) for request in endpoint.requests)
