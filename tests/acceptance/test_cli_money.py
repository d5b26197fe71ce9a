"""The command line of money: plan, budget, limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from embver_pg.cli import main
from embver_pg.client import Embver
from tests.conftest import Installed
from tests.fake_endpoint import FakeEndpoint
from tests.sql.support import Connection, run


@pytest.fixture
def cli(installed: Installed, docs: Embver, monkeypatch: pytest.MonkeyPatch) -> Embver:
    monkeypatch.setenv("EMBVER_DATABASE_URL", installed.owner)
    docs.collection("docs").abort_rollout()
    return docs


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["--json", *arguments]) == code
    out, err = capsys.readouterr()
    # The log of the work stands before the error.
    return json.loads(out if code == 0 else err[err.index("{\n") :])


def test_plan(cli: Embver, owner: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        owner,
        "INSERT INTO docs SELECT i, 't', repeat('b ', 1 + i % 2) FROM generate_series(4, 500) i",
    )
    found = answer(capsys, "rollout", "plan", "docs", "hash:16", "--price", "3", "--sample", "50")
    assert (found["documents"], found["documents_are_exact"], found["sampled"]) == (500, True, 50)
    assert 1000 < found["tokens"]["low"] < found["tokens"]["high"] < 1500
    assert found["price"]["value"] == pytest.approx(found["tokens"]["value"] * 3 / 1e6)
    assert found["seconds"]["value"] > 0
    by_number = answer(capsys, "rollout", "plan", "docs", "1", "--no-encode")
    assert (by_number["version"], by_number["seconds"], by_number["dimensions"]) == (1, None, 8)
    half = answer(capsys, "rollout", "plan", "docs", "hash:16", "--element-type", "halfvec")
    assert "halfvec version is not in them" in half["notes"][0]
    assert main(["rollout", "plan", "docs", "hash:16", "--price", "3"]) == 0
    shown, noted = capsys.readouterr()
    for part in ("documents", "tokens", "price", "time", "table", "index", "measured"):
        assert part in shown
    assert "embver version add docs hash:16" in noted
    assert answer(capsys, "rollout", "plan", "docs", "9", code=1)["error"]["code"] == "VM002"
    assert answer(capsys, "rollout", "plan", "other", "hash:8", code=1)["error"]["code"] == "VM001"


def test_budget(cli: Embver, owner: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "rollout", "start", "docs", "1", "-o", 'budget={"requests": 1}')
    # A drain ends as at any pause; a run of this rollout says that it is not done, and why.
    ended = answer(capsys, "rollout", "run", "docs", "--batch", "1", code=1)
    assert ended["error"]["code"] == "VM021"
    assert "budget reached: 1 of 1 requests" in ended["error"]["message"]
    assert "budget reached" in answer(capsys, "rollout", "status", "docs")["blocked_by"][0]
    refused = answer(capsys, "rollout", "resume", "docs", code=1)["error"]
    assert (refused["code"], refused["class"]) == ("VM021", "BudgetExceeded")
    assert refused["hint"].startswith("embver rollout budget docs --requests")
    assert main(["rollout", "budget", "docs"]) == 0
    assert "1 of 1 requests" in capsys.readouterr().out
    raised = answer(capsys, "rollout", "budget", "docs", "--requests", "10")
    assert raised["rollout"]["budget"] == {"requests": 10}
    answer(capsys, "rollout", "resume", "docs")
    assert answer(capsys, "rollout", "run", "docs")["state"] == "ready"
    wrong = answer(capsys, "rollout", "budget", "docs", "--cost", "1", code=1)["error"]
    assert wrong["code"] == "VM006"
    assert "price" in wrong["message"]
    answer(capsys, "rollout", "budget", "docs", "--cost", "1", "--price", "2")
    answer(capsys, "rollout", "abort", "docs")
    for bad in ("[]", '{"token": 1}', '{"tokens": -1}', '{"tokens": "1"}', '{"requests": 1.5}'):
        error = answer(capsys, "rollout", "start", "docs", "1", "-o", f"budget={bad}", code=1)[
            "error"
        ]
        assert error["code"] == "VM006", bad
    assert answer(capsys, "rollout", "budget", "docs", "--tokens", "1", code=1)["error"][
        "code"
    ] == ("VM010")


def test_limits(cli: Embver, owner: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "limits") == []
    (row,) = answer(capsys, "limits", "hash:8", "--requests-per-minute", "60")
    assert (row["encoder"], row["requests_per_minute"]) == ("hash:8", 60)
    (row,) = answer(capsys, "limits", "hash:8", "--concurrency", "2")
    assert (row["requests_per_minute"], row["concurrency"]) == (None, 2)
    assert answer(capsys, "limits") == [row]
    unknown = answer(capsys, "limits", "hash:9", "--concurrency", "2", code=1)["error"]
    assert unknown["detail"]["encoders"] == ["hash:8"]
    assert main(["limits", "--concurrency", "2"]) == 2
    assert main(["limits", "hash:8", "--concurrency", "2", "--none"]) == 2
    assert answer(capsys, "limits", "hash:8", "--none") == []
    with FakeEndpoint(dimensions=8) as one, FakeEndpoint(dimensions=8) as other:
        for number, endpoint in ((2, one), (3, other)):
            cli.collection("docs").add_version(
                "openai:model", base_url=endpoint.base_url, dimensions=8, alias="model"
            )
            assert cli.collection("docs").version(number)
    which = answer(capsys, "limits", "openai:model", "--concurrency", "2", code=1)["error"]
    assert len(which["detail"]["base_urls"]) == 2
    (row,) = answer(
        capsys,
        "limits",
        "openai:model",
        "--concurrency",
        "2",
        "--base-url",
        other.base_url,
    )
    assert row["base_url"] == other.base_url
    events = run(owner, "SELECT kind FROM embver.events WHERE kind = 'set_encoder_limits'")
    assert len(events) == 4
