"""Batch arithmetic: what does not divide would fail, or drop rollouts, hundreds of steps in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Prompts, groups, mini- and micro-batches against each other and against the number of workers. Each by itself has passed `values`.

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
    ranks = sharers(config["actor_rollout_ref"]["actor"], workers, "actor_rollout_ref.actor")
    if (mini * group) % ranks:
        raise ConfigError(
            "actor_rollout_ref.actor.ppo_mini_batch_size",
            f"{mini} prompts x {group} rollouts = {mini * group}",
            f"a number of rollouts that {ranks} workers share equally",
            "Change the mini-batch, the group or the number of workers.",
        )
    _check_steps(config["trainer"], typed)
    _check_separate(config)
    dynamic = actor["use_dynamic_bsz"]
    _check_micro("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", actor, dynamic, mini * group // ranks, "a mini-batch")
    batch = prompts * group // local_updates(config)  # rollouts whose log-probabilities are computed together
    key = "log_prob_micro_batch_size_per_gpu"
    _check_micro(f"actor_rollout_ref.rollout.{key}", rollout, rollout["log_prob_use_dynamic_bsz"], batch // ranks, "a batch")
    _check_reference(config, typed)
    if actor["use_kl_loss"]:
        own, reference = typed.reference_policy, config["actor_rollout_ref"]["ref"]
        scorers = own.n_gpus_per_node * own.nnodes if own.placement == "own_pool" else workers
        scorers = sharers(reference, scorers, "actor_rollout_ref.ref")
        _check_micro(f"actor_rollout_ref.ref.{key}", reference, reference["log_prob_use_dynamic_bsz"], batch // scorers, "a batch")
    _check_servers(config, workers)
    _check_sampling(config)
    _check_lengths(config["data"], rollout)


def local_updates(config: Mapping[str, Any]) -> int:
    """Updates of one step, each on its share of the step's prompts: 1 but in the mode separate_async."""
    modes = config["trainer"]["v1"]
    return int(modes["separate_async"]["parameter_sync_step"]) if modes["trainer_mode"] == "separate_async" else 1


def sharers(node: Mapping[str, Any], workers: int, key: str) -> int:
    """Workers among which a batch is divided: all but those that hold parts of one model.

    Raises:
        ConfigError: parallel sizes that do not divide the workers; sequence parallelism with FSDP, whose log-probabilities are wrong for
            vision-language models (verl-project/verl#3724).
    """
    if node["strategy"] == "megatron":
        sizes = {name: node["megatron"][f"{name}_parallel_size"] for name in ("tensor_model", "pipeline_model", "context")}
        together = math.prod(sizes.values())
        if workers % together:
            named = " x ".join(f"{name}_parallel_size {size}" for name, size in sizes.items())
            raise ConfigError(f"{key}.megatron", f"{named} = {together}", f"a divisor of {workers} workers", "Change one of them.")
        return workers // int(together)
    for name, own in (
        (f"{key}.ulysses_sequence_parallel_size", node),
        (f"{key}.fsdp_config.ulysses_sequence_parallel_size", node["fsdp_config"]),
    ):
        if own.get("ulysses_sequence_parallel_size", 1) != 1:
            raise ConfigError(
                name,
                own["ulysses_sequence_parallel_size"],
                "1, because sequence parallelism gives vision-language models wrong log-probabilities without a word",
                "Leave it out; for long sequences lower the micro-batch, or use fsdp2_offload.",
            )
    return workers


def _check_separate(config: Mapping[str, Any]) -> None:
    """What verl asserts of the mode separate_async, but only when its trainer is built inside the cluster."""
    if config["trainer"]["v1"]["trainer_mode"] != "separate_async":
        return
    policy, updates = config["actor_rollout_ref"], local_updates(config)
    prompts, mini = config["data"]["train_batch_size"], policy["actor"]["ppo_mini_batch_size"]
    if prompts != updates * mini:
        raise ConfigError(
            "trainer.v1.separate_async.parameter_sync_step",
            updates,
            f"data.train_batch_size / actor_rollout_ref.actor.ppo_mini_batch_size = {prompts} / {mini} = {prompts // mini}",
            f"Set trainer.v1.separate_async.parameter_sync_step={prompts // mini}.",
        )
    for name in ("nnodes", "n_gpus_per_node"):
        if policy["rollout"][name] < 1:
            raise ConfigError(
                f"actor_rollout_ref.rollout.{name}",
                policy["rollout"][name],
                "at least 1, because in the mode separate_async rollout servers have GPUs of their own",
                f"Set actor_rollout_ref.rollout.{name}.",
            )
    engine = policy["rollout"]["checkpoint_engine"]["backend"]
    if engine == "naive":
        raise ConfigError(
            "actor_rollout_ref.rollout.checkpoint_engine.backend",
            engine,
            "one that carries weights between machines, because in the mode separate_async servers are not where training is",
            "Set actor_rollout_ref.rollout.checkpoint_engine.backend=nccl.",
        )


def _check_reference(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """A pool of its own for a reference policy that nobody would ask is GPUs for nothing."""
    if typed.reference_policy.placement != "own_pool":
        return
    policy = config["actor_rollout_ref"]
    if not policy["actor"]["use_kl_loss"] or float(policy["actor"]["kl_loss_coef"]) == 0.0:
        why = "because without a KL penalty (actor_rollout_ref.actor.use_kl_loss, kl_loss_coef) there is no reference policy"
    elif policy["model"]["lora_rank"] > 0:
        why = "because with LoRA the actor itself without its adapters is the reference policy"
    else:
        return
    raise ConfigError(
        "faithful_rl.reference_policy.placement", "'own_pool'", f"colocated, {why}", "Set faithful_rl.reference_policy.placement=colocated."
    )


def _check_servers(config: Mapping[str, Any], workers: int) -> None:
    """Rollout servers of several GPUs each must fill the GPUs that they get; verl rounds down, to none at all where one is too large."""
    rollout = config["actor_rollout_ref"]["rollout"]
    names = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    size = math.prod(rollout[name] for name in names)
    separate = config["trainer"]["v1"]["trainer_mode"] == "separate_async"
    gpus = rollout["nnodes"] * rollout["n_gpus_per_node"] if separate else workers
    if gpus % size:
        raise ConfigError(
            "actor_rollout_ref.rollout.tensor_model_parallel_size",
            f"a rollout server of {size} GPUs ({' x '.join(str(rollout[name]) for name in names)})",
            f"a divisor of the {gpus} GPUs that generate",
            f"Choose one of {_divisors(gpus)}.",
        )


def _check_sampling(config: Mapping[str, Any]) -> None:
    """What would train on nothing: rollouts that are all alike, steps of no length."""
    for key, value, why in (
        (
            "actor_rollout_ref.rollout.temperature",
            config["actor_rollout_ref"]["rollout"]["temperature"],
            "equal rollouts have no advantage",
        ),
        ("actor_rollout_ref.actor.optim.lr", config["actor_rollout_ref"]["actor"]["optim"]["lr"], "nothing is learnt otherwise"),
    ):
        if not 0.0 < float(value) < math.inf:
            raise ConfigError(key, value, f"a finite number above 0, because {why}", f"Change {key}.")


def _check_micro(key: str, node: Mapping[str, Any], dynamic: bool, per_worker: int, of_what: str) -> None:
    """verl cuts a worker's share into equal micro-batches, and only finds out in the first step that it cannot."""
    if dynamic:
        return
    micro = node[key.rpartition(".")[2]]
    if micro is None:
        raise ConfigError(key, "nothing", "rollouts per forward pass of one worker", f"Set {key}.")
    if per_worker % micro:
        raise ConfigError(
            key,
            micro,
            f"a divisor of the {per_worker} rollouts that one worker gets of {of_what}",
            f"Choose one of {_divisors(per_worker)}.",
        )


def _check_lengths(data: Mapping[str, Any], rollout: Mapping[str, Any]) -> None:
    prompt, response, limit = data["max_prompt_length"], data["max_response_length"], rollout["max_model_len"]
    if limit is not None and prompt + response > limit:
        raise ConfigError(
            "actor_rollout_ref.rollout.max_model_len",
            limit,
            f"at least data.max_prompt_length + data.max_response_length = {prompt} + {response} = {prompt + response} tokens",
            "Raise it, or shorten prompt or response.",
        )


def _check_steps(trainer: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    if typed.method == "fgrpo" and trainer["critic_warmup"]:
        raise ConfigError("trainer.critic_warmup", trainer["critic_warmup"], "0, because group advantages have no critic", "Leave it out.")


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
