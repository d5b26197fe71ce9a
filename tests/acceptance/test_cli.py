"""The command line: the whole journey, JSON, exit codes, signals, roles, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from embver_pg import embedded
from embver_pg.cli import main
from tests import servers
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint
from tests.waiting import PATIENCE, until

COMMAND = (sys.executable, "-m", "embver_pg.cli")
CONTENT = "title || E'\\n' || body"


@dataclass(frozen=True)
class Result:
    """What a command answered."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """The real command in a process of its own, on one database."""

    def __init__(self, url: str | None, **environment: str) -> None:
        self.environment = {**os.environ, "NO_COLOR": "1", "OPENAI_API_KEY": "none", **environment}
        self.environment.pop("EMBVER_DATABASE_URL", None)
        if url is not None:
            self.environment["EMBVER_DATABASE_URL"] = url

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        assert "Traceback" not in done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


class Here:
    """The same in this process, which is quicker."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        self._capsys.readouterr()
        found = main(["--database-url", self.url, *arguments])
        captured = self._capsys.readouterr()
        assert found == code, f"{arguments}: {found}\n{captured.out}{captured.err}"
        return Result(found, captured.out, captured.err)


@pytest.fixture
def here(installed: Installed, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(installed.owner, capsys)


def make_docs(installed: Installed, rows: int = 30) -> None:
    with installed.connect() as owner:
        owner.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
        owner.execute(
            "INSERT INTO docs SELECT i, 'title' || i, 'body' || i FROM generate_series(1, %s) AS i",
            (rows,),
        )
        owner.execute("GRANT SELECT ON docs TO embver_r")


@pytest.fixture
def filled(installed: Installed, here: Here) -> Here:
    """``docs`` with version 1 active."""
    make_docs(installed)
    here("collection", "create", "docs", "--source", "public.docs", "--content", CONTENT)
    here("version", "add", "docs", "hash:256")
    here("rollout", "start", "docs", "1")
    here("rollout", "run", "docs")
    here("rollout", "promote", "docs")
    return here


def golden_file(directory: Path, queries: int = 20) -> Path:
    path = directory / "words.tsv"
    path.write_text("".join(f"title{i} body{i}\t{i}\n" for i in range(1, queries + 1)))
    return path


@pytest.mark.slow
@pytest.mark.both_versions
def test_the_whole_journey(installed: Installed, here: Here, tmp_path: Path) -> None:
    make_docs(installed)
    embver, real = here, Cli(installed.owner)
    made = embver("collection", "create", "docs", "--source", "docs", "--content", CONTENT)
    assert "version add docs" in made.err
    assert embver("collection", "list", "--json").json()[0]["key_columns"] == ["id"]
    embver("version", "add", "docs", "hash:64")
    embver("rollout", "start", "docs", "1")
    waits = embver("--json", "rollout", "status", "docs").json()
    assert waits["blocked_by"]
    assert waits["readiness"]["walk"] == "pending"
    embver("rollout", "promote", "docs", code=1)

    drained = Cli(installed.worker)("worker", "--drain", "--json").json()
    assert (drained["written"], drained["stopped"]) == (30, False)
    assert embver("version", "show", "docs", "1", "--json").json()["state"] == "filling"
    run = real("rollout", "run", "docs", "--json").json()
    assert (run["state"], run["written"]) == ("ready", 0)
    assert real("rollout", "promote", "docs", "--json").json()["active"] == 1

    embver("version", "add", "docs", "hash:512", "--m", "32", "-o", "document_prompt=")
    embver("rollout", "start", "docs", "2", "--margin", "0.05")
    embver("rollout", "pause", "docs", "--reason", "lunch")
    assert "lunch" in embver("rollout", "status", "docs").out
    assert "resume" in embver("rollout", "run", "docs", code=1).err
    embver("rollout", "resume", "docs")
    real("worker", "--drain", "--concurrency", "2", "--collection", "docs")
    refused = json.loads(real("--json", "rollout", "promote", "docs", code=3).err)
    assert refused["error"]["detail"]["reason"] == "not_evaluated"

    imported = embver("golden", "import", "docs", str(golden_file(tmp_path)), "--json").json()
    assert (imported["name"], imported["queries"]) == ("words", 20)
    assert "evaluate" in embver("rollout", "status", "docs").err
    measured = real("evaluate", "docs", "--json").json()
    assert [row["version"] for row in measured["evaluations"]] == [1, 2]
    assert measured["gate"]["passed"]
    assert measured["gate"]["margin"] == 0.05
    table = embver(
        "evaluate", "docs", "--versions", "1,2", "--golden", "words", "-k", "5", "--exact"
    )
    assert "nDCG@5" in table.out
    assert "passed" in table.out
    assert "warning: 20" in table.out
    assert "opens no promotion" in table.err
    embver("rollout", "promote", "docs", "--reason", "it is better")
    hits = real("search", "docs", "title7 body7", "--exact", "--json").json()
    assert (hits[0]["key"], hits[0]["version"]) == ({"id": 7}, 2)
    assert hits[0]["text"] == "title7 body7"
    assert embver("search", "docs", "title7", "--version", "1", "--json").json()[0]["version"] == 1

    assert embver("rollout", "rollback", "docs", "--json").json()["active"] == 1
    embver("rollout", "promote", "docs")
    assert embver("route", "show", "docs", "--json").json()["route"][0]["version"] == 2
    assert embver("verify", "docs", "--json").json()["clean"]
    embver("version", "drop", "docs", "1", code=1)
    embver("version", "retire", "docs", "1")
    embver("version", "drop", "docs", "1")
    assert [row["version"] for row in embver("version", "list", "docs", "--json").json()] == [2]
    status = real("status").out
    assert "hash:512" in status
    assert "drop_version" in status
    embver("collection", "drop", "docs", code=1)


def test_a_failed_gate_exits_with_3(installed: Installed, filled: Here, tmp_path: Path) -> None:
    filled("version", "add", "docs", "hash:2")
    filled("rollout", "start", "docs", "2")
    filled("golden", "import", "docs", str(golden_file(tmp_path)))
    assert "still being filled" in filled("evaluate", "docs", code=3).err
    filled("rollout", "run", "docs")
    shown = filled("evaluate", "docs", code=3)
    assert "failed" in shown.out
    assert "certifiable margin" in shown.out
    gate = filled("--json", "evaluate", "docs", code=3).json()["gate"]
    assert gate["bound"] < -gate["margin"]
    refused = filled("rollout", "promote", "docs", code=3).err
    assert "not shown to be as good" in refused
    assert "--force" in refused
    filled("rollout", "promote", "docs", "--force", code=1)
    filled("rollout", "promote", "docs", "--force", "--reason", "a drill")
    assert filled("evaluate", "docs", "--versions", "2", "--json").json()["gate"] is None
    filled("rollout", "rollback", "docs")
    filled("rollout", "abort", "docs", code=1)


def test_every_command_speaks_json(installed: Installed, filled: Here, tmp_path: Path) -> None:
    path = str(golden_file(tmp_path))
    for arguments in [
        ("init",),
        ("upgrade",),
        ("status",),
        ("collection", "list"),
        ("collection", "show", "docs"),
        ("collection", "refresh", "docs"),
        ("version", "add", "docs", "hash:16", "--sql"),
        ("version", "add", "docs", "hash:16"),
        ("version", "list", "docs"),
        ("version", "show", "docs", "1"),
        ("rollout", "start", "docs", "2", "-o", "max_lag=30 s"),
        ("rollout", "status", "docs"),
        ("rollout", "pause", "docs"),
        ("rollout", "resume", "docs"),
        ("rollout", "abort", "docs"),
        ("rollout", "start", "docs", "2"),
        ("rollout", "run", "docs"),
        ("route", "show", "docs"),
        ("route", "set", "docs", "single"),
        ("verify", "docs", "1"),
        ("requeue", "docs", "1", "--only", "all"),
        ("worker", "--drain"),
        ("waive", "docs", "1", "--all", "--reason", "none there"),
        ("golden", "import", "docs", path),
        ("golden", "list", "docs"),
        ("golden", "check", "docs"),
        ("golden", "check", "docs", path),
        ("evaluate", "docs", "--margin", "1"),
        ("search", "docs", "title1", "--filter", '{"id": 1}'),
        ("rollout", "promote", "docs", "--force", "--reason", "for the test"),
        ("rollout", "status", "docs"),
        ("rollout", "rollback", "docs"),
        ("version", "retire", "docs", "2"),
        ("version", "drop", "docs", "2"),
    ]:
        found = filled(*arguments, "--json")
        assert isinstance(found.json(), dict | list), arguments
        assert not found.err or arguments[0] in ("worker", "rollout"), (arguments, found.err)


def test_checks_exit_with_3(installed: Installed, filled: Here, tmp_path: Path) -> None:
    with installed.connect() as owner:
        owner.execute("INSERT INTO docs VALUES (99, 'new', 'row')")
    assert "1 " in filled("verify", "docs", code=3).out
    path = tmp_path / "unknown.tsv"
    path.write_text("a\t1\nb\t12345\n")
    found = filled("--json", "golden", "check", "docs", str(path), code=3).json()
    assert (found["unknown_documents"], found["examples"]) == (1, ["12345"])
    assert "golden check" in filled("golden", "import", "docs", str(path)).err


def test_dead_letters_are_shown_and_waived(installed: Installed, here: Here) -> None:
    make_docs(installed, 5)
    with FakeEndpoint(dimensions=16) as endpoint:
        endpoint.faults.reject_containing = "title3"
        embver = Cli(installed.owner)
        here("collection", "create", "docs", "--source", "docs", "--content", CONTENT)
        add = ("version", "add", "docs", "openai:fake", "--option", "dimensions=16")
        embver(*add, "--option", f"base_url={endpoint.base_url}")
        here("rollout", "start", "docs", "1")
        run = embver("rollout", "run", "docs")
    assert "1 documents failed" in run.out
    shown = here("rollout", "status", "docs")
    assert "dead letters" in shown.out
    assert '{"id": 3}' in shown.out
    assert "not waived" in shown.out
    here("rollout", "promote", "docs", code=1)
    here("waive", "docs", "1", "4", "--reason", "no dead letter", code=1)
    here("waive", "docs", "1", "3", "--reason", "cannot be read")
    here("rollout", "promote", "docs")
    assert here("requeue", "docs", "1", "--only", "missing", "--json").json()["jobs"] == 1


def leased_and_queued(installed: Installed) -> tuple[int, int]:
    with installed.connect() as owner:
        row = owner.execute(
            "SELECT (SELECT count(*) FROM embver_docs_v1.lease) AS leases,"
            " (SELECT count(*) FROM embver_docs_v1.job)"
            " + (SELECT count(*) FROM embver_docs_v1.embedding) AS kept"
        ).fetchone()
        assert row is not None
        return row["leases"], row["kept"]


@pytest.mark.parametrize("fault", ["slow", "away"])
@pytest.mark.parametrize(
    ("arguments", "number", "code"),
    [
        (("worker", "--poll", "0.05"), signal.SIGTERM, 0),
        (("worker", "--drain", "--concurrency", "2", "--batch", "8"), signal.SIGTERM, 0),
        (("rollout", "run", "docs"), signal.SIGINT, 130),
    ],
    ids=["worker", "workers", "run"],
)
def test_a_signal_ends_cleanly_without_a_lease(
    installed: Installed,
    here: Here,
    arguments: tuple[str, ...],
    number: signal.Signals,
    code: int,
    fault: str,
) -> None:
    make_docs(installed)
    embver = Cli(installed.owner)
    here("collection", "create", "docs", "--source", "docs", "--content", CONTENT)
    with FakeEndpoint(dimensions=16) as endpoint:
        add = ("version", "add", "docs", "openai:fake", "--option", "dimensions=16")
        embver(*add, "--option", f"base_url={endpoint.base_url}")
        here("rollout", "start", "docs", "1")
        if fault == "slow":
            endpoint.faults.delay = 1.0
        else:
            endpoint.faults.status = 503
        endpoint.forget()
        process = embver.start(*arguments)
        try:
            until(lambda: endpoint.calls >= 1, "the endpoint is asked")
            process.send_signal(number)
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert leased_and_queued(installed) == (0, 30)
    assert here("--json", "status").json()["workers"] == []


def test_a_role_that_may_not_build_the_index_says_so(
    installed: Installed, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    make_docs(installed)
    here("collection", "create", "docs", "--source", "docs", "--content", CONTENT)
    here("version", "add", "docs", "hash:16")
    here("rollout", "start", "docs", "1")
    with operator(installed) as url:
        found = Here(url, capsys)("rollout", "run", "docs", code=1)
    assert "may not build its index" in found.err
    assert "embver_owner" in found.err
    assert here("rollout", "run", "docs", "--json").json()["written"] == 0


@contextmanager
def operator(installed: Installed) -> Iterator[str]:
    """A role that administers embver and does not own the source."""
    server = servers.server()
    role = f"embver_operator_{uuid4().hex[:8]}"
    name = urlsplit(installed.admin).path.removeprefix("/")
    with psycopg.connect(installed.admin, autocommit=True) as admin:
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE embver_admin")
        admin.execute(create.format(sql.Identifier(role), server.password(role)))
        try:
            yield server.url(name, role)
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_an_encoder_that_raises_is_named(filled: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(encoder: object, texts: object) -> object:
        raise RuntimeError("CUDA out of memory")

    for method in ("encode_documents", "encode_queries"):
        monkeypatch.setattr(f"embver_pg.encoders.hashing.HashEncoder.{method}", fails)
    for arguments in (
        ("search", "docs", "title5"),
        ("version", "add", "docs", "hash:8"),
        ("worker", "--drain"),
    ):
        if arguments[0] == "worker":
            with psycopg.connect(filled.url, autocommit=True) as owner:
                owner.execute("UPDATE docs SET body = 'changed' WHERE id = 5")
        found = filled(*arguments, code=1).err
        assert "failed: RuntimeError: CUDA out of memory" in found, arguments
        assert "error: The encoder hash:" in found
        assert "hint: It is the encoder's own error" in found
        assert "Traceback" not in found.partition("error: The encoder")[2]
    shown = json.loads(filled("--json", "search", "docs", "title5", code=1).err)["error"]
    assert shown["detail"]["encoder"] == "hash:256"
    assert "in fails" in shown["detail"]["traceback"]


def test_roles_are_told_what_they_lack(
    installed: Installed, filled: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = Here(installed.stranger, capsys)
    for arguments, group in [
        (("status",), "embver_admin"),
        (("search", "docs", "x"), "embver_reader"),
        (("worker", "--drain"), "embver_worker"),
        (("rollout", "promote", "docs"), "embver_admin"),
    ]:
        found = stranger(*arguments, code=1).err
        assert "embver_stranger" in found, arguments
        assert f"GRANT {group} TO" in found, arguments
    reader = Here(installed.reader, capsys)
    assert reader("search", "docs", "title5 body5", "-k", "1", "--exact", "--json").json()[0][
        "key"
    ] == {"id": 5}
    assert "may not see" in reader("status").out
    assert "GRANT embver_admin" in reader("rollout", "promote", "docs", code=1).err
    worker = Here(installed.worker, capsys)
    assert worker("worker", "--drain", "--collection", "docs", "--json").json()["written"] == 0
    refused = stranger("init", code=1).err
    assert "embver init --sql" in refused
    no_source = stranger("--json", "collection", "list", code=1)
    assert json.loads(no_source.err)["error"]["code"] == "42501"


BAD = [
    (("nonsense",), 2, "No such command"),
    (("rollout",), 2, ""),
    (("collection", "create", "x"), 2, "--source"),
    (("version", "show", "docs", "one"), 2, "VERSION"),
    (("evaluate", "docs", "--versions", "1,x"), 2, "1,2"),
    (("evaluate", "docs", "--metric", "map"), 2, "ndcg"),
    (("search", "docs", "x", "--filter", "[]"), 2, "JSON object"),
    (("version", "add", "docs", "hash:8", "-o", "novalue"), 2, "NAME=VALUE"),
    (("waive", "docs", "1", "--reason", "x"), 2, "KEY"),
    (("waive", "docs", "1", '{"nr": 1}', "--reason", "x"), 2, "id"),
    (("status", "--watch", "--json"), 2, "--watch"),
    (("demo",), 2, "--database-url"),
    (("worker", "--concurrency", "0"), 2, "concurrency"),
    (("collection", "show", "nope"), 1, "embver collection list"),
    (("worker", "--drain", "--collection", "nope"), 1, "embver collection list"),
    (("worker", "--drain", "--collection", "nope", "--concurrency", "2"), 1, "collection list"),
    (("version", "show", "docs", "9"), 1, "embver version list docs"),
    (("version", "add", "docs", "bash:9"), 1, "hash"),
    (("version", "add", "docs", "hash:3000"), 1, "halfvec"),
    (("collection", "create", "docs", "--source", "docs", "--content", "title"), 1, "exists"),
    (("collection", "create", "d", "--source", "nope", "--content", "x"), 1, "does not exist"),
    (("collection", "create", "d", "--source", "docs", "--content", "now()::text"), 1, "immutable"),
    (("collection", "create", "Docs", "--source", "docs", "--content", "title"), 1, "lower-case"),
    (("rollout", "start", "docs", "9"), 1, "version list"),
    (("rollout", "start", "docs", "1", "-o", "speed=3"), 1, "speed"),
    (("rollout", "rollback", "docs"), 1, "no version to go back to"),
    (("rollout", "run", "docs"), 1, "embver rollout start docs"),
    (("rollout", "pause", "docs"), 1, "no rollout"),
    (("route", "set", "docs", "fused"), 1, "embver rollout start docs"),
    (("route", "set", "docs", "sideways"), 1, "cannot have mode"),
    (("requeue", "docs", "1", "--only", "some"), 1, "failed, missing"),
    (("golden", "import", "docs", "/nowhere.tsv"), 1, "/nowhere.tsv"),
    (("golden", "check", "docs"), 1, "embver golden import docs"),
    (("evaluate", "docs"), 1, "embver golden import docs"),
    (("search", "docs", "x", "-k", "0"), 1, "k"),
    (("search", "docs", "x", "--version", "9"), 1, "version list"),
]


def test_bad_input_has_a_clear_error_and_the_right_code(filled: Here) -> None:
    for arguments, code, words in BAD:
        found = filled(*arguments, code=code)
        assert words in found.err, (arguments, found.err)
        assert not found.out or arguments == ("rollout",), (arguments, found.out)
        if words:
            assert json.loads(filled("--json", *arguments, code=code).err)["error"]["message"]


def test_bad_databases(installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    for url, code, words in [
        ("http://example", 1, "malformed"),
        ("postgresql://[", 1, "malformed"),
        ("postgresql://nobody@127.0.0.1:1/nowhere", 1, "--database-url"),
        (f"{installed.owner.partition('?')[0]}x?{installed.owner.partition('?')[2]}", 1, "exist"),
    ]:
        for arguments in [("status",), ("init",), ("upgrade",), ("worker", "--concurrency", "2")]:
            assert words in Here(url, capsys)(*arguments, code=code).err, (url, arguments)


def test_a_database_without_pgvector_or_embver(capsys: pytest.CaptureFixture[str]) -> None:
    server = servers.server()
    servers.create_roles(server)
    name = f"bare_{uuid4().hex[:8]}"
    with psycopg.connect(server.admin_url, autocommit=True) as admin:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER embver_owner")
        admin.execute(create.format(sql.Identifier(name)))
    try:
        bare = Here(server.url(name, "embver_owner"), capsys)
        assert "CREATE EXTENSION vector" in bare("init", code=4).err
        for arguments in [("status",), ("upgrade",), ("upgrade", "--sql"), ("worker", "--drain")]:
            assert "embver init" in bare(*arguments, code=4).err, arguments
        with psycopg.connect(server.url(name), autocommit=True) as admin:
            admin.execute("CREATE EXTENSION vector")
        assert bare("init", "--json").json()["revision"]
        with psycopg.connect(server.url(name), autocommit=True) as admin:
            admin.execute("UPDATE embver_internal.alembic_version SET version_num = '9999'")
        for arguments in [("status",), ("upgrade",), ("init",)]:
            assert "pip install --upgrade embver-pg" in bare(*arguments, code=4).err, arguments
    finally:
        servers.drop_database(server, name)


@pytest.fixture
def home() -> Iterator[Path]:
    """A data directory that the embedded server's account can enter."""
    if servers.server().kind != "embedded":
        pytest.skip("the embedded server is not installed")
    found = Path(tempfile.mkdtemp(prefix="embver-cli-", dir=servers.temp_dirs()[0]))
    found.chmod(0o755)
    yield found
    embedded.stop(found / "postgresql")
    shutil.rmtree(found, ignore_errors=True)


def test_the_embedded_server(home: Path) -> None:
    embver = Cli(None, EMBVER_DATA_HOME=str(home))
    assert "embver db start" in embver("db", "url", code=1).err
    found = embver("init", "--json").json()
    assert found["embedded"]
    assert found["stores"] == 0
    url = embver("db", "url").out.strip()
    assert embver("db", "start", "--json").json() == {"url": url}
    assert "No collection yet" in Cli(url)("status").out
    assert embver("--json", "db", "stop").json() == {"stopped": True}
    assert embver("--json", "db", "stop").json() == {"stopped": False}


def test_watch_refreshes_until_it_is_interrupted(filled: Here) -> None:
    process = Cli(filled.url).start("status", "--watch", "--interval", "0.1")
    assert process.stdout is not None
    seen = 0
    while seen < 2:
        seen += "last events" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")


def loaded_by(*arguments: str, url: str | None = None) -> set[str]:
    """Top-level modules that a command imports."""
    program = (
        "import sys\nfrom embver_pg.cli import main\n"
        f"code = main({list(arguments)!r})\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
        "sys.exit(code)"
    )
    environment = Cli(url).environment
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        text=True,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    return set(done.stderr.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "scipy", "sqlalchemy", "alembic", "numpy", "psycopg", "sentence_transformers"}
    assert not heavy & loaded_by("rollout", "start", "--help")


def test_a_worker_imports_no_model_it_does_not_need(filled: Here) -> None:
    heavy = {"torch", "scipy", "sentence_transformers", "model2vec", "openai"}
    assert not heavy & loaded_by("worker", "--drain", url=filled.url)
