"""What faithful_rl relies on in verl's trainer, agent loop, reward loop and engine. An upgrade that moves one of these breaks a test
with a name, not a run after 200 steps."""

import inspect
import os
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("VERL_PLATFORM", "cpu")
pytest.importorskip("verl")

import numpy as np  # noqa: I001
import torch
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer import main_ppo
from verl.trainer.ppo import padding_utils
from verl.trainer.ppo.metric_utils import process_validation_metrics
from verl.trainer.ppo.reward import resolve_reward_manager_cls
from verl.trainer.ppo.utils import need_reference_policy
from verl.trainer.ppo.v1 import agent_loop_tq, get_trainer_cls, replay_buffer, trainer_base
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, TRAINER_REGISTRY
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

from faithful_rl.compose import compose_recipe
from faithful_rl.rewards.suite import COLUMNS
from faithful_rl.verl_plugin import rollout_workers, task_runner
from faithful_rl.verl_plugin.reward_manager import FaithfulRewardManager
from faithful_rl.verl_plugin.trainer import TRAINERS, trainer_for


def source(thing: Any) -> str:
    return inspect.getsource(thing)


def parameters(function: Any) -> list[str]:
    """Names without `self` and without what Ray adds to the methods of actor classes."""
    return [name for name in inspect.signature(function).parameters if name != "self" and not name.startswith("_ray_")]


def in_order(text: str, *parts: str) -> bool:
    positions = [text.find(part) for part in parts]
    return -1 not in positions and positions == sorted(positions)


# ---- task runner ----


def test_run_ppo_takes_a_runner_and_calls_remote_and_run() -> None:
    assert parameters(main_ppo.run_ppo) == ["config", "task_runner_class"]
    assert in_order(source(main_ppo.run_ppo), "ray.init(", "task_runner_class.remote()", "runner.run.remote(config)")


def test_the_runner_looks_its_trainer_up_in_the_registry_by_mode() -> None:
    runner = main_ppo.TaskRunnerV1.__ray_metadata__.modified_class
    text = source(runner.run)
    assert in_order(
        text,
        "get_trainer_cls(config.trainer.v1.trainer_mode)",
        "trainer_cls(config=config)",
        "self.trainer.init()",
        "self.init_agent_loop_manager()",
        "self.trainer.fit(",
    )
    assert issubclass(task_runner.FaithfulTaskRunner, runner)
    assert "agent_loop_manager_class" in source(runner.init_agent_loop_manager)


def test_every_mode_of_verl_has_our_trainer_and_no_other_mode_exists() -> None:
    assert set(TRAINERS) == {"sync", "colocate_async", "separate_async"} == set(TRAINER_REGISTRY)
    for mode in TRAINERS:
        assert issubclass(trainer_for(mode), get_trainer_cls(mode))
        assert trainer_for(mode).__name__ != get_trainer_cls(mode).__name__
    with pytest.raises(ValueError, match=r"trainer_mode is 'faithful', expected one of sync, colocate_async, separate_async"):
        trainer_for("faithful")


# ---- trainer ----


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("_fetch_one_gen_batch", []),
        ("_init_resource_pool_mgr", []),
        ("_setup", []),
        ("_balance_batch", ["batch", "metrics", "logging_prefix", "keep_minibatch"]),
        ("_compute_old_log_prob", ["batch", "metrics"]),
        ("_compute_ref_log_prob", ["batch", "metrics"]),
        ("_compute_advantage", ["batch", "metrics"]),
        ("_update_actor", ["batch", "metrics"]),
        ("_compute_metrics", ["batch", "metrics", "timing_raw", "global_steps", "epoch"]),
        ("_save_checkpoint", []),
        ("_load_checkpoint", []),
        ("on_train_begin", []),
        ("on_step_begin", []),
        ("on_step_end", []),
        ("on_sample_begin", []),
        ("on_sample_end", []),
        ("on_validate_begin", []),
        ("on_validate_end", []),
        ("fit", ["agent_loop_manager"]),
    ],
)
def test_overridden_methods_keep_their_signature(method: str, expected: list[str]) -> None:
    assert parameters(getattr(PPOTrainer, method)) == expected


def test_the_loop_ends_when_the_total_is_lowered_and_saves_before_it_computes_metrics() -> None:
    text = source(PPOTrainer.fit)
    assert "self.global_steps <= self.total_training_steps" in text
    assert in_order(
        text,
        "self.on_train_begin()",
        "self.on_step_begin()",
        "self.step(",
        "self._save_checkpoint()",
        "self.on_step_end()",
        "self._compute_metrics(",
        "tq.kv_clear(",
    )


def test_one_update_runs_its_phases_in_this_order() -> None:
    assert in_order(
        source(PPOTrainer._step_once),
        "self.on_sample_begin()",
        "self.replay_buffer.sample(",
        "self.on_sample_end()",
        "self._balance_batch(",
        "self._compute_old_log_prob(",
        "self._compute_ref_log_prob(",
        "self._compute_advantage(",
        "self._update_actor(",
    )


def test_the_mode_decides_the_replay_buffer_so_that_it_must_keep_its_name() -> None:
    assert 'self.trainer_mode == "sync"' in source(PPOTrainer._build_replay_buffer)


def test_the_latest_marker_is_written_last_in_place_and_not_for_async_saves() -> None:
    text = source(PPOTrainer._save_checkpoint)
    assert in_order(
        text, "self.actor_rollout_wg.save_checkpoint(", "data.pt", 'get("async_save", False)', "latest_checkpointed_iteration.txt"
    )


def test_an_empty_marker_breaks_verls_own_resume(tmp_path: Any) -> None:
    """Why we choose the checkpoint ourselves; when this no longer fails, `find_resumable` may lean on verl's marker."""
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("")
    with pytest.raises(ValueError, match="invalid literal"):
        find_latest_ckpt_path(str(tmp_path))


def test_resume_by_path_reads_the_step_from_the_folder_and_restores_data_order() -> None:
    text = source(PPOTrainer._load_checkpoint)
    assert '"resume_path"' in text
    assert 'split("global_step_")[-1]' in text
    assert "self.train_dataloader.load_state_dict(" in text


def test_reward_components_do_not_reach_verls_estimators_in_v1() -> None:
    """Why `_compute_advantage` reads the queue itself."""
    assert "extra_fields" not in source(PPOTrainer._compute_advantage)


def test_padding_rows_are_tagged() -> None:
    assert "is_padding" in source(padding_utils)


def test_a_reference_policy_is_built_whenever_the_kl_loss_is_on_even_with_a_coefficient_of_zero() -> None:
    """Why `drop_unused_reference` turns the loss off."""
    config = OmegaConf.create(
        {"algorithm": {"use_kl_in_reward": False}, "actor_rollout_ref": {"actor": {"use_kl_loss": True, "kl_loss_coef": 0.0}}}
    )
    assert need_reference_policy(config)


def test_a_separate_reference_group_is_only_made_beside_a_role_called_actor() -> None:
    """Why `start_own_group` makes it in the hybrid modes."""
    text = source(PPOTrainer._setup)
    assert "if actor_role == Role.Actor and self.use_reference_policy" in text
    assert "self.ref_policy_wg = all_wg[str(actor_role)]" in text


def test_batches_can_be_reordered_by_index() -> None:
    batch = KVBatchMeta(partition_id="train", keys=["b_0_0", "a_0_0"], tags=[{"n": 1}, {"n": 2}])
    batch.reorder([1, 0])
    assert (batch.keys, batch.tags) == (["a_0_0", "b_0_0"], [{"n": 2}, {"n": 1}])


def test_verl_still_logs_with_flush_in_separate_async() -> None:
    """Why our trainer quietens that logger during set-up; when this fails, the override can go."""
    assert "flush=True" in source(get_trainer_cls("separate_async")._setup)


# ---- agent loop ----


def test_agent_loop_workers_can_be_extended_and_pass_uid_session_and_decoding() -> None:
    worker = agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    assert issubclass(rollout_workers.FaithfulAgentLoopWorker, worker)
    assert parameters(worker._run_agent_loop)[:2] == ["sampling_params", "trajectory"]
    text = source(worker._run_prompt)
    assert 'prompt.pop("__rollout_n__"' in text
    assert "session_id=i, **prompt" in text
    assert 'keys.append(f"{uid}_{session_id}_{i}")' in source(worker._agent_loop_postprocess)
    assert "self.agent_loop_workers_class" in source(agent_loop_tq.AgentLoopManagerTQ.__init__)


def test_a_worker_keeps_the_prompts_it_works_on_and_marks_each_finished_before_it_lets_go() -> None:
    worker = agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    text = source(worker.generate_sequences)
    assert text.index("self.background_tasks.add(task)") < text.index("task.add_done_callback(self.background_tasks.discard)")
    prompt = source(worker._run_prompt)
    assert 'await tq.async_kv_put(key=uid, partition_id=partition_id, tag={"status": status})' in prompt


def test_reward_info_lands_in_the_last_outputs_extra_fields() -> None:
    assert parameters(AgentLoopWorker._compute_score) == ["outputs", "kwargs"]
    text = source(AgentLoopWorker._compute_score)
    assert 'final_output.extra_fields["reward_extra_info"] = result["reward_extra_info"]' in text
    assert "for k, v in kwargs.items()" in text  # our fields reach the reward manager


def test_the_replay_buffer_polls_at_an_interval_that_can_be_set_and_cuts_uids_at_underscores() -> None:
    assert "time.sleep(self.poll_interval)" in source(replay_buffer.ReplayBuffer._wait_for_next_poll)
    assert "last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)" in source(replay_buffer.ReplayBuffer)
    assert 'key.split("_")[0]' in source(replay_buffer.ReplayBuffer._materialize_batch)


# ---- rewards ----


def test_the_recipe_resolves_to_our_reward_manager() -> None:
    config = compose_recipe(["recipe=fgrpo_tiny"])
    assert resolve_reward_manager_cls(config) is FaithfulRewardManager
    assert parameters(FaithfulRewardManager.__init__) == [
        "config",
        "tokenizer",
        "compute_score",
        "reward_router_address",
        "reward_model_tokenizer",
    ]
    assert "await self.reward_manager.run_single(data)" in source(RewardLoopWorker.compute_score)


def test_validation_averages_every_column_so_that_all_must_be_numbers() -> None:
    columns = {name: [0.0, 1.0] for name in COLUMNS}
    metrics = process_validation_metrics(["scenes"] * 2, ["a", "b"], columns)
    assert set(metrics["scenes"]) == set(COLUMNS)
    assert metrics["scenes"]["consistency"]["mean@1"] == 0.5
    assert "reward" not in COLUMNS


# ---- engine ----


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(poison: float) -> None:
    module = torch.nn.Linear(2, 1)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, poison)
    engine = SimpleNamespace(
        optimizer_config=SimpleNamespace(clip_grad=1.0),
        scaler=None,
        module=module,
        optimizer=torch.optim.AdamW(module.parameters(), lr=0.1),
        _qat_enabled=False,
    )
    norm = FSDPEngine.optimizer_step(engine)
    assert not np.isfinite(float(norm))  # what the step guard sees as actor/grad_norm
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert not engine.optimizer.state  # Adam's moments are untouched


def test_the_base_trainer_module_still_has_what_heldout_evaluation_builds_on() -> None:
    text = source(trainer_base.PPOTrainer._validate)
    assert in_order(
        text,
        'tu.assign_non_tensor_data(batch, "validate", True)',
        "tq.kv_batch_put(",
        "self.agent_loop_manager.generate_sequences(batch)",
        "self.replay_buffer.sample(",
        "tq.kv_clear(",
    )
