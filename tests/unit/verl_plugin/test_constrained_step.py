"""One step of the algorithm on plain arrays: which multipliers are used, when they move, what a broken batch does."""

import math

import numpy as np
import pytest

from faithful_rl.advantage import AdvantageSettings
from faithful_rl.constraints import ConstrainedProblem, Schedule
from faithful_rl.rewards.suite import COLUMNS
from faithful_rl.verl_plugin.constrained_step import constrained_step, merge_updates, plain_numbers
from faithful_rl.verl_plugin.reward_columns import RewardBatch, read_batch

SETTINGS = {"threshold": 0.95, "mask": "accuracy", "multiplier": {"kind": "dual_ascent", "start": 1.0, "step_size": 0.1, "maximum": 5.0}}


def problem(min_applicable: int = 1) -> ConstrainedProblem:
    multiplier = {**SETTINGS["multiplier"], "min_applicable": min_applicable}
    return ConstrainedProblem.from_settings({"consistency": {**SETTINGS, "multiplier": multiplier}})


def batch(task: list[float], consistency: list[float], uids: str = "aabb") -> RewardBatch:
    extra = [
        {
            "reward_extra_info": {
                **dict.fromkeys(COLUMNS, 0.0),
                "task": t,
                "task_scored": 1.0,
                "accuracy": 1.0,
                "accuracy_scored": 1.0,
                "consistency": c,
                "consistency_scored": 1.0,
            }
        }
        for t, c in zip(task, consistency, strict=True)
    ]
    return read_batch([f"{uid}_{number}_0" for number, uid in enumerate(uids)], [{}] * len(task), extra)


def test_advantages_use_the_multipliers_before_the_dual_step() -> None:
    # Both groups have consistency 1, 0: A_k = +-1/sqrt(2) after (n - 1) normalisation; task is flat, so the sum is 1.0 * A_k.
    result = constrained_step(batch([1, 1, 1, 1], [1, 0, 1, 0]), problem(), AdvantageSettings(whitening="none", epsilon=0.0))
    assert result.advantages == pytest.approx(np.array([1, -1, 1, -1]) / math.sqrt(2))
    assert result.metrics["constraint/consistency/multiplier"] == 1.0
    assert result.metrics["constraint/consistency/score"] == 0.5
    assert result.metrics["constraint/consistency/multiplier_next"] == pytest.approx(1.0 + 0.1 * 0.45)
    assert not result.rejected


def test_a_frozen_multiplier_says_why() -> None:
    result = constrained_step(batch([1, 0, 1, 0], [1, 0, 1, 0]), problem(min_applicable=5), AdvantageSettings())
    assert result.frozen == {"consistency": "too_few_applicable"}
    assert result.metrics["constraint/consistency/frozen"] == 1.0
    assert result.metrics["constraint/consistency/multiplier_next"] == 1.0


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["task", "consistency"])
def test_a_broken_column_rejects_the_step_and_moves_no_multiplier(column: str, poison: float) -> None:
    broken = batch([1, 0, 1, 0], [1, 0, 1, 0])
    broken.columns[column][2] = poison
    own = problem()
    result = constrained_step(broken, own, AdvantageSettings())
    assert column in result.rejected
    assert result.advantages.tolist() == [0.0] * 4
    assert own.multipliers == {"consistency": 1.0}
    assert result.metrics["constraint/consistency/multiplier"] == 1.0


def test_no_constraint_is_the_task_reward_alone() -> None:
    result = constrained_step(
        batch([1, 0, 1, 0], [1, 0, 1, 0]), ConstrainedProblem([], {}), AdvantageSettings(whitening="none", epsilon=0.0)
    )
    assert result.advantages == pytest.approx(np.array([1, -1, 1, -1]) / math.sqrt(2))
    assert not [name for name in result.metrics if name.startswith("constraint/")]


def test_several_updates_of_a_step_average_signals_and_keep_the_last_multiplier() -> None:
    merged = merge_updates([{"train/task": 1.0, "constraint/c/multiplier": 1.0}, {"train/task": 0.0, "constraint/c/multiplier": 1.2}])
    assert merged == {"train/task": 0.5, "constraint/c/multiplier": 1.2}


def test_only_single_numbers_are_written() -> None:
    assert plain_numbers({"a": np.float32(1.0), "b": [1, 2], "c": {"x": 1}, "d": "text", "e": 2}) == {"a": 1.0, "e": 2.0}


def test_a_weighted_advantage_follows_the_step_and_logs_its_weights() -> None:
    warm = {"task": Schedule(), "consistency": Schedule("linear", 0.0, 1.0, steps=4)}
    settings = AdvantageSettings(kind="hras", weights=warm, whitening="none", epsilon=0.0)
    result = constrained_step(batch([1, 1, 1, 1], [1, 0, 1, 0]), ConstrainedProblem([], {}), settings, step=2)
    assert result.advantages == pytest.approx(0.5 * np.array([1, -1, 1, -1]) / math.sqrt(2))
    assert (result.metrics["advantage/consistency_weight"], result.metrics["advantage/task_weight"]) == (0.5, 1.0)


def test_a_coupled_reward_is_logged_over_the_rollouts_for_which_it_is_known() -> None:
    rollouts = batch([1, 1, 1, 1], [1, 0, 1, 0])
    for name in ("format", "spatial_grounding"):
        rollouts.columns[name][:] = 1.0
        rollouts.columns[f"{name}_scored"][:] = 1.0
    rollouts.columns["consistency_scored"][3] = 0.0
    rollouts.columns["consistency_reason"][3] = 4.0
    result = constrained_step(rollouts, ConstrainedProblem([], {}), AdvantageSettings(kind="multiplicative"))
    assert result.metrics["train/coupled"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert result.metrics["train/coupled_scored"] == 0.75
    assert result.advantages[3] == pytest.approx(result.advantages[2])  # alone in its group: neither is compared with anything


def test_the_tokens_of_a_response_can_be_constrained_by_source() -> None:
    extra = [{"reward_extra_info": {**dict.fromkeys(COLUMNS, 0.0), "task_scored": 1.0}} for _ in range(4)]
    rollouts = read_batch(["a_0_0", "a_1_0", "b_0_0", "b_1_0"], [{"response_len": n} for n in (10, 20, 30, 40)], extra)
    demand = {"threshold": 20.0, "mask": "none", "direction": "at_most", "by_source": {"sat": 30.0}, "multiplier": {"kind": "dual_ascent"}}
    own = ConstrainedProblem.from_settings({"response_tokens": {**demand, "multiplier": {**SETTINGS["multiplier"], "min_applicable": 1}}})
    assert own.needs_sources
    result = constrained_step(rollouts, own, AdvantageSettings(), step=1, sources=["vgr", "vgr", "sat", "sat"])
    assert result.metrics["constraint/response_tokens/score"] == 25.0
    assert result.metrics["constraint/response_tokens/threshold"] == 25.0
    assert result.advantages[0] > 0 > result.advantages[1]
    assert "by source" in constrained_step(rollouts, own, AdvantageSettings(), step=2).rejected


def test_what_the_user_should_be_told_comes_with_the_step() -> None:
    node = {"consistency": {**SETTINGS, "multiplier": {**SETTINGS["multiplier"], "start": 5.0, "min_applicable": 1}}}
    own = ConstrainedProblem.from_settings(node, patience=2)
    results = [constrained_step(batch([1, 0, 1, 0], [0, 0, 0, 0]), own, AdvantageSettings(), step) for step in (1, 2, 3)]
    assert [len(result.messages) for result in results] == [0, 1, 0]
    assert "looks infeasible" in results[1].messages[0]
    assert [result.metrics["constraint/consistency/infeasible"] for result in results] == [0.0, 1.0, 1.0]
