"""The summary at the end of .ci/run tells skipped data tests from other skips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ci_summary

CHECKOUT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest

def test_runs():
    pass

@pytest.mark.skip(reason="no engine")
def test_other():
    pass

@pytest.mark.data
def test_real():
    pytest.skip("no collections")
"""
MODULE = "import pytest\npytest.skip('EMBVER_DATA_DIR is not there', allow_module_level=True)\n"


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("there", [True, False])
def test_a_skipped_data_test_is_wrong_only_where_the_data_are(
    workers: str,
    there: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reports, data_dir = tmp_path / "reports", tmp_path / "data"
    reports.mkdir()
    if there:
        data_dir.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = data\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        "EMBVER_TEST_REPORTS": str(reports),
        "PYTHONPATH": str(CHECKOUT),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.ci_summary", "-n", workers]
    subprocess.run([*command, "."], cwd=tmp_path, env=environment, check=True, capture_output=True)

    monkeypatch.setenv("EMBVER_DATA_DIR", str(data_dir))
    code = ci_summary.main(reports)

    said = capsys.readouterr().out
    assert "1 passed, 0 failed, 3 skipped" in said
    assert "test_some.py::test_other: no engine" in said
    wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
    assert code == (1 if there else 0)
    assert len(wrong) == (2 if there else 0)
    assert all("test_real" in line or "test_module" in line for line in wrong)


def test_no_report_is_wrong(tmp_path: Path) -> None:
    assert ci_summary.main(tmp_path) == 1
