"""Costs of an evaluation: clocks and counters of each start, and their sums by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.evaluation import costs
from faithful_rl.evaluation.costs import Ledger
from faithful_rl.evaluation.present import cost_line

ASKED = {"requests": 4, "calls": 3, "prompt_tokens": 90, "completion_tokens": 6, "cache_hits": 1}
NOBODY = {"requests": 0, "calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cache_hits": 0}
POOL = {"requests": 5, "calls": None, "prompt_tokens": None, "completion_tokens": None, "cache_hits": None}


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Moments that the clock shows, one a look."""
    moments: list[float] = []
    monkeypatch.setattr(costs, "time", SimpleNamespace(monotonic=lambda: moments.pop(0)))
    return moments


def test_two_starts_are_added_up(tmp_path: Path, tick: list[float]) -> None:
    tick += [0.0, 10.0, 40.0, 50.0, 60.0, 62.5]  # served for 50 s, asked for 30 of them, judged for 2.5
    first = Ledger(tmp_path)
    with first.clock("serving_seconds"), first.clock("generation_seconds"):
        pass
    with first.clock("judge_seconds"):
        pass
    first.keep(8.0, {"consistency": ASKED, "grounding": NOBODY})
    tick += [0.0, 1.0]
    second = Ledger(tmp_path)
    with second.clock("judge_seconds"):
        pass
    second.keep(None, {"consistency": ASKED})
    lines = [{"prompt_tokens": 10, "response_tokens": 2}, {"prompt_tokens": 11, "response_tokens": 3}, {"failure": "no answer"}]
    assert second.totals(lines) == {
        "starts": 2, "serving_seconds": 50.0, "generation_seconds": 30.0, "judge_seconds": 3.5, "gpu_seconds": 400.0,
        "responses": 2, "prompt_tokens": 21, "response_tokens": 5,
        "judges": {"consistency": {"requests": 8, "calls": 6, "prompt_tokens": 180, "completion_tokens": 12, "cache_hits": 2}},
    }  # fmt: skip
    assert (
        cost_line(second.totals(lines)) == "cost: 30 s of generation, 21 prompt tokens, 5 response tokens; consistency 8 requests, 6 calls"
    )


def test_what_is_not_known_makes_no_sum(tmp_path: Path, tick: list[float]) -> None:
    tick += [0.0, 1.0, 2.0, 4.0]
    ledger = Ledger(tmp_path)
    with ledger.clock("serving_seconds"), ledger.clock("generation_seconds"):
        pass
    ledger.keep(None, {"consistency": POOL})
    found = ledger.totals([{"prompt_tokens": None, "response_tokens": 3}])
    assert (found["serving_seconds"], found["gpu_seconds"], found["prompt_tokens"], found["response_tokens"]) == (4.0, None, None, 3)
    assert found["judges"]["consistency"] == POOL
    assert cost_line(found) == "cost: 1 s of generation, unknown prompt tokens, 3 response tokens; consistency 5 requests, unknown calls"


def test_a_start_that_asked_nothing_leaves_nothing(tmp_path: Path, tick: list[float]) -> None:
    tick += [0.0, 1.0, 2.0, 3.0]
    ledger = Ledger(tmp_path)
    with pytest.raises(RuntimeError), ledger.clock("serving_seconds"):  # servers that did not come up
        raise RuntimeError
    with ledger.clock("judge_seconds"):  # every verdict was kept
        pass
    ledger.keep(None, {"consistency": NOBODY})
    assert list(tmp_path.iterdir()) == []
    assert cost_line(ledger.totals(None)) == "cost: nothing was generated here"


def test_a_damaged_file_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"^out: found .*costs\.json holds a JSON list"):
        Ledger(tmp_path)
    (tmp_path / "costs.json").write_text(json.dumps({"starts": []}))
    assert Ledger(tmp_path).totals(None)["starts"] == 0
