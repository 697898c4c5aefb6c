"""verl's V1 trainers with the constrained advantage, the dual step, our checkpoint state and our guards.

A mixin over each of verl's trainers (sync, colocate_async, separate_async); the mode keeps its name, because verl decides by it.
What is overridden and relied upon is pinned by tests/contract/test_trainer_seams.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import trainer_separate_async
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu

from faithful_rl.advantage import AdvantageSettings
from faithful_rl.config import from_node
from faithful_rl.constraints import ConstrainedProblem
from faithful_rl.metrics import TRAIN_RESPONSE_TOKENS, MetricsWriter, drop_after, heldout_metric, read_metrics
from faithful_rl.run_directory import METRICS, rollout_file, write_status
from faithful_rl.verl_plugin import (
    checkpoint,
    finish_signal,
    judge_timing,
    liveness,
    prometheus,
    queue_io,
    random_state,
    reference_policy,
    rollout_dump,
)
from faithful_rl.verl_plugin.constrained_step import constrained_step, merge_updates, plain_numbers
from faithful_rl.verl_plugin.heldout import HeldoutEvaluation
from faithful_rl.verl_plugin.reward_columns import RewardBatch, design_metrics, read_batch, scatter, split_key
from faithful_rl.verl_plugin.reward_manager import DETAILS_KEY
from faithful_rl.verl_plugin.rollout_workers import idle_reporters
from faithful_rl.verl_plugin.run_control import RunControl, settings_of
from faithful_rl.verl_plugin.step_guard import StepGuard

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # verl's 2 s between two looks for finished rollouts are as long as a whole step of a tiny model


# The type checker sees verl's base class; at run time the mixin's methods come before those of any of its subclasses.
_Host: Any = PPOTrainer if TYPE_CHECKING else object


class FaithfulTrainerMixin(_Host):
    """Goes in front of one of verl's trainers. `control` is set by the task runner before `init()`.

    Attributes:
        outcome: "finished", "stopped" (a stop was asked for) or "nonfinite" (too many skipped updates in a row).
    """

    control: RunControl
    outcome = "finished"
    total_training_steps: int  # verl's
    _exporter: prometheus.Exporter | None = None

    def __init__(self, config: DictConfig) -> None:
        self.settings = from_node(config.faithful_rl)
        checkpoint.refuse_unsupported(config)
        self.run_dir = Path(self.settings.output_dir)
        super().__init__(config)
        self.problem = ConstrainedProblem.from_settings(
            settings_of(config.faithful_rl.constraints), self.settings.coverage_floor, self.settings.constraint_patience
        )
        self.advantage_settings = AdvantageSettings.from_settings(settings_of(config.faithful_rl.advantage))
        self.guard = StepGuard(self.settings.stop_after_nonfinite_steps)
        self.prompts_drawn = 0
        random_state.seed(self.settings.seed)
        self._identity = checkpoint.identity(self.settings, checkpoint.training_facts(config))
        self._keep = config.trainer.get("max_actor_ckpt_to_keep", None)
        with open_dict(config):
            config.trainer.max_actor_ckpt_to_keep = None  # whole folders are pruned here, after the new one is complete
        self._updates: list[dict[str, float]] = []
        self._save_due = False
        self._saved_step = -1
        self._writer: MetricsWriter | None = None
        self._began = time.time()

    # ---- set-up ----

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if reference_policy.wants_own_pool(self.config):
            reference_policy.plan_own_pool(self)

    def _setup(self) -> None:
        super()._setup()
        if reference_policy.wants_own_pool(self.config) and getattr(self, "ref_policy_wg", None) is getattr(self, "actor_rollout_wg", None):
            reference_policy.start_own_group(self)

    def fit(self, agent_loop_manager: Any) -> None:
        """Train, then evaluate on the held-out questions unless the run was stopped early."""
        self.agent_loop_manager = agent_loop_manager
        self.planned_steps = self.total_training_steps
        self.problem.set_ceilings(self.control.ceilings)
        self._wait_closely()
        liveness.guard_polling(self.replay_buffer, self._rollout_actors())
        self._writer = MetricsWriter(self.run_dir / METRICS)
        rows = read_metrics(self.run_dir / METRICS)
        self._began = time.time() - (rows[-1].get("time_s", 0.0) if rows else 0.0)
        try:
            super().fit(agent_loop_manager)
            if self.outcome == "finished" and self.settings.evaluation.at_end:
                self._evaluate("after", self.planned_steps)
        finally:
            self._writer.close()

    def _wait_closely(self) -> None:
        """A synchronous step ends with its last rollout, of which workers tell; in the other modes only looks into the queue do."""
        workers = idle_reporters(self.agent_loop_manager)
        if not workers or self.trainer_mode != "sync":
            self.replay_buffer.poll_interval = POLL_SECONDS
        finish_signal.end_sleep_when_finished(self.replay_buffer, workers)

    def _rollout_actors(self) -> dict[str, Any]:
        """The actors without which no rollout is ever finished, by readable names."""
        loops = getattr(self.agent_loop_manager, "agent_loop_workers", [])
        rewards = getattr(getattr(self, "reward_loop_manager", None), "reward_loop_workers", [])
        named = {f"agent loop worker {number}": handle for number, handle in enumerate(loops)}
        return named | {f"reward worker {number}": handle for number, handle in enumerate(rewards)}

    def on_train_begin(self) -> None:
        self._publish(self.global_steps - 1)
        if self.settings.evaluation.at_start and self.global_steps == 1:
            self._evaluate("before", 0)
        super().on_train_begin()

    def _evaluate(self, when: str, step: int) -> None:
        evaluation = HeldoutEvaluation(
            self,
            self.run_dir,
            self.settings.evaluation.decodings,
            self.settings.evaluation.max_questions,
            self.settings.ui.rollouts_per_step,
        )
        if evaluation.done(when):
            return
        self._status("evaluating", f"held-out questions {when} training")
        with self.control.watchdog.phase(f"held-out evaluation {when}"):
            self.on_validate_begin()
            summary = evaluation.run(when, step)
            self.on_validate_end()
        numbers = {heldout_metric(decoding, name): value for decoding, values in summary.items() for name, value in values.items()}
        self.logger.log(data=numbers, step=step)

    def _status(self, phase: str, detail: str = "") -> None:
        write_status(self.run_dir, phase, detail, int(getattr(self, "planned_steps", 0)))

    # ---- data ----

    def _fetch_one_gen_batch(self) -> Any:
        """verl's prompts under uids that count draws instead of random ones, so that a resumed run names and seeds them alike."""
        batch = super()._fetch_one_gen_batch()
        first = self.prompts_drawn
        self.prompts_drawn += len(batch)
        tu.assign_non_tensor_stack(batch, "uid", [f"{number:012d}" for number in range(first, self.prompts_drawn)])
        return batch

    def _balance_batch(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> KVBatchMeta:
        """Rollouts arrive in the order in which they end; sort them before anything depends on order."""
        batch.reorder(sorted(range(len(batch.keys)), key=lambda index: split_key(batch.keys[index])))
        with self.control.watchdog.phase("balance_batch"):
            return super()._balance_batch(batch, *args, **kwargs)

    # ---- one step ----

    def on_step_begin(self) -> None:
        self._status("training", f"step {self.global_steps}")
        self.guard.begin_step()
        self._updates = []
        self.control.watchdog.enter("step")
        super().on_step_begin()

    def on_sample_begin(self) -> None:
        self.control.watchdog.enter("generation")
        super().on_sample_begin()

    def on_sample_end(self) -> None:
        self.control.watchdog.leave("generation")
        with self.control.watchdog.phase("sleep_replicas"):
            super().on_sample_end()

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.control.watchdog.phase("old_log_prob"):
            return super()._compute_old_log_prob(batch, metrics=metrics)

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with self.control.watchdog.phase("ref_log_prob"):
            return super()._compute_ref_log_prob(batch, metrics=metrics)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's own step first (rollout correction rewrites masks there), then our advantages replace its columns."""
        with self.control.watchdog.phase("advantage"):
            batch = super()._compute_advantage(batch, metrics=metrics)
            extra = queue_io.read_objects(batch.keys, batch.partition_id, ["extra_fields"])["extra_fields"]
            rewards = read_batch(batch.keys, batch.tags, extra)
            result = constrained_step(rewards, self.problem, self.advantage_settings, self.global_steps, self._sources(batch, rewards))
            if result.rejected:
                self.guard.reject(result.rejected)
            for message in result.messages:
                logger.warning("step %d: %s", self.global_steps, message)
            for name, why in result.frozen.items():
                logger.warning("step %d: multiplier of %s stays at %s: %s", self.global_steps, name, self.problem.multipliers[name], why)
            lengths = [batch.tags[row]["response_len"] for row in rewards.rows]
            further = judge_timing.step_metrics([extra[row] for row in rewards.rows])
            further |= design_metrics(rewards, self.settings.rewards.design)
            self._updates.append({**result.metrics, **further, TRAIN_RESPONSE_TOKENS: float(np.mean(lengths)) if lengths else 0.0})
            self._dump_rollouts(batch, rewards, extra, result.advantages, result.by_signal)
            self._publish(self.global_steps)
            return queue_io.write_advantages(batch, scatter(result.advantages, rewards))

    def _sources(self, batch: KVBatchMeta, rewards: RewardBatch) -> list[str] | None:
        """Data source of each row, read only where a constraint has thresholds by source."""
        if not self.problem.needs_sources:
            return None
        keys = [batch.keys[row] for row in rewards.rows]
        return [str(source) for source in queue_io.read_objects(keys, batch.partition_id, ["data_source"]).get("data_source", [])]

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if self.guard.rejected:
            return batch
        with self.control.watchdog.phase("update_actor"):
            batch = super()._update_actor(batch, metrics=metrics)
        self.guard.inspect(metrics)
        return batch

    def on_step_end(self) -> None:
        if self.trainer_mode != "sync" and self._must_stop() and self._saved_step != self.global_steps:
            self._write_checkpoint()
        with self.control.watchdog.phase("update_weights"):
            super().on_step_end()
        self.control.watchdog.leave("step")

    def _publish(self, step: int) -> None:
        self.control.publish(step, self.problem.multipliers)

    def _dump_rollouts(
        self, batch: KVBatchMeta, rewards: RewardBatch, extra: list[Any], advantages: np.ndarray, by_signal: Mapping[str, np.ndarray]
    ) -> None:
        """A few whole groups of this step for the viewer, other questions each time."""
        ui = self.settings.ui
        if ui.rollouts_per_step < 1 or not (self.global_steps == 1 or self.global_steps % ui.rollouts_every == 0):
            return
        groups = sorted(set(rewards.uids.tolist()))
        size = max(1, len(rewards.uids) // max(1, len(groups)))
        chosen = set(groups[: max(1, ui.rollouts_per_step // size)])
        picked = [number for number, uid in enumerate(rewards.uids) if uid in chosen]
        keys = [batch.keys[rewards.rows[number]] for number in picked]
        fields = queue_io.read_objects(keys, batch.partition_id, ["extra_info", "reward_model", "raw_prompt"])
        tokens = queue_io.read_responses(keys, batch.partition_id)
        records = [
            rollout_dump.record(
                step=self.global_steps, split="train", decoding=None, group=str(rewards.uids[number]),
                response=self.tokenizer.decode(tokens[index], skip_special_tokens=True),
                fields={name: values[index] for name, values in fields.items()},
                columns={name: float(values[number]) for name, values in rewards.columns.items()},
                judged_json=extra[rewards.rows[number]].get(DETAILS_KEY, ""),
                advantage=float(advantages[number]), by_signal={name: float(values[number]) for name, values in by_signal.items()},
            )
            for index, number in enumerate(picked)
        ]  # fmt: skip
        rollout_dump.write_lines(rollout_file(self.run_dir, self.global_steps), records)

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, Any], global_steps: int, epoch: int
    ) -> None:
        """verl's metrics and ours; then the step's row, and only then the checkpoint, so that a resumed run lacks no row."""
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        metrics.update(merge_updates(self._updates))
        metrics.update(self.guard.end_step(global_steps))
        metrics["time_s"] = time.time() - self._began
        if self._writer is not None:
            self._writer.append(global_steps, plain_numbers(metrics))
            self._exporter = self._exporter or prometheus.exporter(self.run_dir.name)
            if self._exporter is not None:
                self._exporter.publish(plain_numbers(metrics))
        stop = self._must_stop()
        if (self._save_due or stop) and self._saved_step != global_steps:
            self._write_checkpoint()
        if self.guard.exhausted or (stop and global_steps < self.planned_steps):
            self.outcome = "nonfinite" if self.guard.exhausted else "stopped"
            logger.warning("step %d: ending after a checkpoint (%s)", global_steps, self.outcome)
            self.total_training_steps = global_steps  # verl's loop ends when the next step is beyond it

    def _must_stop(self) -> bool:
        return self.guard.exhausted or self.control.stop_requested()

    # ---- checkpoint and resume ----

    def _save_checkpoint(self) -> None:
        if self.trainer_mode == "sync":
            self._save_due = True  # written by _compute_metrics, after the row of this step
        else:
            self._write_checkpoint()  # the async modes must save while generation is paused

    def _write_checkpoint(self) -> None:
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        self._status("saving", f"checkpoint of step {self.global_steps}")
        with self.control.watchdog.phase("save_checkpoint"):
            checkpoint.write_state(folder, self._state())
            super()._save_checkpoint()
            checkpoint.mark_complete(folder, self.global_steps)
            checkpoint.prune(folder.parent, self._keep)
        self._save_due, self._saved_step = False, self.global_steps

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.global_steps,
            "problem": self.problem.state_dict(),
            "identity": self._identity,
            "prompts_drawn": self.prompts_drawn,
            "nonfinite_in_a_row": self.guard.in_a_row,
            "random": random_state.capture(),
        }

    def _load_checkpoint(self) -> None:
        """verl's resume from the newest checkpoint that is whole and belongs to this recipe; ours beside it."""
        trainer = self.config.trainer
        folder: Path | None = None
        if trainer.resume_mode == "auto":
            folder = checkpoint.find_resumable(Path(trainer.default_local_dir))
        elif trainer.resume_mode == "resume_path":
            folder = Path(str(trainer.resume_from_path))
        state: dict[str, Any] | None = None
        if folder is not None:
            state = checkpoint.read_usable(folder, self._identity)
        with open_dict(self.config):
            trainer.resume_mode = "disable" if folder is None else "resume_path"
            trainer.resume_from_path = None if folder is None else str(folder)
        with self.control.watchdog.phase("load_checkpoint"):
            super()._load_checkpoint()
        drop_after(self.run_dir / METRICS, self.global_steps)
        if state is not None:
            self.problem.load_state_dict(state["problem"])
            self.prompts_drawn = int(state["prompts_drawn"])
            self.guard.in_a_row = int(state["nonfinite_in_a_row"])
            random_state.restore(state["random"])
            self._saved_step = self.global_steps


class FaithfulTrainerSync(FaithfulTrainerMixin, PPOTrainerSync):
    """Generation and training take turns on the same workers."""


class FaithfulTrainerColocateAsync(FaithfulTrainerMixin, PPOTrainerColocateAsync):
    """As sync, with unfinished rollouts carried over to the next step."""


class FaithfulTrainerSeparateAsync(FaithfulTrainerMixin, PPOTrainerSeparateAsync):
    """Generation on servers of its own, beside training."""

    def _setup(self) -> None:
        """verl passes `flush=True` to a logger where `hybrid_engine` is false, which raises; a message below the level does not.

        Can go when `PPOTrainerSeparateAsync._setup` no longer does that.
        """
        level = trainer_separate_async.logger.level
        trainer_separate_async.logger.setLevel(logging.WARNING)
        try:
            super()._setup()
        finally:
            trainer_separate_async.logger.setLevel(level)


TRAINERS: dict[str, type[PPOTrainer]] = {
    "sync": FaithfulTrainerSync,
    "colocate_async": FaithfulTrainerColocateAsync,
    "separate_async": FaithfulTrainerSeparateAsync,
}


def trainer_for(mode: str) -> type[PPOTrainer]:
    """Our trainer for verl's mode `trainer.v1.trainer_mode`.

    Raises:
        ValueError: the mode is not one of verl's.
    """
    if mode not in TRAINERS:
        raise ValueError(f"trainer.v1.trainer_mode is {mode!r}, expected one of {', '.join(TRAINERS)}")
    return TRAINERS[mode]
