"""From a hand-made ``embedding`` column to another model and back, with an application writing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from embver_pg.cli import main
from embver_pg.client import Collection
from tests.conftest import Installed
from tests.handmade import Counting, make_table, text
from tests.sql.support import Connection, check_stores, run
from tests.waiting import until

ROWS, WRITTEN = 400, 100  # the application writes only the first documents

pytestmark = pytest.mark.both_versions


class Writer(threading.Thread):
    """An application that edits, deletes and inserts, one statement after another.

    Attributes:
        statements: How many were committed.
        failure: What went wrong, if anything did.
    """

    def __init__(self, installed: Installed) -> None:
        super().__init__(daemon=True)
        self._installed = installed
        self._halt = threading.Event()
        self.statements = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with self._installed.connect() as connection:
                while not self._halt.wait(0.01):
                    self._write(connection, self.statements)
                    self.statements += 1
        except Exception as error:
            self.failure = error

    def _write(self, connection: Connection, turn: int) -> None:
        key = 1 + turn * 7 % WRITTEN
        match turn % 5:
            case 0 | 1:
                statement = (
                    "UPDATE docs SET body = 'edited ' || %s || ' in turn ' || %s WHERE id = %s"
                )
                run(connection, statement, (key, turn, key))
            case 2:  # text and vector together, the vector wrong
                statement = (
                    "UPDATE docs SET body = 'both ' || %s,"
                    " embedding = array_fill(%s::real, ARRAY[64])::vector WHERE id = %s"
                )
                run(connection, statement, (turn, turn + 1, key))
            case 3:
                run(connection, "DELETE FROM docs WHERE id = %s", (key,))
            case _:
                statement = (
                    "INSERT INTO docs (id, body) VALUES (%s, 'new in turn ' || %s)"
                    " ON CONFLICT (id) DO UPDATE SET old = NOT docs.old"
                )
                run(connection, statement, (key, turn))

    def stop(self) -> None:
        self._halt.set()
        self.join(30)
        assert self.failure is None, self.failure


@contextmanager
def writing(installed: Installed) -> Iterator[Writer]:
    """An application beside what happens inside; it has written before, while and after it."""
    writer = Writer(installed)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()
    assert writer.statements > 5


def fill(installed: Installed, docs: Collection, version: int, counting: Counting) -> None:
    """Start a version and let a worker run until it is ready, whatever is written meanwhile."""
    docs.start_rollout(version)
    worker = installed.new_worker("owner", encoder_for=counting)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        until(lambda: docs.version(version)["state"] == "ready", "it is not filled")
    finally:
        worker.stop()
        thread.join(30)
        worker.database.close()


@pytest.mark.slow
def test_from_a_column_to_a_new_model(installed: Installed, owner: Connection) -> None:
    make_table(owner, ROWS)
    counting = Counting()
    untouched = {text(i) for i in range(WRITTEN + 1, ROWS + 1)}
    with installed.embver() as embver:
        docs = embver.create_collection("docs", "public.docs", "body")
        docs.adopt_version("hash:64")
        with writing(installed):
            fill(installed, docs, 1, counting)
            assert untouched.isdisjoint(counting.texts), "nothing untouched is paid for again"
            docs.promote()
            assert docs.search(text(ROWS), k=1)[0].id == ROWS
        embver.drain(encoder_for=counting)
        check_stores(installed)
        assert untouched.isdisjoint(counting.texts)
        assert docs.origin(1)["copied"] >= len(untouched)

        counting.texts.clear()
        docs.add_version("hash:128", element_type="halfvec")
        with writing(installed):
            fill(installed, docs, 2, counting)
            docs.promote(force=True, reason="no golden set")
            assert docs.search(text(ROWS), k=1)[0].version == 2
            docs.rollback("to see the way back")
            assert docs.search(text(ROWS), k=1)[0].version == 1
        embver.drain()
        check_stores(installed)
        assert untouched <= set(counting.texts), "the new model encodes them all"

        # Rolled back, the parent is active again; its documents need no encoder for the copy.
        docs.derive_version(1, element_type="halfvec")
        counting.texts.clear()
        with writing(installed):
            fill(installed, docs, 3, counting)
        embver.drain(encoder_for=counting)
        check_stores(installed)
        assert untouched.isdisjoint(counting.texts)


@pytest.mark.slow
def test_the_command_line(
    installed: Installed, owner: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    make_table(owner, 60)

    def embver(*arguments: str, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        found = main(["--database-url", installed.owner, *arguments])
        captured = capsys.readouterr()
        assert found == code, f"{arguments}: {captured.out}{captured.err}"
        return captured.out, captured.err

    def adopt(*arguments: str, code: int = 0) -> tuple[str, str]:
        return embver("version", "adopt", "docs", *arguments, code=code)

    embver("collection", "create", "docs", "--source", "public.docs", "--content", "body")
    adopt("hash:64", code=2)
    adopt("hash:64", "--from-column", "embedding", "--from-table", "docs", code=2)
    adopt("hash:64", "--from-column", "embedding", "--key-columns", "id", code=2)
    _, refused = adopt("hash:64", "--from-column", "embedding", "-o", "document_prompt=x y z a b c",
                       "--json", code=1)  # fmt: skip
    error = json.loads(refused)["error"]
    assert error["code"] == "VM022"
    assert error["detail"]["documents"] == 60
    assert error["detail"]["share"] == 0
    adopt("hash:32", "--from-column", "embedding", code=1)
    out, note = adopt("hash:64", "--from-column", "embedding", "--stale-where", "old")
    assert "60 of 60 sampled documents have the encoder's vector" in out
    assert "embver rollout start docs 1" in note
    embver("rollout", "start", "docs", "1")
    embver("rollout", "abort", "docs")
    _, refused = embver("rollout", "start", "docs", "1", code=1)
    assert "embver version check docs 1" in refused
    out, _ = embver("version", "check", "docs", "1", "--sample", "20", "--json")
    assert json.loads(out)["agree"] == 20
    embver("rollout", "start", "docs", "1")
    run_out, _ = embver("rollout", "run", "docs", "--json")
    assert json.loads(run_out)["written"] == 0
    embver("rollout", "promote", "docs")

    embver("version", "derive", "docs", "1", "--dimensions", "32", code=1)
    out, _ = embver("version", "derive", "docs", "1", "--element-type", "halfvec", "--json")
    assert json.loads(out)["check"] == {"method": "exact to rounding"}
    embver("rollout", "start", "docs", "2")
    run_out, _ = embver("rollout", "run", "docs", "--json")
    assert json.loads(run_out)["written"] == 0
    check_stores(installed)
    run(owner, "CREATE TABLE side (doc bigint PRIMARY KEY, v vector(64))")
    run(owner, "INSERT INTO side SELECT id, embedding FROM docs")
    side = ("--from-table", "public.side", "--key-columns", "doc", "--column", "v")
    out, _ = adopt("hash:64", *side, "--index", "none", "--json")
    assert json.loads(out)["version"] == 3
