"""verl's two asynchronous modes keep their names and work with our trainer, on the CPU; a run in them continues where it was saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import training_harness as harness

pytest.importorskip("vllm")
pytestmark = pytest.mark.integration

COLOCATED = ("trainer.v1.trainer_mode=colocate_async", "trainer.v1.colocate_async.num_warmup_batches=1")
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


@pytest.mark.parametrize("mode", [COLOCATED, SEPARATE], ids=["colocate_async", "separate_async"])
def test_a_mode_trains_saves_and_continues(mode: tuple[str, ...], tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log.txt"
    command = harness.command_line(tmp_path / "scenes", run_dir, *mode, "trainer.save_freq=2")
    for steps in (2, 3):
        process = harness.start([*command, f"trainer.total_training_steps={steps}"], log, runner="plain")
        assert harness.finish(process, log) == 0, log.read_text(errors="replace")[-3000:]
        assert (run_dir / "checkpoints" / f"global_step_{steps}" / "complete.json").exists()
    rows = harness.rows(run_dir)
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["actor/grad_norm"] >= 0.0
        assert row["constraint/spatial_grounding/multiplier_next"] != row["constraint/spatial_grounding/multiplier"]
    after = [row["constraint/spatial_grounding/multiplier_next"] for row in rows]
    assert len(set(after)) == 3
    updates = 2 if mode is SEPARATE else 1  # dual steps in a step; each moves a multiplier by at most its step size
    states = [json.loads((run_dir / "checkpoints" / f"global_step_{step}" / "faithful_rl.json").read_text()) for step in (2, 3)]
    assert [state["step"] for state in states] == [2, 3]
    assert abs(after[2] - after[1]) <= updates * 0.05 + 1e-9, "the third step went on from the second one's multiplier"
    assert states[1]["prompts_drawn"] > states[0]["prompts_drawn"]
