"""Checks before anything starts: what a run needs, and one clear message where something is missing.

`check_static` needs neither torch nor Ray nor a GPU; `check_started` imports verl and proves that our parts are the ones it
will use. Both raise `ConfigError` and write nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faithful_rl.config import FaithfulRLConfig
from faithful_rl.preflight import batches, judges, machine, model_files, plugin_active, rows, stack
from faithful_rl.preflight.plan import plan

__all__ = ["check_started", "check_static", "plan"]


def check_static(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Configuration, versions, files and machine, cheapest first.

    Args:
        config: the whole resolved configuration, `faithful_rl.output_dir` set.
        typed: its `faithful_rl` node, typed.

    Raises:
        ConfigError: naming the first thing that is wrong.
    """
    stack.check(typed.hardware.world)
    machine.check_output_dir(typed.output_dir)
    if typed.method == "sft":
        machine.check_disk(config, typed, model_bytes=0)
        return
    batches.check(config, typed)
    judges.check(typed)
    machine.check_ports(config)
    if not machine.joins_cluster():
        machine.check_slots(config, typed)
    model_bytes = model_files.check(config["actor_rollout_ref"]["model"]["path"])
    machine.check_disk(config, typed, model_bytes)
    rows.prepare(config, typed)
    rows.check(config, typed.data.check_rows)


def check_started(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """What needs verl: its own validation, and the proof that platform, trainer and reward manager are ours.

    Raises:
        ConfigError: as `check_static`.
    """
    if typed.method != "sft":
        plugin_active.check(config, typed.hardware.world)
