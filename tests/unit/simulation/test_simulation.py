"""The toy policy: known rest points, the same traces for the same seed, and what the command prints and refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faithful_rl.constraints import ConstrainedProblem, Constraint
from faithful_rl.constraints.statistics import applicability
from faithful_rl.simulation.command import main
from faithful_rl.simulation.policy import ToyPolicy, ToySettings
from faithful_rl.simulation.traces import Trace, simulate, summarise

CONSISTENCY = Constraint("consistency", 0.9, "accuracy")
SHORT = Constraint("response_tokens", 100.0, "none", "at_most")


def problem(threshold: float = 0.9, **multiplier: Any) -> ConstrainedProblem:
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
    assert len(trace.messages) == 1
    assert "a perfect policy scores 0.900" in trace.messages[0]


def test_a_threshold_just_above_the_ceiling_is_told_although_batches_are_lucky_now_and_then() -> None:
    own = problem(0.95, step_size=0.5)
    own.set_ceilings({"consistency": 0.93})
    trace = simulate(own, ToySettings(ceiling=0.93), 1000, 0)["consistency"]
    assert (trace.score > 0.95).mean() > 0.2  # in a 20-step window hardly ever none
    assert len(trace.messages) == 1
    assert "a perfect policy scores 0.930: the threshold is out of its reach" in trace.messages[0]


def trace_of(settings: ToySettings, steps: int = 60, **multiplier: Any) -> Trace:
    return simulate(problem(min_applicable=8, **multiplier), settings, steps, 0)["consistency"]


@pytest.mark.parametrize(
    ("settings", "multiplier", "verdict"),
    [
        (ToySettings(failures=0.5), {}, "frozen (coverage)"),
        (ToySettings(rollouts=7), {}, "frozen (too few)"),
        (ToySettings(), {"kind": "fixed"}, "fixed"),
        (ToySettings(), {"kind": "schedule", "schedule": {"start": 2.0}}, "scheduled"),
    ],
)
def test_a_multiplier_that_answers_nothing_is_no_success(settings: ToySettings, multiplier: dict[str, Any], verdict: str) -> None:
    kind = str(multiplier.get("kind", "dual_ascent"))
    assert summarise(trace_of(settings, **multiplier), 5.0, kind).verdict == verdict


def test_what_was_never_measured_neither_holds_nor_counts() -> None:
    node = {"spatial_grounding": {"threshold": 0.65, "mask": "has_reference_boxes", "multiplier": {"kind": "dual_ascent"}}}
    trace = simulate(ConstrainedProblem.from_settings(node), ToySettings(applicable=0.0), 40, 0)["spatial_grounding"]
    summary = summarise(trace, 5.0)
    assert (summary.verdict, summary.first_held) == ("never measured", None)
    assert np.isnan(summary.held)
    assert np.isnan(summary.score)


@pytest.mark.parametrize(
    ("held", "swing", "verdict"), [(1.0, 0.55, "holds"), (1.0, 0.53, "holds"), (0.9, 0.6, "swings"), (0.9, 0.1, "holds")]
)
def test_a_multiplier_may_swing_where_the_constraint_holds_anyway(held: float, swing: float, verdict: str) -> None:
    steps, short = 400, round(100 * (1 - held))  # the last quarter is 100 steps
    rate = np.full(steps, 0.95)
    rate[-100 : -100 + short] = 0.8
    multiplier = np.full(steps, 1.0)
    multiplier[-1] += swing
    trace = Trace(CONSISTENCY, rate, rate, np.full(steps, 0.9), multiplier, (None,) * steps, ())
    assert summarise(trace, 5.0).verdict == verdict


def test_thresholds_by_source_meet_rollouts_of_each_source() -> None:
    node = {"consistency": {"threshold": 0.9, "mask": "none", "by_source": {"vgr": 0.3}, "multiplier": {"kind": "dual_ascent"}}}
    trace = simulate(ConstrainedProblem.from_settings(node), ToySettings(rollouts=10), 3, 0)["consistency"]
    assert trace.threshold.tolist() == pytest.approx([0.6] * 3)  # half of the rollouts are vgr's


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


def test_the_table_fits_eighty_columns_with_whole_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "steps=60", "model.failures=0.5", f"out={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines[:5]) <= 80
    assert "swing" in lines[1]
    assert all(line.rstrip().endswith("frozen (coverage)") for line in lines[2:5])


@pytest.mark.parametrize("plus", ["", "+"])
def test_words_of_the_main_command_are_taken_as_they_are(plus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    length, ours = f"{plus}faithful_rl.constraints.response_tokens", f"{plus}faithful_rl.constraints.semantic_grounding"
    words = [
        f"{length}={{threshold: 60, mask: none, direction: <=}}", "~faithful_rl.constraints.spatial_grounding", f"{ours}.by_source.vgr=0.5",
        f"{ours}.multiplier.kind=schedule", f"{ours}.multiplier.schedule={{kind: linear, start: 0, end: 1, steps: 20}}",
    ]  # fmt: skip
    assert main(["simulate", "steps=20", f"out={tmp_path}", *words]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:5]]
    assert names == ["consistency", "semantic_grounding", "response_tokens"]


def test_constraints_of_a_file_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: [consistency, _self_]\nconstraints:\n  sentence_count: {threshold: 5, mask: none, direction: <=}\n")
    assert main(["simulate", "steps=20", f"out={tmp_path}", f"constraints={path}"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:4]] == ["consistency", "sentence_count"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("constraints=all", "constraints: found 'all', expected one of consistency, fgrpo, fixed, pid, or the path of a file"),
        ("constraints=./all.yaml", "constraints: found all.yaml (No such file or directory)"),
        ("~faithful_rl.constraints.all", "found nothing to leave out"),
        (
            "faithful_rl.constraints.consistency.multiplier.first_step=200",
            "found 200, expected at most 199: an update acts in the step after",
        ),
        (
            "faithful_rl.constraints.consistency.threshold_schedule={kind: linear, start: 0.5, steps: 201}",
            "ends at step 201, expected an end",
        ),
        ("faithful_rl.constraints.consistency.multiplier.min_applicable=81", "the 80 rollouts of a step"),
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
