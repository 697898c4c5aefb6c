"""Single values of verl's tree: numbers in their range, names that verl knows. verl takes most others, and fails in a worker or not at all.

Compared here and nowhere else, so that the arithmetic of the other checks never meets a null, a text or a zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig

ABSENT = object()
ACTOR, ROLLOUT, REF = (f"actor_rollout_ref.{role}" for role in ("actor", "rollout", "ref"))


@dataclass(frozen=True)
class Number:
    """What a number must be. `above`: the lower bound itself is not allowed; `null`: no number is, too."""

    low: float = 1
    high: float = math.inf
    whole: bool = True
    above: bool = False
    null: bool = False

    def problem(self, value: object) -> str:
        """What is expected, or "" where `value` is that."""
        if value is None and self.null:
            return ""
        right = isinstance(value, int) if self.whole else isinstance(value, int | float)
        if right and not isinstance(value, bool):
            number = float(value)  # type: ignore[arg-type]
            if math.isfinite(number) and (number > self.low if self.above else number >= self.low) and number <= self.high:
                return ""
        kind = "a whole number" if self.whole else "a number"
        if self.high < math.inf:
            expected = f"{kind} in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"
        else:
            expected = f"{kind} {'>' if self.above else '>='} {self.low:g}"
        return expected + (", or null" if self.null else "")


COUNT, OPTIONAL_COUNT = Number(), Number(null=True)
POSITIVE, SHARE = Number(0, whole=False, above=True), Number(0, 1, whole=False, above=True)
NOT_NEGATIVE = Number(0, whole=False)
OFF_OR_COUNT = Number(-1)  # 0 or -1: never

NUMBERS: dict[str, Number] = {
    "data.train_batch_size": COUNT,
    "data.max_prompt_length": COUNT,
    "data.max_response_length": COUNT,
    "data.train_max_samples": Number(-1),
    "trainer.n_gpus_per_node": COUNT,
    "trainer.nnodes": COUNT,
    "trainer.total_epochs": COUNT,
    "trainer.total_training_steps": OPTIONAL_COUNT,
    "trainer.save_freq": OFF_OR_COUNT,
    "trainer.test_freq": OFF_OR_COUNT,
    "trainer.max_actor_ckpt_to_keep": OPTIONAL_COUNT,
    "trainer.v1.separate_async.parameter_sync_step": COUNT,
    "actor_rollout_ref.model.lora_rank": Number(0),
    f"{ACTOR}.ppo_epochs": COUNT,
    f"{ACTOR}.ppo_mini_batch_size": COUNT,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": OPTIONAL_COUNT,
    f"{ACTOR}.clip_ratio": POSITIVE,
    f"{ACTOR}.clip_ratio_low": Number(0, whole=False, above=True, null=True),
    f"{ACTOR}.clip_ratio_high": Number(0, whole=False, above=True, null=True),
    f"{ACTOR}.clip_ratio_c": Number(1, whole=False, above=True),
    f"{ACTOR}.kl_loss_coef": NOT_NEGATIVE,
    f"{ACTOR}.entropy_coeff": Number(-math.inf, whole=False),
    f"{ACTOR}.grad_clip": POSITIVE,
    f"{ACTOR}.optim.weight_decay": NOT_NEGATIVE,
    f"{ACTOR}.optim.lr_warmup_steps": Number(-1, null=True),
    f"{REF}.log_prob_micro_batch_size_per_gpu": OPTIONAL_COUNT,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": OPTIONAL_COUNT,
    f"{ROLLOUT}.n": COUNT,
    f"{ROLLOUT}.nnodes": Number(0),
    f"{ROLLOUT}.n_gpus_per_node": Number(0),
    f"{ROLLOUT}.tensor_model_parallel_size": COUNT,
    f"{ROLLOUT}.data_parallel_size": COUNT,
    f"{ROLLOUT}.pipeline_model_parallel_size": COUNT,
    f"{ROLLOUT}.gpu_memory_utilization": SHARE,
    f"{ROLLOUT}.temperature": NOT_NEGATIVE,  # that it is above 0 is said with its reason by `batches`
    f"{ROLLOUT}.top_p": SHARE,
    f"{ROLLOUT}.top_k": Number(-1),
    f"{ROLLOUT}.max_num_seqs": COUNT,
    f"{ROLLOUT}.max_num_batched_tokens": COUNT,
    f"{ROLLOUT}.max_model_len": OPTIONAL_COUNT,
    f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": COUNT,
    f"{ROLLOUT}.agent.num_workers": COUNT,
    "reward.num_workers": COUNT,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": COUNT,
    "ray_kwargs.ray_init.num_cpus": Number(1, whole=False, null=True),
    "ray_kwargs.ray_init.num_gpus": Number(0, whole=False, null=True),
}
PARALLEL = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")  # Megatron's

# A test compares them with verl's and vLLM's own.
LOGGERS = ("tensorboard", "console", "file", "wandb", "mlflow", "swanlab", "vemlp_wandb", "clearml", "trackio", "rl_insight")
SERVER_TYPES = ("auto", "float32", "float", "bfloat16", "float16", "half")
TRAINING_TYPES = ("fp32", "float32", "bf16", "bfloat16", "fp16", "float16")
STRATEGIES = {"cpu": ("fsdp2",), "gpu": ("fsdp2", "fsdp", "megatron")}
ONLY_FSDP2 = "the CPU world has only FSDP2"

NAMES: dict[str, tuple[str, ...]] = {
    "trainer.v1.trainer_mode": ("sync", "colocate_async", "separate_async"),
    "trainer.resume_mode": ("auto", "disable", "resume_path"),
    f"{ROLLOUT}.name": ("vllm", "sglang"),
    f"{ROLLOUT}.mode": ("async",),  # verl has removed the other one
    f"{ROLLOUT}.dtype": SERVER_TYPES,
    **{f"{role}.fsdp_config.{name}": TRAINING_TYPES for role in (ACTOR, REF) for name in ("model_dtype", "dtype")},
    **{
        f"{role}.fsdp_config.mixed_precision.{name}": TRAINING_TYPES
        for role in (ACTOR, REF)
        for name in ("param_dtype", "reduce_dtype", "buffer_dtype")
    },
}


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Every value of the tables above that the configuration has.

    Raises:
        ConfigError: naming the key, what was found and what would do.
    """
    _check_strategies(config, typed.hardware.world)
    for key, number in NUMBERS.items():
        _check_number(config, key, number)
    for role in (ACTOR, REF):
        for name in PARALLEL:
            _check_number(config, f"{role}.megatron.{name}", COUNT)
    for key, known in NAMES.items():
        found = at(config, key)
        if found is not ABSENT:
            one_of(key, found, known)
    loggers = at(config, "trainer.logger")
    for name in loggers if isinstance(loggers, list | tuple) else [loggers]:
        if name is not None:
            one_of("trainer.logger", name, LOGGERS, fix="Set trainer.logger=[tensorboard].")


def _check_strategies(config: Mapping[str, Any], world: str) -> None:
    for role in (ACTOR, REF):
        key, found = f"{role}.strategy", at(config, f"{role}.strategy")
        if world == "cpu" and found not in STRATEGIES["cpu"]:
            fix = "Leave it out (training_engine=fsdp2), or choose a hardware group of the world gpu."
            raise ConfigError(key, repr(found), f"fsdp2, because {ONLY_FSDP2}", fix)
        one_of(key, found, STRATEGIES[world])


def at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; `ABSENT` where the tree has none."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return ABSENT
        node = node[part]
    return node


def _check_number(config: Mapping[str, Any], key: str, number: Number) -> None:
    found = at(config, key)
    expected = "" if found is ABSENT else number.problem(found)
    if expected:
        raise ConfigError(key, "null" if found is None else repr(found), expected, "Change it.")


def one_of(key: str, found: object, known: tuple[str, ...], fix: str = "") -> None:
    """Raises ConfigError unless `found` is one of `known`."""
    if found not in known:
        raise ConfigError(key, repr(found), "one of " + ", ".join(known), fix or f"Set {key}={known[0]}.")
