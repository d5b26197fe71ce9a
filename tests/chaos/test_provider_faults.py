"""The provider fails in every way it can; documents are lost in none of them."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from embver_pg.client import Embver
from embver_pg.db import Row
from embver_pg.encoders import EncoderRefusedError, TransientEncoderError
from embver_pg.encoders.probes import PROBES
from embver_pg.errors import DimensionMismatch, EmbverError, InvalidArgument, NotReady
from tests.chaos.conftest import make_docs
from tests.chaos.processes import assert_whole
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint, Faults
from tests.waiting import PATIENCE, join, until

DOCUMENTS = 50
POISONED = "body of " + "c81e728d9d4c2f636f067f89cc14862c"  # the second of them


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(dimensions=16) as found:
        yield found


@pytest.fixture
def remote(
    request: pytest.FixtureRequest,
    installed: Installed,
    owner: psycopg.Connection[Row],
    endpoint: FakeEndpoint,
) -> Iterator[Embver]:
    """Fifty documents, to be encoded by the endpoint; a request is tried once, and waited for
    for as long as the parameter says."""
    make_docs(owner, DOCUMENTS)
    with installed.embver() as embver:
        collection = embver.create_collection("docs", "public.docs", "title || E'\\n' || body")
        collection.add_version(
            "openai:fake",
            base_url=endpoint.base_url,
            dimensions=16,
            timeout=getattr(request, "param", PATIENCE),
            max_attempts=1,
            alias="fake",
        )
        collection.start_rollout(1)
        endpoint.forget()
        yield embver


def billed(endpoint: FakeEndpoint) -> Counter[str]:
    """Texts of all requests, those refused too."""
    return Counter(text for request in endpoint.requests for text in request["input"])


def leases(connection: psycopg.Connection[Row]) -> int:
    return len(connection.execute("SELECT FROM embver_docs_v1.lease").fetchall())


@pytest.mark.parametrize(
    ("remote", "fault"),
    [
        (PATIENCE, {"status": 429, "retry_after": "0.2"}),
        (PATIENCE, {"status": 500}),
        (PATIENCE, {"status": 503}),
        (PATIENCE, {"status": 408}),
        (PATIENCE, {"status": 409}),
        (PATIENCE, {"status": 425}),
        (PATIENCE, {"hang_up": True}),
        (1.0, {"delay": 2.0}),
    ],
    indirect=["remote"],
    ids=["429", "500", "503", "408", "409", "425", "hang-up", "time-out"],
)
def test_passing_faults_are_waited_out(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    fault: dict[str, Any],
) -> None:
    given_back = threading.Event()

    def on_step(name: str, figures: dict[str, Any]) -> None:
        if name == "claimed" and not given_back.is_set():
            for fault_name, value in fault.items():
                setattr(endpoint.faults, fault_name, value)
        if name == "given_back" and endpoint.faults != Faults():
            given_back.set()
            # What came back may be claimed again already.
            burnt = owner_of_step.execute(
                "SELECT max(n) AS n FROM (SELECT job_attempts AS n FROM embver_docs_v1.job"
                " UNION ALL SELECT unnest(job_attempts) FROM embver_docs_v1.lease) AS every"
            )
            assert burnt.fetchall() == [{"n": 0}]
            ended = owner_of_step.execute(
                "SELECT FROM embver_docs_v1.lease WHERE lease_seq = %s", (figures["lease"],)
            )
            assert ended.fetchall() == []
            endpoint.heal()

    with installed.connect() as owner_of_step:
        report = installed.new_worker("owner", on_step=on_step).run(drain=True)
    assert given_back.is_set()
    assert report.written == DOCUMENTS
    assert report.failed == 0
    assert_whole(owner)


def test_nobody_listens_for_a_while(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    # A socket that does not listen keeps the port, and refuses whoever comes.
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind(("127.0.0.1", port_of(endpoint)))
    endpoint.stop()
    refused = threading.Event()
    worker = installed.new_worker(
        "owner", on_step=lambda name, figures: refused.set() if name == "resting" else None
    )
    thread = threading.Thread(target=worker.run, kwargs={"drain": True}, daemon=True)
    thread.start()
    assert refused.wait(PATIENCE)
    with FakeEndpoint(dimensions=16) as healed:
        relay(kept, port_of(healed))
        join(thread)
    assert_whole(owner)
    endpoint.start = lambda: endpoint  # type: ignore[method-assign]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_poisoned_text_is_found_by_halves(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    status: int,
) -> None:
    endpoint.faults.reject_containing, endpoint.faults.reject_status = POISONED, status
    report = installed.new_worker("owner").run(drain=True)
    assert (report.written, report.failed) == (DOCUMENTS - 1, 1)
    (dead,) = owner.execute("SELECT * FROM embver.dead_letters").fetchall()
    assert dead["key"] == {"id": 2}
    assert "invalid" in dead["error"]
    # An innocent text is answered, and billed, once; log2(50) requests are refused.
    assert endpoint.texts == DOCUMENTS - 1 + len(PROBES)
    assert endpoint.calls <= 14
    assert owner.execute("SELECT count(*) AS n FROM embver_docs_v1.embedding").fetchone() == {
        "n": DOCUMENTS - 1
    }


@pytest.mark.parametrize("fault", ["nan_containing", "zero_containing"])
def test_a_text_without_a_usable_vector(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    fault: str,
) -> None:
    setattr(endpoint.faults, fault, POISONED)
    report = installed.new_worker("owner").run(drain=True)
    assert (report.written, report.failed) == (DOCUMENTS - 1, 1)
    assert max(billed(endpoint).values()) == 2  # exactly the one is known: no halves


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 401}, EncoderRefusedError),
        ({"status": 403}, EncoderRefusedError),
        ({"status": 404}, EncoderRefusedError),
        ({"not_json": True}, EncoderRefusedError),
        ({"missing_vectors": 1}, InvalidArgument),
        ({"missing_vectors": -1}, InvalidArgument),
        ({"dimensions": 8}, DimensionMismatch),
    ],
    ids=["401", "403", "404", "no-json", "too-few", "too-many", "dimensions"],
)
def test_what_no_retry_helps_ends_a_drain(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    fault: dict[str, Any],
    error: type[EmbverError],
) -> None:
    for name, value in fault.items():
        setattr(endpoint.faults, name, value)
    with pytest.raises(error):
        installed.new_worker("owner").run(drain=True)
    assert leases(owner) == 0
    assert endpoint.calls == 1
    assert owner.execute("SELECT FROM embver.dead_letters").fetchall() == []
    endpoint.heal()
    assert installed.new_worker("owner").run(drain=True).written == DOCUMENTS
    assert_whole(owner)


def test_a_provider_that_stays_away_ends_a_drain(
    installed: Installed,
    owner: psycopg.Connection[Row],
    remote: Embver,
    endpoint: FakeEndpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embver_pg.worker.breaker._SLOWEST", 0.05)
    endpoint.faults.status = 503
    with pytest.raises(TransientEncoderError):
        installed.new_worker("owner").run(drain=True)
    assert leases(owner) == 0
    assert endpoint.calls == 9


def test_one_broken_encoder_does_not_stop_the_others(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    endpoint.faults.status = 401
    owner.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
    owner.execute("INSERT INTO notes VALUES (1, 'a note')")
    notes = remote.create_collection("notes", "public.notes", "body")
    notes.add_version("hash:8")
    notes.start_rollout(1)
    worker = installed.new_worker("owner")
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    until(lambda: notes.version(1)["state"] == "ready", "the other collection is filled")
    until(lambda: endpoint.calls > 1, "the broken one is tried again")
    assert thread.is_alive()
    endpoint.heal()
    until(lambda: remote.collection("docs").version(1)["state"] == "ready", "it has healed")
    worker.stop()
    join(thread)
    assert_whole(owner)


@pytest.mark.both_versions
def test_dead_letters_block_a_promotion_until_they_are_settled(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    docs = remote.collection("docs")
    endpoint.faults.reject_containing = "body of"
    owner.execute("UPDATE docs SET body = 'harmless' WHERE id > 3")
    assert remote.drain().failed == 3
    assert docs.version(1)["state"] == "ready"  # a dead letter hangs no drain
    with pytest.raises(NotReady) as refusal:
        docs.promote()
    assert refusal.value.detail["dead_letters"] == 3

    owner.execute("UPDATE docs SET body = 'rewritten' WHERE id = 1")  # tried again by itself
    assert (remote.drain().written, count_dead(owner)) == (1, 2)

    assert docs.requeue(1, "failed") == 2  # in vain while the cause is there
    assert (remote.drain().failed, count_dead(owner)) == (2, 2)

    docs.waive(1, {"id": 2}, "not worth it")
    with pytest.raises(NotReady) as refusal:
        docs.promote()
    assert refusal.value.detail["dead_letters"] == 1

    endpoint.heal()
    assert docs.requeue(1, "failed") == 1  # the waived one stays
    assert remote.drain().written == 1
    docs.promote()
    assert docs.verify(1) == {"missing": 1, "stale": 0, "orphaned": 0}
    owner.execute("UPDATE docs SET body = 'good again' WHERE id = 2")
    remote.drain()
    assert count_dead(owner) == 0
    assert_whole(owner)


def test_a_deleted_document_takes_its_dead_letter_along(
    installed: Installed, owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint
) -> None:
    endpoint.faults.reject_containing = POISONED
    assert remote.drain().failed == 1
    owner.execute("DELETE FROM docs WHERE id = 2")
    remote.drain()
    assert count_dead(owner) == 0
    assert_whole(owner)


@pytest.mark.parametrize("settled", ["edited back", "emptied", "deleted"])
def test_a_dead_letter_keeps_the_vector_of_its_former_text(
    owner: psycopg.Connection[Row], remote: Embver, endpoint: FakeEndpoint, settled: str
) -> None:
    """It is found by what it said before, counted as stale, and settled without the encoder."""
    remote.drain()
    endpoint.faults.reject_containing = "poison"
    owner.execute("CREATE TABLE former AS SELECT * FROM docs WHERE id = 2")
    owner.execute("UPDATE docs SET body = 'poison' WHERE id = 2")
    assert remote.drain().failed == 1
    docs = remote.collection("docs")
    assert docs.verify(1) == {"missing": 0, "stale": 1, "orphaned": 0}
    stored = owner.execute("SELECT embedding::text FROM embver_docs_v1.embedding WHERE id = 2")
    assert stored.rowcount == 1
    endpoint.forget()
    owner.execute(
        {
            "edited back": "UPDATE docs d SET body = f.body FROM former f WHERE f.id = d.id",
            "emptied": "UPDATE docs SET body = NULL WHERE id = 2",
            "deleted": "DELETE FROM docs WHERE id = 2",
        }[settled].encode()
    )
    remote.drain()
    # The canary of a new worker is all that the endpoint is asked for.
    assert {text for request in endpoint.requests for text in request["input"]} <= set(PROBES)
    assert docs.verify(1) == {"missing": 0, "stale": 0, "orphaned": 0}
    assert count_dead(owner) == 0
    left = owner.execute("SELECT FROM embver_docs_v1.embedding WHERE id = 2").rowcount
    assert left == (settled == "edited back")


def count_dead(connection: psycopg.Connection[Row]) -> int:
    return len(connection.execute("SELECT FROM embver.dead_letters").fetchall())


def port_of(endpoint: FakeEndpoint) -> int:
    return int(endpoint.base_url.rsplit(":", 1)[1].split("/")[0])


def relay(listener: socket.socket, to: int) -> None:
    """Answer on a port again, by passing everything on to another."""
    listener.listen()

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", to))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=pump, args=(one, other), daemon=True).start()

    def pump(one: socket.socket, other: socket.socket) -> None:
        while data := one.recv(65536):
            other.sendall(data)
        other.close()

    threading.Thread(target=accept, daemon=True).start()
