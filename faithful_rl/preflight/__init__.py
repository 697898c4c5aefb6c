"""Checks before anything starts: what a run needs, and one clear message where something is missing.

`check_settings` looks at the configuration alone, on any machine; `check_installation` at the installed versions; `check_here` at files,
disk, processors and GPUs: `check_static` is all three, without torch or Ray. `check_started` imports verl and proves that our parts are
the ones it will use; `check_cluster` asks the Ray cluster that the run would join. All raise `ConfigError` and write nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faithful_rl import provenance
from faithful_rl.config import FaithfulRLConfig
from faithful_rl.preflight import (
    batches,
    checkpoints,
    cluster,
    constraints,
    crm,
    designs,
    frames,
    judges,
    machine,
    memory,
    model_files,
    plugin_active,
    prompt_lengths,
    rows,
    sft,
    stack,
    steps,
    values,
)
from faithful_rl.preflight.plan import PASSED, SETTINGS_ONLY, plan

__all__ = [
    "PASSED",
    "SETTINGS_ONLY",
    "check_cluster",
    "check_here",
    "check_installation",
    "check_present",
    "check_settings",
    "check_started",
    "check_static",
    "plan",
    "warnings",
]

NO_ROLLOUTS = ("sft", "crm")  # methods that need neither verl's trainer nor judges


def check_static(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Configuration, versions, files and machine, cheapest first.

    Args:
        config: the whole resolved configuration, `faithful_rl.output_dir` set.
        typed: its `faithful_rl` node, typed.

    Raises:
        ConfigError: naming the first thing that is wrong.
    """
    check_settings(config, typed)
    check_installation(config, typed)
    check_here(config, typed)


def _trains_on_rollouts(typed: FaithfulRLConfig) -> bool:
    return typed.method not in (*NO_ROLLOUTS, "sft_verl")


def check_settings(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """The configuration by itself: values, batches, roles, judges. True on every machine.

    Raises:
        ConfigError: as `check_static`.
    """
    if _trains_on_rollouts(typed):
        values.check(config, typed)
        batches.check(config, typed)
        checkpoints.check_settings(config)
        judges.check(typed)


def check_installation(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Installed versions against those of the recipe's world.

    Raises:
        ConfigError: as `check_static`.
    """
    if typed.method == "sft_verl":
        stack.check(typed.hardware.world)
        return
    policy = config["actor_rollout_ref"]
    stack.check(typed.hardware.world, policy["rollout"]["name"], policy["actor"]["strategy"])


def check_here(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """What the run needs of this machine: a place to write, processors, GPUs, model, data, the checkpoint to continue from.

    Raises:
        ConfigError: as `check_static`.
    """
    machine.check_output_dir(typed.output_dir)
    if typed.method == "sft_verl":
        sft.check(config, typed)
        return
    if typed.method in NO_ROLLOUTS:
        machine.check_disk(config, typed, model_bytes=0)
        crm.check(typed)
        return
    machine.check_checkpoint_dir(config, typed)
    if not machine.joins_cluster():
        judges.check_pool(config, typed)
        machine.check_ports(config)
        machine.check_shared_memory(config, typed)
        machine.check_slots(config, typed)
    model_bytes = model_files.check(config["actor_rollout_ref"]["model"]["path"])
    _check_model(config, typed)
    machine.check_disk(config, typed, model_bytes)
    checkpoints.check(config, typed)
    rows.prepare(config, typed)
    _check_data(config, typed)


def check_present(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Model and data where they are on this machine, for a run that will take place on another one. Makes no data.

    Raises:
        ConfigError: as `check_static`.
    """
    if not _trains_on_rollouts(typed):
        return
    if Path(config["actor_rollout_ref"]["model"]["path"]).is_dir():
        model_files.check(config["actor_rollout_ref"]["model"]["path"])
        _check_model(config, typed)
    if rows.present(config) and all(path.is_file() for path in rows.data_files(config["data"]["val_files"])):
        _check_data(config, typed)


def _check_model(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    model = Path(config["actor_rollout_ref"]["model"]["path"])
    provenance.check(model, model_files.KEY)
    memory.check(config, typed, model)


def _check_data(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    rows.check(config, typed.data.check_rows)
    steps.check(config)
    constraints.check(config, typed)
    designs.check(config, typed)


def warnings(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    """What is allowed but probably not meant, one line each; after `check_static`."""
    if typed.method not in ("grpo", "fgrpo"):
        return []
    return [*constraints.warnings(config, typed), *steps.warnings(config), *steps.checkpoint_warnings(config)]


def check_started(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    """What needs verl: its own validation, the proof that platform, trainer and reward manager are ours, and by the real
    processor the frame of boxes and the prompts against their limit. Returns lines for the plan.

    Raises:
        ConfigError: as `check_static`.
    """
    if typed.method in NO_ROLLOUTS:
        return []
    if typed.method == "sft_verl":
        plugin_active.check_engine(typed.hardware.world)
        frames.check_sft(config, typed)
        return [*sft.plan(config, typed, Path(typed.output_dir)), *sft.check_lengths(config, typed)]
    plugin_active.check(config, typed.hardware.world)
    frames.check(config, typed)
    return prompt_lengths.check(config, typed)


def check_cluster(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """What the Ray cluster of RAY_ADDRESS offers; nothing where Ray starts on this machine.

    Raises:
        ConfigError: as `check_static`.
    """
    if _trains_on_rollouts(typed):
        cluster.check(config, typed)
