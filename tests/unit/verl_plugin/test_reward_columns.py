"""Rows of a batch: order, padding, multi-turn rollouts, metrics. Numbers by hand."""

import numpy as np
import pytest

from faithful_rl.rewards.suite import COLUMNS
from faithful_rl.verl_plugin.reward_columns import design_metrics, read_batch, rollout_metrics, scatter, select_rows, split_key

REAL = {"is_padding": False}
PADDING = {"is_padding": True}


def info(**values: float) -> dict[str, dict[str, float]]:
    return {"reward_extra_info": {**dict.fromkeys(COLUMNS, 0.0), **values}}


def test_rows_are_sorted_by_question_and_rollout_whatever_the_order_of_arrival() -> None:
    keys = ["000000000002_1_0", "000000000001_0_0", "000000000002_0_0", "000000000001_1_0"]
    rows, scattered = select_rows(keys, [REAL] * 4)
    assert [keys[row] for row in rows] == ["000000000001_0_0", "000000000001_1_0", "000000000002_0_0", "000000000002_1_0"]
    assert [rows[index] for index in scattered] == [0, 1, 2, 3]


def test_rollout_ten_comes_after_rollout_nine() -> None:
    rows, _ = select_rows(["a_10_0", "a_9_0"], [REAL] * 2)
    assert rows == [1, 0]


def test_padding_enters_nothing_and_gets_zero() -> None:
    keys = ["a_0_0", "pad_0_0", "a_1_0"]
    extra = [info(task=1.0, task_scored=1.0), info(task=9.0, task_scored=1.0), info(task=0.0, task_scored=1.0)]
    batch = read_batch(keys, [REAL, PADDING, REAL], extra)
    assert batch.columns["task"].tolist() == [1.0, 0.0]
    assert rollout_metrics(batch, ["task"])["train/task"] == 0.5
    assert scatter(np.array([0.5, -0.5]), batch).tolist() == [0.5, 0.0, -0.5]


def test_all_sequences_of_a_multi_turn_rollout_share_the_last_ones_advantage() -> None:
    keys = ["a_0_0", "a_0_1", "a_1_0"]
    extra = [info(task=0.0), info(task=1.0), info(task=0.25)]
    batch = read_batch(keys, [REAL] * 3, extra)
    assert batch.columns["task"].tolist() == [1.0, 0.25]
    assert scatter(np.array([2.0, -2.0]), batch).tolist() == [2.0, 2.0, -2.0]


def test_a_missing_column_names_the_rollout_and_the_reward_manager() -> None:
    with pytest.raises(ValueError, match=r"rollout a_0_0 has no reward column 'task'.*FaithfulRewardManager"):
        read_batch(["a_0_0"], [REAL], [{"reward_extra_info": {"acc": 1.0}}])


def test_a_value_that_is_not_finite_is_kept_for_the_step_guard() -> None:
    assert np.isnan(read_batch(["a_0_0"], [REAL], [info(task=float("nan"))]).columns["task"][0])


def test_the_parts_that_a_design_pays_for_are_means_over_rollouts() -> None:
    parts = [{"think_tag": 0.76, "answer_credit": 1.0}, {"think_tag": 0.96, "answer_credit": 0.25}]
    batch = read_batch(["a_0_0", "a_1_0"], [REAL] * 2, [info(**part) for part in parts])
    assert design_metrics(batch, "vanilla") == pytest.approx({"train/think_tag": 0.86, "train/answer_credit": 0.625})
    assert design_metrics(batch, "only_accuracy") == pytest.approx({"train/answer_credit": 0.625})
    assert design_metrics(batch, "mixture")["train/rethink_tag"] == 0.0
    assert design_metrics(batch, "paper") == {}
    assert design_metrics(read_batch([], [], []), "vanilla") == {}


@pytest.mark.parametrize("key", ["a", "a_0", "a_x_0", "a_0_y"])
def test_an_unknown_key_format_is_named(key: str) -> None:
    with pytest.raises(ValueError, match="key format has changed"):
        split_key(key)


def test_a_uid_may_hold_underscores() -> None:
    assert split_key("train_17_3_0") == ("train_17", 3, 0)


def test_inconsistency_is_taken_over_scored_rollouts_of_right_and_wrong_answers() -> None:
    extra = [info(consistency=c, consistency_scored=s) for c, s in [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0)]]
    metrics = rollout_metrics(read_batch([f"a_{i}_0" for i in range(4)], [REAL] * 4, extra), ["consistency", "semantic_grounding"])
    assert metrics["train/inconsistency_rate"] == pytest.approx(1 / 3)
    assert "train/semantic_grounding" not in metrics  # scored nowhere: there is no mean of nothing
