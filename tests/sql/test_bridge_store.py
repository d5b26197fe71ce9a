"""The bridge's tables: a fit is kept, its norms come page by page, and only then it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest

from tests.conftest import Installed
from tests.sql.support import Connection, drain, refused, register, run, value

Matrix = npt.NDArray[np.float32]
STORE = "embver_docs_v2"
RECORD = (
    f"SELECT {STORE}.record_bridge(%s, %s::text::vector, %s::text::vector, %s::text[]::vector[],"
    " %s, %s) AS id"
)
PAGE = (
    "SELECT embver_page, embver_item, embver_vector::real[] AS embver_vector"
    f" FROM {STORE}.claim_norms(%s, %s)"
)


@pytest.fixture
def pair(installed: Installed, owner: Connection) -> Connection:
    """Version 1 (hash:8, active) and 2 (hash:16, filling, empty) of 40 documents."""
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    run(owner, "INSERT INTO docs SELECT i, 'w' || i, 'x' || i % 7 FROM generate_series(1, 40) i")
    run(owner, "GRANT SELECT ON docs TO embver_r")
    with installed.embver() as embver:
        collection = register(embver)
        drain(installed)
        collection.promote()
        collection.add_version("hash:16", index={"type": "none"})
        collection.start_rollout(2)
    return owner


def fit(seed: int = 0, older: int = 8, newer: int = 16) -> tuple[Matrix, Matrix, Matrix]:
    """x mean, y mean and W of a map."""
    draw = np.random.default_rng(seed)
    return (
        draw.normal(size=older).astype(np.float32),
        draw.normal(size=newer).astype(np.float32),
        draw.normal(size=(older, newer)).astype(np.float32),
    )


def text(vector: Matrix) -> str:
    return "[" + ",".join(repr(float(x)) for x in vector) + "]"


def record(connection: Connection, parts: tuple[Matrix, Matrix, Matrix], older: int = 1) -> int:
    x_mean, y_mean, rows = parts
    parameters: list[Any] = [older, text(x_mean), text(y_mean)]
    parameters += [[text(row) for row in rows], 30, 0.1]
    return int(value(connection, RECORD, parameters))


def fill(connection: Connection, bridge: int, parts: tuple[Matrix, Matrix, Matrix]) -> int:
    """Compute norms until the bridge is usable; how many."""
    x_mean, y_mean, rows = parts
    filled = 0
    for _ in range(100):
        page = run(connection, PAGE, (bridge, 7))
        if page:
            old = np.array([row["embver_vector"] for row in page])
            norms = np.linalg.norm((old - x_mean) @ rows + y_mean, axis=1)
            items = [row["embver_item"] for row in page]
            assert value(
                connection,
                f"SELECT {STORE}.record_norms(%s, %s::int[], %s::real[])",
                (page[0]["embver_page"], items, [float(norm) for norm in norms]),
            )
            filled += len(page)
        elif state(connection, bridge) == "usable":
            return filled
    raise AssertionError("the bridge was never filled")


def state(connection: Connection, bridge: int) -> str:
    return str(
        value(connection, f"SELECT state FROM {STORE}.bridge WHERE bridge_id = %s", (bridge,))
    )


def unknown(connection: Connection, bridge: int) -> int:
    """Older vectors without a norm that is theirs."""
    return int(
        value(
            connection,
            "SELECT count(*) FROM embver_docs_v1.embedding e WHERE NOT EXISTS (SELECT FROM"
            f" {STORE}.bridge_norm n WHERE n.id = e.id AND n.embver_bridge = %s"
            " AND n.embver_lease = e.encoded_lease)",
            (bridge,),
        )
    )


def test_a_fit_is_used_when_its_norms_are_there(installed: Installed, pair: Connection) -> None:
    first = record(pair, fit())
    assert state(pair, first) == "filling"
    assert fill(pair, first, fit()) == 40
    assert unknown(pair, first) == 0
    second = record(pair, fit(1))
    assert (state(pair, first), state(pair, second)) == ("usable", "filling")
    assert fill(pair, second, fit(1)) == 40
    assert (state(pair, first), state(pair, second)) == ("replaced", "usable")

    # A vector that is written again has no norm until the walk comes by.
    run(pair, "UPDATE docs SET body = 'changed' WHERE id <= 3")
    run(pair, "INSERT INTO docs VALUES (99, 'new', 'row')")
    drain(installed)
    assert unknown(pair, second) == 4
    assert fill_once(pair, second, fit(1)) == 4
    assert unknown(pair, second) == 0
    assert value(pair, f"SELECT {STORE}.drop_bridge(1)") is True
    assert state(pair, second) == "replaced"
    assert value(pair, f"SELECT {STORE}.drop_bridge(1)") is False


def fill_once(connection: Connection, bridge: int, parts: tuple[Matrix, Matrix, Matrix]) -> int:
    """One more pass over a bridge in use."""
    x_mean, y_mean, rows = parts
    filled = 0
    for _ in range(20):
        page = run(connection, PAGE, (bridge, 50))
        if not page:
            continue
        old = np.array([row["embver_vector"] for row in page])
        norms = np.linalg.norm((old - x_mean) @ rows + y_mean, axis=1)
        run(
            connection,
            f"SELECT {STORE}.record_norms(%s, %s::int[], %s::real[])",
            (page[0]["embver_page"], [row["embver_item"] for row in page], norms.tolist()),
        )
        filled += len(page)
    return filled


def test_a_page_that_nobody_returns_is_found_again(pair: Connection) -> None:
    bridge = record(pair, fit())
    lost = run(pair, PAGE, (bridge, 7))
    assert [row["embver_item"] for row in lost] == list(range(1, 8))
    run(pair, f"UPDATE {STORE}.bridge_page SET embver_claimed_at = now() - interval '1 hour'")
    assert fill(pair, bridge, fit()) == 40
    assert unknown(pair, bridge) == 0
    late = f"SELECT {STORE}.record_norms(%s, ARRAY[1], ARRAY[1.0]::real[])"
    assert value(pair, late, (lost[0]["embver_page"],)) is False


def test_what_is_no_bridge_is_refused(installed: Installed, pair: Connection) -> None:
    x_mean, y_mean, rows = fit()
    for parts, older in (
        ((x_mean, y_mean, rows), 2),
        ((x_mean, y_mean, rows), 3),
        ((x_mean[:5], y_mean, rows), 1),
        ((x_mean, y_mean[:5], rows), 1),
        ((x_mean, y_mean, rows[:5]), 1),
        ((x_mean, y_mean, rows[:, :5]), 1),
    ):
        with pytest.raises(psycopg.Error) as failure:
            record(pair, parts, older)
        assert failure.value.sqlstate == "VM006"
        assert "rrf_partial" in str(failure.value.diag.message_hint)
    bridge = record(pair, fit())
    page = run(pair, PAGE, (bridge, 7))[0]["embver_page"]
    for norm in ("0", "-1", "NaN", "Infinity", None):
        refused(
            pair,
            "VM006",
            f"SELECT {STORE}.record_norms(%s, '{{1}}', ARRAY[%s]::real[])",
            (page, norm),
        )


@pytest.mark.parametrize("metrics", [("l2", "cosine"), ("cosine", "l2"), ("cosine", "ip")])
def test_metrics_that_have_no_bridge(
    installed: Installed, owner: Connection, metrics: tuple[str, str]
) -> None:
    run(owner, "CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    with installed.embver() as embver:
        collection = register(embver, metric=metrics[0])
        embver.drain()
        collection.promote()
        collection.add_version("hash:16", index={"type": "none"}, metric=metrics[1])
        collection.start_rollout(2)
    with pytest.raises(psycopg.Error) as failure:
        record(owner, fit())
    assert failure.value.sqlstate == "VM006"


def test_a_reader_sees_the_norms_of_own_rows(installed: Installed, pair: Connection) -> None:
    bridge = record(pair, fit())
    fill(pair, bridge, fit())
    run(pair, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    run(pair, "CREATE POLICY own ON docs FOR SELECT USING (id <= 5)")
    with installed.connect("reader") as reader:
        assert value(reader, f"SELECT count(*) FROM {STORE}.bridge_norm") == 5
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            record(reader, fit())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(reader, f"SELECT * FROM {STORE}.bridge_page")


def test_workers_fill(installed: Installed, pair: Connection) -> None:
    with installed.connect("worker") as worker:
        bridge = record(worker, fit())
        page = run(worker, PAGE, (bridge, 100))
        assert len(page) == 40
        assert value(
            worker,
            f"SELECT {STORE}.record_norms(%s, %s::int[], %s::real[])",
            (page[0]["embver_page"], list(range(1, 41)), [1.0] * 40),
        )
