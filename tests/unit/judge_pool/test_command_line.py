"""`python -m faithful_rl.judges`: what a user is told, and the exit codes. No Ray is started."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from faithful_rl.judge_pool import pool, scoring
from faithful_rl.judge_pool.messages import Description, Health, State
from faithful_rl.judge_pool.pool import PoolError, PoolStatus, Stopped
from faithful_rl.judges.__main__ import main
from faithful_rl.types import Reason, Score


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """One serving pool, `lab`, whose consistency judge gives `verdict`."""
    found = SimpleNamespace(verdict=Score(1.0), connected=[], served=[], stopped=[])
    description = Description(
        {"consistency": {"backend": "fake"}}, {"consistency": ["lab-consistency-0"]}, True, "2026-01-01T00:00:00+00:00"
    )
    status = PoolStatus("lab", description, [Health("lab-consistency-0", State.READY, version="0123456789abcdef")])

    class Client:
        versions: frozenset[str] = frozenset()

        def __init__(self, name: str, judge: str, *_: Any) -> None:
            self.judge, self.asked = judge, 0

        async def ask(self, _: Any) -> Any:
            self.asked += 1
            return found.verdict if self.judge == "consistency" else Score(None, Reason.JUDGE_UNAVAILABLE)

        def counts(self) -> dict[str, int]:
            end = "scored" if self.judge == "consistency" and found.verdict.scored else "judge_unavailable"
            return {"asked": self.asked, end: self.asked}

    def stop(name: str, seconds: float = 30.0) -> Stopped:
        found.stopped.append((name, seconds))
        return Stopped(name, {"lab-consistency-0": 2, "lab-grounding-0": -1})

    monkeypatch.setattr(scoring, "PoolClient", Client)
    monkeypatch.setattr(pool, "connect", found.connected.append)
    monkeypatch.setattr(pool, "pools", lambda: ["lab"])
    monkeypatch.setattr(pool, "status", lambda name: status)
    monkeypatch.setattr(pool, "stop", stop)
    monkeypatch.setattr(pool, "serve", lambda typed, say: (found.served.append(typed), status)[1])
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serv"], "invalid choice: 'serv'"),
        (["serve"], "found 0 config= words, expected config=FILE once"),
        (["serve", "config=a", "config=b"], "found 2 config= words"),
        (["serve", "config=/no/such.yaml"], "found no file /no/such.yaml"),
        (["status", "nam=lab"], "found 'nam=lab', expected key=value with one of name"),
        (["status", "--foreground"], "expected the command serve"),
        (["--address", "local", "status"], "expected a running cluster, which outlives this command"),
        (["stop", "drain=soon"], "drain: found 'soon', expected seconds >= 0"),
        (["score"], "found no data="),
        (["score", "data=/no/such.jsonl"], "found no file /no/such.jsonl"),
        (["score", "data={rows}", "ask_masked=yes"], "ask_masked: found 'yes', expected true or false"),
        (["score", "data={rows}", "timeout=0"], "timeout: found '0'"),
        (["score", "data={rows}", "out={folder}"], "which cannot be written (it is a directory)"),
        (["--json", "calibrate"], "expected calibrate as the first word"),
    ],
)
def test_mistakes_end_with_a_cure_and_before_a_cluster_is_joined(
    cluster: SimpleNamespace, rows: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main([word.format(rows=rows, folder=rows.parent) for word in words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert "Traceback" not in told
    assert cluster.connected == []


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    text = "<think>The red circle is left of the blue square.</think><answer>A</answer>"
    file = tmp_path / "rollouts.jsonl"
    file.write_text(json.dumps({"uid": "a", "options": ["left", "right"], "ground_truth": "A", "response": text}) + "\n")
    return file


def test_score_writes_beside_its_data(cluster: SimpleNamespace, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", f"data={rows}", "pool=lab", "--address", "10.0.0.1:6379"]) == 0
    assert cluster.connected == ["10.0.0.1:6379"]
    assert "1 rollouts in" in capsys.readouterr().out
    (written,) = [json.loads(line) for line in Path(f"{rows}.scored.jsonl").read_text().splitlines()]
    assert (written["uid"], written["consistency"], written["semantic_grounding_scored"]) == ("a", 1.0, 0.0)


def test_score_without_a_single_verdict_fails_and_keeps_what_it_has(
    cluster: SimpleNamespace, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.verdict = Score(None, Reason.JUDGE_UNAVAILABLE)
    assert main(["score", f"data={rows}", "pool=lab"]) == 1
    assert "error: the consistency judge gave no verdict on any of 1 rollouts (judge_unavailable 1)" in capsys.readouterr().err
    assert Path(f"{rows}.scored.jsonl").is_file()


def test_serve_status_and_stop(cluster: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "pool.yaml"
    config.write_text("name: lab\nconsistency: {backend: fake}\n")
    assert main(["serve", f"config={config}", "consistency.replicas=2"]) == 0
    assert cluster.served[0].judges["consistency"].replicas == 2
    assert "end it: python -m faithful_rl.judges stop name=lab" in " ".join(capsys.readouterr().out.split())
    assert main(["status", "--json"]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["name"], status["replicas"][0]["state"]) == ("lab", "ready")
    assert main(["stop", "name=lab", "drain=1.5"]) == 0
    assert cluster.stopped == [("lab", 1.5)]
    assert capsys.readouterr().out == "Stopped pool lab. Rollouts given up: 2.\nEnded without an answer: lab-grounding-0.\n"


def test_a_pool_that_fails_is_exit_code_1(
    cluster: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, seconds: float = 30.0) -> Stopped:
        raise PoolError("actors of pool 'lab' are still there")

    monkeypatch.setattr(pool, "stop", fail)
    assert main(["stop", "name=lab"]) == 1
    assert capsys.readouterr().err == "error: actors of pool 'lab' are still there\n"
