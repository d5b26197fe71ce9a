"""A worker's memory does not grow with the collection."""

from __future__ import annotations

import psycopg
import pytest

from embver_pg.db import Row
from tests.chaos.conftest import begin, make_docs
from tests.chaos.processes import worker_process
from tests.conftest import Installed, new_database
from tests.servers import drop_database, server

_ALLOWED = 40 * 1024  # KiB


@pytest.mark.slow
def test_peak_memory_is_flat() -> None:
    peaks = {count: peak_kib(count) for count in (2_000, 20_000)}
    assert peaks[20_000] - peaks[2_000] < _ALLOWED, peaks


def peak_kib(count: int) -> int:
    """The peak resident size of a worker process that fills a store of so many documents."""
    installed = new_database(server())
    try:
        with installed.connect() as owner:
            return filled(installed, owner, count)
    finally:
        drop_database(server(), installed.admin)


def filled(installed: Installed, owner: psycopg.Connection[Row], count: int) -> int:
    make_docs(owner, count)
    with installed.embver() as embver:
        begin(embver, "hash:64")
    with worker_process(installed.worker, drain=True) as process:
        report = process.finish()
    assert report["written"] == count
    return int(report["peak_kib"])
