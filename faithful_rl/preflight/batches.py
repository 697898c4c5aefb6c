"""Batch arithmetic: what does not divide would fail, or drop rollouts, hundreds of steps in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig

TRAINER_MODES = ("sync", "colocate_async", "separate_async")


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Prompts, groups, mini- and micro-batches against each other and against the number of workers.

    Raises:
        ConfigError: naming the key whose value does not fit.
    """
    actor = config["actor_rollout_ref"]["actor"]
    rollout = config["actor_rollout_ref"]["rollout"]
    prompts, group, mini = config["data"]["train_batch_size"], rollout["n"], actor["ppo_mini_batch_size"]
    workers = config["trainer"]["n_gpus_per_node"] * config["trainer"]["nnodes"]
    rank = config["actor_rollout_ref"]["model"]["lora_rank"]
    if typed.hardware.world == "cpu" and rank > 0:  # the CPU's weight update sends whole weights; a worker would refuse it minutes later
        fix = "Set actor_rollout_ref.model.lora_rank=0, or choose a hardware group of the world gpu."
        raise ConfigError("actor_rollout_ref.model.lora_rank", rank, "0, because faithful_rl.hardware.world is cpu", fix)
    _positive("data.train_batch_size", prompts)
    _positive("actor_rollout_ref.actor.ppo_mini_batch_size", mini)
    _positive("trainer.n_gpus_per_node * trainer.nnodes", workers)
    if group < 2:
        raise ConfigError(
            "actor_rollout_ref.rollout.n",
            group,
            "at least 2 rollouts per prompt, because an advantage compares rollouts of one group",
            "Set actor_rollout_ref.rollout.n=5.",
        )
    if prompts % mini:
        raise ConfigError(
            "actor_rollout_ref.actor.ppo_mini_batch_size",
            mini,
            f"a divisor of data.train_batch_size = {prompts} (both count prompts)",
            f"Choose one of {_divisors(prompts)}.",
        )
    if (mini * group) % workers:
        raise ConfigError(
            "actor_rollout_ref.actor.ppo_mini_batch_size",
            f"{mini} prompts x {group} rollouts = {mini * group}",
            f"a number of rollouts that {workers} workers share equally",
            "Change the mini-batch, the group or the number of workers.",
        )
    dynamic = actor["use_dynamic_bsz"]
    _check_micro("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", actor, dynamic, mini * group // workers, "a mini-batch")
    key = "log_prob_micro_batch_size_per_gpu"
    _check_micro(f"actor_rollout_ref.rollout.{key}", rollout, rollout["log_prob_use_dynamic_bsz"], prompts * group // workers, "a batch")
    if actor["use_kl_loss"]:
        own = typed.reference_policy
        scorers = own.n_gpus_per_node * own.nnodes if own.placement == "own_pool" else workers
        reference = config["actor_rollout_ref"]["ref"]
        _check_micro(
            f"actor_rollout_ref.ref.{key}", reference, reference["log_prob_use_dynamic_bsz"], prompts * group // scorers, "a batch"
        )
    _check_lengths(config["data"], rollout)
    _check_steps(config["trainer"], typed)


def _positive(key: str, value: int) -> None:
    if value < 1:
        raise ConfigError(key, value, "a whole number >= 1", "Change it.")


def _check_micro(key: str, node: Mapping[str, Any], dynamic: bool, per_worker: int, of_what: str) -> None:
    """verl cuts a worker's share into equal micro-batches, and only finds out in the first step that it cannot."""
    if dynamic:
        return
    micro = node[key.rpartition(".")[2]]
    if micro is None:
        raise ConfigError(key, "nothing", "rollouts per forward pass of one worker", f"Set {key}.")
    _positive(key, micro)
    if per_worker % micro:
        raise ConfigError(
            key,
            micro,
            f"a divisor of the {per_worker} rollouts that one worker gets of {of_what}",
            f"Choose one of {_divisors(per_worker)}.",
        )


def _check_lengths(data: Mapping[str, Any], rollout: Mapping[str, Any]) -> None:
    prompt, response, limit = data["max_prompt_length"], data["max_response_length"], rollout["max_model_len"]
    _positive("data.max_prompt_length", prompt)
    _positive("data.max_response_length", response)
    if limit is not None and prompt + response > limit:
        raise ConfigError(
            "actor_rollout_ref.rollout.max_model_len",
            limit,
            f"at least data.max_prompt_length + data.max_response_length = {prompt} + {response} = {prompt + response} tokens",
            "Raise it, or shorten prompt or response.",
        )


def _check_steps(trainer: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    mode = trainer["v1"]["trainer_mode"]
    if mode not in TRAINER_MODES:
        raise ConfigError("trainer.v1.trainer_mode", repr(mode), "one of " + ", ".join(TRAINER_MODES), "Set trainer.v1.trainer_mode=sync.")
    steps = trainer["total_training_steps"]
    if steps is not None:
        _positive("trainer.total_training_steps", steps)
    _positive("trainer.total_epochs", trainer["total_epochs"])
    if typed.method == "fgrpo" and trainer["critic_warmup"]:
        raise ConfigError("trainer.critic_warmup", trainer["critic_warmup"], "0, because group advantages have no critic", "Leave it out.")


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
