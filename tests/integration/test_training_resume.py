"""Six steps are the same as three steps, kill -9 and three more: metrics, multipliers and weights, to the last bit. And two FSDP2 ranks with
two vLLM servers compute what one of each does, within what another order of sums makes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import training_harness as harness

pytest.importorskip("vllm")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(3000)]  # four runs in one fixture

ONE_UPDATE = (
    "actor_rollout_ref.actor.ppo_mini_batch_size=4"  # a step: of several, two ranks would each fill their halves with other rollouts
)
RUN = (
    *("trainer.total_training_steps=6", "trainer.save_freq=3", "faithful_rl.ui.rollouts_every=3", "faithful_rl.ui.rollouts_per_step=5"),
    ONE_UPDATE,
)

# The first steps on two ranks: micro-batches are half as large, because each rank has half of the rollouts.
TWO_RANKS = (
    ONE_UPDATE,
    "trainer.total_training_steps=2",
    "trainer.save_freq=-1",
    "trainer.n_gpus_per_node=2",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=5",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=10",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=10",
)
# Counted or scored from the responses, which are the same; and what sums of another order change in their last digits.
EXACT = ("critic/rewards/mean", "response_length/mean")
CLOSE = ("critic/advantages/max", "critic/advantages/min", "actor/pg_loss", "actor/kl_loss", "actor/grad_norm")
CONSTRAINTS = ("consistency", "semantic_grounding", "spatial_grounding")
OF_CONSTRAINTS = ("multiplier", "multiplier_next", "applicable", "coverage")


@dataclass(frozen=True)
class Runs:
    """A run that was left alone, one that was killed after its checkpoint and started again by the same command, and one on two ranks."""

    whole: Path
    killed: Path
    two_ranks: Path
    rows_at_kill: int
    scenes: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("resume")
    scenes, log = root / "scenes", root / "log.txt"
    held_out = ("faithful_rl.evaluation.at_start=true", "faithful_rl.evaluation.at_end=true", "faithful_rl.evaluation.max_questions=4")

    whole = harness.start(harness.command_line(scenes, root / "whole", *RUN, *held_out), log)
    assert harness.finish(whole, log) == 0, log.read_text()[-3000:]

    killed, command = root / "killed", harness.command_line(scenes, root / "killed", *RUN, *held_out)
    first = harness.start(command, log)
    checkpoint = killed / "checkpoints" / "global_step_3" / "complete.json"
    status = killed / "status.json"
    harness.wait_until(checkpoint.exists, first, log)
    harness.wait_until(lambda: re.search('"step [456]"', status.read_text()) is not None, first, log)
    harness.kill(first)
    rows_at_kill = len(harness.rows(killed))

    again = harness.start(command, log)
    assert harness.finish(again, log) == 0, log.read_text()[-3000:]

    two = harness.start(harness.command_line(scenes, root / "two", *TWO_RANKS), log)
    assert harness.finish(two, log) == 0, log.read_text()[-3000:]
    return Runs(root / "whole", killed, root / "two", rows_at_kill, scenes)


def test_the_run_was_killed_between_its_checkpoint_and_its_end(runs: Runs) -> None:
    """In its fourth step as a rule; whoever kills it may be a moment late."""
    assert 3 <= runs.rows_at_kill < 6


def test_metrics_are_equal(runs: Runs) -> None:
    whole, killed = harness.rows(runs.whole), harness.rows(runs.killed)
    assert [row["step"] for row in killed] == [1, 2, 3, 4, 5, 6]
    for left, right in zip(whole, killed, strict=True):
        assert harness.comparable(left) == harness.comparable(right)


@pytest.mark.parametrize("step", range(2))
def test_two_ranks_and_two_servers_compute_what_one_of_each_does(step: int, runs: Runs) -> None:
    one, two = harness.rows(runs.whole)[step], harness.rows(runs.two_ranks)[step]
    constrained = [f"constraint/{name}/{what}" for name in CONSTRAINTS for what in OF_CONSTRAINTS]
    assert {*EXACT, *CLOSE, *constrained} <= one.keys() & two.keys()
    assert {name for name in one if name.startswith("constraint/")} == {name for name in two if name.startswith("constraint/")}
    for name in EXACT:
        assert two[name] == pytest.approx(one[name], abs=1e-9), name
    for name in (*CLOSE, *constrained):
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name


def test_the_policy_has_learned_something_to_compare(runs: Runs) -> None:
    rows = harness.rows(runs.whole)
    assert all(row["actor/grad_norm"] > 0 for row in rows)
    assert len({row["constraint/spatial_grounding/multiplier"] for row in rows}) > 1


def test_weights_are_equal(runs: Runs) -> None:
    import torch

    whole, killed = (harness.weights(run / "checkpoints" / "global_step_6") for run in (runs.whole, runs.killed))
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name
    start = harness.weights(runs.whole / "checkpoints" / "global_step_3")
    assert any(not torch.equal(tensor, start[name]) for name, tensor in whole.items())


def test_multipliers_and_data_position_are_equal(runs: Runs) -> None:
    states = [json.loads((run / "checkpoints" / "global_step_6" / "faithful_rl.json").read_text()) for run in (runs.whole, runs.killed)]
    for key in ("step", "problem", "identity", "prompts_drawn", "nonfinite_in_a_row"):
        assert states[0][key] == states[1][key], key
    assert states[0]["prompts_drawn"] == 24


def test_held_out_answers_are_equal_before_and_after(runs: Runs) -> None:
    for name in ("before_T1", "before_greedy", "after_T1", "after_greedy"):
        whole, killed = ((run / "heldout" / f"{name}.jsonl").read_text() for run in (runs.whole, runs.killed))
        assert whole == killed, name
        assert len(whole.splitlines()) == 4
    summary = json.loads((runs.whole / "heldout" / "summary.json").read_text())
    assert summary["before"]["step"] == 0
    assert summary["after"]["greedy"]["questions"] == 4


def test_rollouts_for_the_viewer_hold_whole_groups_with_image_verdicts_and_advantages(runs: Runs) -> None:
    records = [json.loads(line) for line in (runs.whole / "rollouts" / "step_000003.jsonl").read_text().splitlines()]
    assert len(records) == 5
    assert len({record["group"] for record in records}) == 1
    assert all(record["image_png_base64"] and set(record["advantages_by_signal"]) >= {"task", "consistency"} for record in records)
    assert any(sentence["verdict"] in ("CORRECT", "INCORRECT") for record in records for sentence in record["sentences"])


def test_another_recipe_may_not_continue_here(runs: Runs, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    other = harness.command_line(
        runs.scenes, runs.whole, *RUN, "faithful_rl.constraints.consistency.threshold=0.5", "trainer.total_training_steps=7"
    )
    process = harness.start(other, log)
    assert harness.finish(process, log) != 0
    assert len(harness.rows(runs.whole)) == 6
