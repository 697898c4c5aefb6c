"""Checks before anything starts: what a run needs, and one clear message where something is missing.

`check_static` needs neither torch nor Ray nor a GPU; `check_started` imports verl and proves that our parts are the ones it
will use; `check_cluster` asks the Ray cluster that the run would join. All raise `ConfigError` and write nothing.
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
)
from faithful_rl.preflight.plan import plan

__all__ = ["check_cluster", "check_started", "check_static", "plan", "warnings"]

NO_ROLLOUTS = ("sft", "crm")  # methods that need neither verl's trainer nor judges


def check_static(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Configuration, versions, files and machine, cheapest first.

    Args:
        config: the whole resolved configuration, `faithful_rl.output_dir` set.
        typed: its `faithful_rl` node, typed.

    Raises:
        ConfigError: naming the first thing that is wrong.
    """
    if typed.method == "sft_verl":
        stack.check(typed.hardware.world)
        machine.check_output_dir(typed.output_dir)
        sft.check(config, typed)
        return
    policy = config["actor_rollout_ref"]
    stack.check(typed.hardware.world, policy["rollout"]["name"], policy["actor"]["strategy"])
    machine.check_output_dir(typed.output_dir)
    if typed.method in NO_ROLLOUTS:
        machine.check_disk(config, typed, model_bytes=0)
        crm.check(typed)
        return
    batches.check(config, typed)
    judges.check(typed)
    if not machine.joins_cluster():
        judges.check_pool(config, typed)
        machine.check_ports(config)
        machine.check_shared_memory(config, typed)
        machine.check_slots(config, typed)
    model_bytes = model_files.check(policy["model"]["path"])
    provenance.check(Path(policy["model"]["path"]), model_files.KEY)
    memory.check(config, typed, Path(policy["model"]["path"]))
    machine.check_disk(config, typed, model_bytes)
    checkpoints.check(config, typed)
    rows.prepare(config, typed)
    rows.check(config, typed.data.check_rows)
    steps.check(config)
    constraints.check(config, typed)
    designs.check(config, typed)


def warnings(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    """What is allowed but probably not meant, one line each; after `check_static`."""
    return [*constraints.warnings(config, typed), *steps.warnings(config)] if typed.method in ("grpo", "fgrpo") else []


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
        return [*sft.plan(config, typed, Path(typed.output_dir)), *sft.check_lengths(config, typed)]
    plugin_active.check(config, typed.hardware.world)
    frames.check(config, typed)
    return prompt_lengths.check(config, typed)


def check_cluster(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """What the Ray cluster of RAY_ADDRESS offers; nothing where Ray starts on this machine.

    Raises:
        ConfigError: as `check_static`.
    """
    if typed.method not in (*NO_ROLLOUTS, "sft_verl"):
        cluster.check(config, typed)
