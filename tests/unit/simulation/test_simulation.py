"""The toy policy: known rest points, the same traces for the same seed, and what the command prints and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from faithful_rl.constraints import ConstrainedProblem, Constraint
from faithful_rl.constraints.statistics import applicability
from faithful_rl.simulation.command import main
from faithful_rl.simulation.policy import ToyPolicy, ToySettings
from faithful_rl.simulation.traces import simulate, summarise

CONSISTENCY = Constraint("consistency", 0.9, "accuracy")
SHORT = Constraint("response_tokens", 100.0, "none", "at_most")


def problem(threshold: float = 0.9, **multiplier: float | str) -> ConstrainedProblem:
    settings = {"kind": "dual_ascent", "min_applicable": 1, **multiplier}
    return ConstrainedProblem.from_settings({"consistency": {"threshold": threshold, "mask": "accuracy", "multiplier": settings}})


def test_a_multiplier_equal_to_the_drift_holds_a_signal_where_it_is() -> None:
    policy = ToyPolicy([CONSISTENCY], ToySettings(drift=0.7, start=0.8), seed=0)
    for _ in range(50):
        policy.learn({"consistency": 0.7})
    assert policy.rates()["consistency"] == pytest.approx(0.8)


def test_without_a_multiplier_a_signal_erodes_and_accuracy_rises() -> None:
    policy = ToyPolicy([CONSISTENCY, SHORT], ToySettings(), seed=0)
    before = policy.rates()
    for _ in range(80):
        policy.learn({"consistency": 0.0, "response_tokens": 0.0})
    after = policy.rates()
    assert after["consistency"] < before["consistency"]
    assert after["response_tokens"] > before["response_tokens"]
    assert after["accuracy"] > before["accuracy"]


def test_a_large_multiplier_pulls_each_signal_to_its_side() -> None:
    policy = ToyPolicy([CONSISTENCY, SHORT], ToySettings(), seed=0)
    assert policy.rates()["response_tokens"] == pytest.approx(120.0)
    for _ in range(100):
        policy.learn({"consistency": 3.0, "response_tokens": 3.0})
    assert policy.rates()["consistency"] > 0.95
    assert policy.rates()["response_tokens"] < 100.0


def test_rollouts_have_the_columns_that_the_trainer_reads() -> None:
    columns = ToyPolicy([CONSISTENCY, SHORT], ToySettings(rollouts=4000, failures=0.2, ceiling=0.9), seed=1).rollouts()
    applies = applicability(columns, CONSISTENCY)
    assert applies.coverage == pytest.approx(0.8, abs=0.03)
    assert columns["consistency"].mean() == pytest.approx(0.9 * 0.75, abs=0.03)
    assert np.exp(np.log(columns["response_tokens"]).mean()) == pytest.approx(120.0, rel=0.03)


def test_the_same_seed_gives_the_same_traces() -> None:
    first, second, other = (simulate(problem(), ToySettings(), 30, seed)["consistency"] for seed in (3, 3, 4))
    assert first.score.tolist() == second.score.tolist()
    assert first.score.tolist() != other.score.tolist()


def test_dual_ascent_holds_a_threshold_that_can_be_reached() -> None:
    summary = summarise(simulate(problem(step_size=0.1), ToySettings(rollouts=400), 400, 0)["consistency"], 5.0)
    assert summary.held > 0.8
    assert summary.first_held is not None
    assert summary.verdict in ("holds", "hovers")


def test_a_threshold_above_the_judges_ceiling_ends_at_the_maximum_and_is_told() -> None:
    own = problem(0.95, step_size=0.5, maximum=2.0)
    own.set_ceilings({"consistency": 0.9})
    trace = simulate(own, ToySettings(ceiling=0.9), 300, 0)["consistency"]
    assert summarise(trace, 2.0).verdict == "out of reach"
    assert "a perfect policy scores 0.900" in trace.messages[0]


@pytest.mark.parametrize("name", ["rate", "lag", "start", "accuracy", "rollouts", "ceiling", "failures"])
def test_a_toy_out_of_its_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.{name}"):
        ToySettings(**{name: -1})


def test_the_command_writes_traces_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "constraints=fixed", "steps=20", f"out={tmp_path}", "model.rollouts=16"]
    assert main([*words, "faithful_rl.constraints.consistency.threshold=0.8"]) == 0
    printed = capsys.readouterr().out
    assert "consistency" in printed
    assert "0.8" in printed
    assert (tmp_path / "traces.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "traces.svg").read_text()
    content = json.loads((tmp_path / "traces.json").read_text())
    assert content["traces"]["consistency"]["multiplier"] == [1.0] * 20
    assert content["model"]["rollouts"] == 16


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("constraints=all", "constraints: found 'all', expected one of consistency, fgrpo, fixed, pid"),
        ("stepz=5", "stepz: found an unknown key"),
        ("steps=1", "steps: found '1', expected a whole number >= 2"),
        ("model.speed=1", "model.speed: found an unknown key"),
        ("model.rate=fast", "model.rate: found 'fast', expected a number"),
        ("model.lag=2", "model.lag must lie in"),
        ("faithful_rl.constraints.consistency.tau=1", "faithful_rl.constraints.consistency.tau"),
        ("faithful_rl.constraints.consistency.threshold=3", "faithful_rl.constraints.consistency.threshold: found 3"),
        ("faster", "expected key=value"),
        ("out=/dev/null/traces", "out: found /dev/null/traces, which cannot be made (Not a directory), expected a writable directory."),
    ],
)
def test_bad_words_get_one_message_and_exit_code_two(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", word]) == 2
    assert message in capsys.readouterr().err
