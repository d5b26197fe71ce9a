"""Which tests were skipped, over several runs of pytest.

As a plugin (``-p tests.ci_summary``) it writes a file a run into ``EMBVER_TEST_REPORTS``; as a
program it prints what those files say, and fails where a test marked ``data`` was skipped while
``EMBVER_DATA_DIR`` exists, or where no test ran.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

_DATA = ("marked", "data")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("data"):
            item.user_properties.append(_DATA)


class _Recorder:
    """Writes one line a test, in the controlling process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._write(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._write(report)

    def _write(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = ""
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        marked = [tuple(pair) for pair in getattr(report, "user_properties", [])]
        line = {
            "test": report.nodeid,
            "outcome": report.outcome,
            "reason": reason,
            # A module that skips itself has no markers yet: its reason names the variable.
            "data": _DATA in marked or "EMBVER_DATA_DIR" in reason,
        }
        with self.path.open("a") as handle:
            handle.write(json.dumps(line) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    directory = os.environ.get("EMBVER_TEST_REPORTS")
    if directory and not hasattr(config, "workerinput"):
        version = os.environ.get("EMBVER_TEST_PG_VERSION", "18")
        path = Path(directory) / f"postgresql-{version}-{os.getpid()}.jsonl"
        config.pluginmanager.register(_Recorder(path), "embver-ci-recorder")


def main(directory: Path) -> int:
    """Print the summary of a directory of reports.

    Returns:
        The exit code: 1 where data tests were skipped with data there, or nothing ran.
    """
    wrong = []
    data_dir = Path(os.environ.get("EMBVER_DATA_DIR", "../shared/data"))
    for path in sorted(directory.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        counts = Counter(row["outcome"] for row in rows)
        print(f"{path.stem.rpartition('-')[0]}: " + (_counted(counts) or "no test ran"))
        for row in rows:
            if row["outcome"] == "skipped":
                print(f"  skipped {row['test']}: {row['reason']}")
                if row["data"] and data_dir.is_dir():
                    wrong.append(row["test"])
        if not counts["skipped"]:
            print("  skipped: none")
        if not counts["passed"]:
            wrong.append(f"{path.stem}: no test passed")
    if not any(directory.glob("*.jsonl")):
        wrong.append("no run of pytest left a report")
    for what in wrong:
        print(f"WRONG {what}" + (f" (skipped, though {data_dir} is there)" if "::" in what else ""))
    return 1 if wrong else 0


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "skipped"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
