"""What the schedules share: a server of their own, the network, the endpoint, databases to copy."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from embver_pg.client import Embver
from embver_pg.db import Database, open_connection
from tests import servers
from tests.chaos.network import Network
from tests.chaos.nursery import Nursery
from tests.conftest import install
from tests.fake_endpoint import FakeEndpoint
from tests.waiting import until

DIMENSIONS = {1: 16, 2: 24, 3: 32}  # of each version: vectors of two spaces cannot be confused
DOCUMENTS = 60
# Writes that take long, such as those into an index: armed by the table `slow`. A straggler's
# writes wait for whoever holds the advisory lock.
STRAGGLER = 1_414_000  # the advisory lock that holds its writes
_SLOW = f"""
CREATE TABLE slow (seconds float8 NOT NULL, who text);
INSERT INTO slow VALUES (0, NULL);
CREATE FUNCTION slow_write() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
BEGIN
    IF current_setting('application_name') = 'straggler' THEN
        PERFORM pg_advisory_xact_lock_shared({STRAGGLER});
    END IF;
    PERFORM pg_sleep(s.seconds * (1 - random() / 2)) FROM public.slow AS s
    WHERE s.seconds > 0 AND current_setting('application_name') LIKE coalesce(s.who, '%');
    RETURN NEW;
END $$;
"""


@dataclass(frozen=True)
class World:
    """The machines of a schedule, kept from one to the next.

    Attributes:
        server: A PostgreSQL server that nobody else uses.
        network: Between workers and server.
        endpoint: The embeddings API.
        nursery: Forks workers.
        directory: For the workers' logs.
    """

    server: servers.Server
    network: Network
    endpoint: FakeEndpoint
    nursery: Nursery
    directory: Path

    def through_network(self, database: str, role: str) -> str:
        """The URL of a database as workers use it."""
        return (
            f"postgresql://{role}@127.0.0.1:{self.network.port}/{database}"
            "?sslmode=disable&gssencmode=disable&application_name=chaos-worker"
        )

    def new_database(self, stage: str) -> str:
        """A copy of a template; its name.

        Args:
            stage: ``active``: version 1 serves, 2 and 3 are created; ``ready``: 2 is ready too.
        """
        template = servers.build_template(
            self.server, f"chaos_{stage}", lambda url: self._build(url, stage)
        )
        admin = servers.clone_database(self.server, template, owner="embver_owner")
        return urlsplit(admin).path.removeprefix("/")

    def stop_server(self, number: signal.Signals) -> None:
        """SIGQUIT: PostgreSQL's immediate stop; SIGKILL: no stop at all."""
        assert self.server.data_dir is not None
        pid = int((self.server.data_dir / "postmaster.pid").read_text().split()[0])
        os.kill(pid, number)
        until(lambda: state_of(pid) in ("", "Z"), "the server is down")

    def _build(self, admin_url: str, stage: str) -> None:
        install(self.server, admin_url)
        url = self.server.url(urlsplit(admin_url).path.removeprefix("/"), "embver_owner")
        with open_connection(url) as connection, Embver(Database(url)) as embver:
            connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, seen int)")
            connection.execute(
                "INSERT INTO docs SELECT i, 'document ' || md5(i::text), 0"
                " FROM generate_series(1, %s) AS i",
                (DOCUMENTS,),
            )
            connection.execute("GRANT SELECT ON docs TO embver_r")
            docs = embver.create_collection("docs", "public.docs", "body")
            for version, dimensions in DIMENSIONS.items():
                docs.add_version(
                    "openai:fake",
                    base_url=self.endpoint.base_url,
                    dimensions=dimensions,
                    alias=f"fake-{dimensions}",
                    timeout=1.0,
                    max_attempts=1 + version % 2,
                    max_wait=0.2,
                    index={"type": "none" if version == 3 else "hnsw"},
                )
            connection.execute(_SLOW)
            for version in DIMENSIONS:
                connection.execute(
                    sql.SQL(
                        "CREATE TRIGGER slow_write BEFORE INSERT OR UPDATE ON {} FOR EACH ROW"
                        " EXECUTE FUNCTION public.slow_write()"
                    ).format(sql.Identifier(f"embver_docs_v{version}", "embedding"))
                )
            docs.start_rollout(1)
            embver.drain()
            docs.promote()
            if stage == "ready":
                docs.start_rollout(2)
                embver.drain()


@contextmanager
def new_world(directory: Path) -> Iterator[World]:
    """A world until the end of the block."""
    with servers.private_server() as server:
        host = conninfo_to_dict(server.admin_url)
        path = f"{host['host']}/.s.PGSQL.{host['port']}"
        with Network(path) as network, FakeEndpoint() as endpoint, Nursery() as nursery:
            yield World(server, network, endpoint, nursery, directory)


def state_of(pid: int) -> str:
    """The state letter of a process, such as T for stopped; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return ""


def wait_a_moment(seconds: float) -> None:
    """A part of a schedule's timetable, not a wait for something."""
    time.sleep(seconds)
