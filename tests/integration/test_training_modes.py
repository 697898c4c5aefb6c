"""verl's two asynchronous modes keep their names and work with our trainer, on the CPU."""

from __future__ import annotations

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
def test_a_mode_trains_and_saves(mode: tuple[str, ...], tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log.txt"
    command = harness.command_line(tmp_path / "scenes", run_dir, *mode, "trainer.save_freq=2", "trainer.total_training_steps=2")
    process = harness.start(command, log, runner="plain")
    assert harness.finish(process, log) == 0, log.read_text(errors="replace")[-3000:]
    rows = harness.rows(run_dir)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["actor/grad_norm"] >= 0.0
        assert row["constraint/spatial_grounding/multiplier_next"] != row["constraint/spatial_grounding/multiplier"]
    assert rows[1]["constraint/spatial_grounding/multiplier_next"] != rows[0]["constraint/spatial_grounding/multiplier_next"]
    assert (run_dir / "checkpoints" / "global_step_2" / "complete.json").exists()
