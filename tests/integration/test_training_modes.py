"""verl's two asynchronous modes keep their names and work with our trainer, on the CPU: they train and save."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import training_harness as harness

pytest.importorskip("vllm")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

COLOCATED = ("trainer.v1.trainer_mode=colocate_async", "trainer.v1.colocate_async.num_warmup_batches=1")
STEP_SIZE = 0.05  # of the dual step, times a violation of at most 1
SEPARATE = (
    "trainer.v1.trainer_mode=separate_async",
    "trainer.v1.separate_async.parameter_sync_step=2",  # two local updates, so two dual steps, in each step
    "trainer.v1.separate_async.num_warmup_batches=1",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=10",  # a local update sees half of the step's 20 rollouts
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=10",
    "actor_rollout_ref.hybrid_engine=false",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=ray",
    "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=faithful_rl.verl_plugin.ray_checkpoint_engine",
    "ray_kwargs.ray_init.num_gpus=2",
    "ray_kwargs.ray_init.num_cpus=40",
)


@pytest.mark.parametrize(("mode", "updates"), [(COLOCATED, 1), (SEPARATE, 2)], ids=["colocate_async", "separate_async"])
def test_a_mode_trains_and_saves(mode: tuple[str, ...], updates: int, tmp_path: Path) -> None:
    """`updates` dual steps in each of two steps."""
    run_dir, log = tmp_path / "run", tmp_path / "log.txt"
    command = harness.command_line(tmp_path / "scenes", run_dir, *mode, "trainer.save_freq=1", "trainer.total_training_steps=2")
    assert harness.finish(harness.start(command, log, runner="plain"), log) == 0, log.read_text(errors="replace")[-3000:]
    rows = harness.rows(run_dir)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["actor/grad_norm"] >= 0.0
        assert row["constraint/spatial_grounding/multiplier_next"] != row["constraint/spatial_grounding/multiplier"]
    after = [row["constraint/spatial_grounding/multiplier_next"] for row in rows]
    assert after[0] != after[1]
    assert abs(after[1] - after[0]) <= updates * STEP_SIZE + 1e-9, "the second step goes on from the first one's multiplier"
    states = [json.loads((run_dir / "checkpoints" / f"global_step_{step}" / "faithful_rl.json").read_text()) for step in (1, 2)]
    assert [state["step"] for state in states] == [1, 2]
    assert states[1]["prompts_drawn"] > states[0]["prompts_drawn"]
