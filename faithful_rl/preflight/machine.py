"""What the run needs of the machine or cluster: a place to write, disk, ports, CPU and GPU slots for Ray."""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig

GIB = 2**30
CPUS_PER_WORKER = 3  # verl's placement groups reserve `max_colocate_count` CPUs for every worker slot
CPUS_OF_QUEUE = 1  # TransferQueue's controller; each of its storage units takes one more
CPUS_OF_DRIVER = 1  # the task runner's actor
CPUS_TO_SCHEDULE = 1  # Ray places an actor that runs on 0 CPUs only where one is free


@dataclass(frozen=True)
class Slots:
    """Logical resources that the run's placement groups and actors reserve in Ray."""

    cpus: int
    gpus: int
    parts: tuple[tuple[str, int, int], ...]  # (what, CPUs, GPUs)


def required_slots(config: Mapping[str, Any], typed: FaithfulRLConfig) -> Slots:
    """Sum of what is reserved at the same time; a run with less waits for ever without a word."""
    workers = config["trainer"]["n_gpus_per_node"] * config["trainer"]["nnodes"]
    parts = [("actor and rollout workers", CPUS_PER_WORKER * workers, workers)]
    if typed.reference_policy.placement == "own_pool":
        own = typed.reference_policy.n_gpus_per_node * typed.reference_policy.nnodes
        parts.append(("reference policy workers", CPUS_PER_WORKER * own, own))
    units = config["transfer_queue"]["backend"]["SimpleStorage"]["num_data_storage_units"]
    parts.append(("TransferQueue", CPUS_OF_QUEUE + units, 0))
    parts.append(("judge workers", *_judge_slots(typed)))
    parts.append(("driver, servers, reward workers", CPUS_OF_DRIVER + CPUS_TO_SCHEDULE, 0))
    return Slots(sum(part[1] for part in parts), sum(part[2] for part in parts), tuple(parts))


def _judge_slots(typed: FaithfulRLConfig) -> tuple[int, int]:
    """CPUs and GPUs of the run's own judges, rounded up; a pool that serves already takes nothing more."""
    own = [] if typed.judges.pool else [typed.judges.consistency, typed.judges.grounding]
    return math.ceil(sum(one.replicas * one.num_cpus for one in own)), math.ceil(sum(one.replicas * one.num_gpus for one in own))


def joins_cluster() -> bool:
    """Whether Ray will join a running cluster instead of starting a local one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def check_slots(config: Mapping[str, Any], typed: FaithfulRLConfig, offered: Mapping[str, float] | None = None) -> None:
    """Compare needs with what Ray will offer: `offered` (a cluster's resources), else the local Ray's settings.

    Raises:
        ConfigError: too few CPUs or GPUs, with the parts that need them.
    """
    need = required_slots(config, typed)
    init = config["ray_kwargs"]["ray_init"]
    if offered is None:
        # Ray counts a machine's CPUs where the setting is null; GPUs of a CPU world are logical and must be given.
        offered = {"CPU": init.get("num_cpus") or os.cpu_count() or 1}
        if init.get("num_gpus") is not None:
            offered["GPU"] = init["num_gpus"]
    table = ", ".join(f"{what}: {cpus} CPU{f' + {gpus} GPU' if gpus else ''}" for what, cpus, gpus in need.parts)
    for name, key, wanted in (("CPU", "num_cpus", need.cpus), ("GPU", "num_gpus", need.gpus)):
        if name in offered and offered[name] < wanted:
            raise ConfigError(
                f"ray_kwargs.ray_init.{key}",
                f"{offered[name]:g} logical {name}s",
                f"at least {wanted} ({table}); with fewer the run would wait for ever",
                f"Set ray_kwargs.ray_init.{key}={wanted}, or ask for fewer workers.",
            )


def check_output_dir(path: str) -> None:
    """The nearest existing folder of `path` must be writable. Creates nothing."""
    folder = nearest_folder(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            "faithful_rl.output_dir", f"{path} in {folder}, which cannot be written", "a writable directory", "Choose another one."
        )


def nearest_folder(path: str) -> Path:
    """`path` itself or the nearest parent that exists."""
    folder = Path(path or "outputs").absolute()
    while not folder.exists():
        folder = folder.parent
    return folder if folder.is_dir() else folder.parent


def checkpoint_bytes(config: Mapping[str, Any], model_bytes: int) -> int:
    """Disk that checkpoints take: fp32 weights and two AdamW moments, kept copies plus the one being written.

    Weights on disk may be bf16, so the estimate takes twice their size for fp32: 2 * 3 * model_bytes per checkpoint.
    """
    if config["trainer"]["save_freq"] <= 0:
        return 0
    kept = config["trainer"]["max_actor_ckpt_to_keep"]
    steps = config["trainer"]["total_training_steps"] or 10 * config["trainer"]["save_freq"]
    copies = (kept + 1) if kept else -(-steps // config["trainer"]["save_freq"])
    return int(copies * 6 * model_bytes)


def check_disk(config: Mapping[str, Any], typed: FaithfulRLConfig, model_bytes: int) -> None:
    """Free space below the output directory against checkpoints plus `hardware.min_free_disk_gib`.

    Raises:
        ConfigError: with both numbers in GiB.
    """
    folder = nearest_folder(typed.output_dir)
    free = shutil.disk_usage(folder).free
    wanted = checkpoint_bytes(config, model_bytes) + typed.hardware.min_free_disk_gib * GIB
    if free < wanted:
        raise ConfigError(
            "faithful_rl.output_dir",
            f"{free / GIB:.1f} GiB free in {folder}",
            f"at least {wanted / GIB:.1f} GiB for checkpoints and logs",
            "Free some space, choose another faithful_rl.output_dir, or lower trainer.max_actor_ckpt_to_keep.",
        )


def check_ports(config: Mapping[str, Any]) -> None:
    """Every port that the configuration fixes must be free on this machine.

    Raises:
        ConfigError: naming the key and the port.
    """
    init = config["ray_kwargs"]["ray_init"]
    fixed = {"ray_kwargs.ray_init.dashboard_port": init.get("dashboard_port") if init.get("include_dashboard") else None}
    prometheus = config["actor_rollout_ref"]["rollout"]["prometheus"]
    fixed["actor_rollout_ref.rollout.prometheus.port"] = prometheus["port"] if prometheus["enable"] else None
    metrics = config["transfer_queue"].get("metrics") or {}
    fixed["transfer_queue.metrics.port"] = (metrics.get("port") or None) if metrics.get("enabled") else None
    for key, port in fixed.items():
        if port is not None and not _is_free(int(port)):
            raise ConfigError(key, f"port {port}, which is in use", "a free port", f"Choose another {key}, or stop what listens there.")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
