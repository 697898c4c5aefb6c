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
from faithful_rl.preflight import gpus

GIB = 2**30
CPUS_PER_WORKER = 3  # verl's placement groups reserve `max_colocate_count` CPUs for every worker slot
CPUS_PER_SERVER_WORKER = 2  # the same for rollout servers with a pool of their own
CPUS_OF_QUEUE = 1  # TransferQueue's controller; each of its storage units takes one more
CPUS_OF_DRIVER = 1  # the task runner's actor
CPUS_TO_SCHEDULE = 1  # Ray places an actor that runs on 0 CPUs only where one is free


@dataclass(frozen=True)
class Group:
    """Bundles that Ray has to place together: `gpus` GPUs and `cpus` CPUs on one node, `nodes` times; with custom resources if named."""

    what: str
    nodes: int
    cpus: float
    gpus: float
    resources: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Slots:
    """Logical resources that the run's placement groups and actors reserve in Ray."""

    cpus: int
    gpus: int
    parts: tuple[tuple[str, int, int], ...]  # (what, CPUs, GPUs)
    groups: tuple[Group, ...] = ()


def required_slots(config: Mapping[str, Any], typed: FaithfulRLConfig) -> Slots:
    """Sum of what is reserved at the same time; a run with less waits for ever without a word."""
    trainer, rollout = config["trainer"], config["actor_rollout_ref"]["rollout"]
    groups = [_workers("actor and rollout workers", trainer["nnodes"], trainer["n_gpus_per_node"], CPUS_PER_WORKER)]
    if typed.reference_policy.placement == "own_pool":
        own = typed.reference_policy
        groups.append(_workers("reference policy workers", own.nnodes, own.n_gpus_per_node, CPUS_PER_WORKER))
    if trainer["v1"]["trainer_mode"] == "separate_async":
        groups.append(_workers("rollout servers of their own", rollout["nnodes"], rollout["n_gpus_per_node"], CPUS_PER_SERVER_WORKER))
    parts = [(group.what, int(group.nodes * group.cpus), int(group.nodes * group.gpus)) for group in groups]
    units = config["transfer_queue"]["backend"]["SimpleStorage"]["num_data_storage_units"]
    parts.append(("TransferQueue", CPUS_OF_QUEUE + units, 0))
    judges = _judge_groups(typed)
    cpus = math.ceil(sum(one.nodes * one.cpus for one in judges))
    parts.append(("judge workers", cpus, math.ceil(sum(one.nodes * one.gpus for one in judges))))
    parts.append(("driver, servers, reward workers", CPUS_OF_DRIVER + CPUS_TO_SCHEDULE, 0))
    return Slots(sum(part[1] for part in parts), sum(part[2] for part in parts), tuple(parts), (*groups, *judges))


def _workers(what: str, nodes: int, per_node: int, cpus: int) -> Group:
    return Group(what, nodes, cpus * per_node, per_node)


def _judge_groups(typed: FaithfulRLConfig) -> list[Group]:
    """The run's own judges, each replica on one node; a pool that serves already takes nothing more."""
    own = {} if typed.judges.pool else {"consistency": typed.judges.consistency, "grounding": typed.judges.grounding}
    return [
        Group(f"{name} judge", one.replicas, one.num_cpus, one.num_gpus, tuple(sorted(one.resources.items()))) for name, one in own.items()
    ]


def joins_cluster() -> bool:
    """Whether Ray will join a running cluster instead of starting a local one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def check_slots(config: Mapping[str, Any], typed: FaithfulRLConfig, offered: Mapping[str, float] | None = None) -> None:
    """Compare needs with what Ray will offer: `offered` (a cluster's resources), else the local Ray's settings.

    Raises:
        ConfigError: too few CPUs or GPUs, with the parts that need them.
    """
    need = required_slots(config, typed)
    table = ", ".join(f"{what}: {cpus} CPU{f' + {gpus} GPU' if gpus else ''}" for what, cpus, gpus in need.parts)
    wanted = "at least {} (" + table + "); with fewer the run would wait for ever"
    init = config["ray_kwargs"]["ray_init"]
    if offered is None:
        if typed.hardware.world == "gpu":
            _check_gpus(need.gpus, wanted.format(need.gpus))
        # Ray counts a machine's CPUs where the setting is null; GPUs of a CPU world are logical and must be given.
        offered = {"CPU": init.get("num_cpus") or os.cpu_count() or 1}
        if init.get("num_gpus") is not None:
            offered["GPU"] = init["num_gpus"]
    for name, key, number in (("CPU", "num_cpus", need.cpus), ("GPU", "num_gpus", need.gpus)):
        if name in offered and offered[name] < number:
            raise ConfigError(
                f"ray_kwargs.ray_init.{key}",
                f"{offered[name]:g} logical {name}s",
                wanted.format(number),
                f"Set ray_kwargs.ray_init.{key}={number}, or ask for fewer workers.",
            )


def _check_gpus(number: int, expected: str) -> None:
    """Real ones: a Ray that starts here takes what the driver names, and places nothing for ever where that is too little."""
    there = gpus.found()
    if there.count < number:
        raise ConfigError(
            "GPUs of this machine",
            f"{there.count} ({there.where})",
            expected,
            "Choose a smaller hardware group (hardware=h100x1, h100x4), judges elsewhere (judges=endpoint, judges=pool), or join a "
            "cluster that has them: RAY_ADDRESS.",
        )


def check_output_dir(path: str, key: str = "faithful_rl.output_dir") -> None:
    """The nearest existing folder of `path` must be one, writable, and on a disk. Creates nothing.

    Raises:
        ConfigError: naming `key`.
    """
    folder = nearest_folder(path)
    inside = next((parent for parent in Path(path or "outputs").absolute().parents if parent.exists() and not parent.is_dir()), None)
    if inside is not None:
        raise ConfigError(key, f"{path} below the file {inside}", "a directory", "Choose another one.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(key, f"{path} in {folder}, which cannot be written", "a writable directory", "Choose another one.")
    if os.statvfs(folder).f_blocks == 0:  # /proc, /sys: root may write there, and nothing stays
        raise ConfigError(key, f"{path} in {folder}, which keeps no files", "a directory on a disk", "Choose another one.")


def check_checkpoint_dir(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Checkpoints lie below the output directory: its lock is what keeps two runs from writing one set of them.

    Raises:
        ConfigError: they would lie elsewhere, or cannot be written (a link to another disk is followed).
    """
    key = "trainer.default_local_dir"
    named = str(config["trainer"]["default_local_dir"])
    inside, folder = (Path(os.path.abspath(one)) for one in (typed.output_dir or "outputs", named))
    if typed.output_dir and not folder.is_relative_to(inside):
        raise ConfigError(
            key,
            named,
            f"a folder below faithful_rl.output_dir = {typed.output_dir}, whose lock keeps a second run from the same checkpoints",
            "Leave it out, and choose faithful_rl.output_dir where checkpoints have room (its folder `checkpoints` may be a link).",
        )
    check_output_dir(str(folder), key)


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
    needed = checkpoint_bytes(config, model_bytes)
    checkpoints = nearest_folder(str(config["trainer"]["default_local_dir"])) if "trainer" in config else nearest_folder(typed.output_dir)
    if checkpoints.stat().st_dev == nearest_folder(typed.output_dir).stat().st_dev:
        check_free(typed, needed)
        return
    check_free(typed, 0)
    _check_room("trainer.default_local_dir", checkpoints, needed)


def check_free(typed: FaithfulRLConfig, needed: int) -> None:
    """The same against `needed` bytes of checkpoints."""
    _check_room("faithful_rl.output_dir", nearest_folder(typed.output_dir), needed + typed.hardware.min_free_disk_gib * GIB)


def _check_room(key: str, folder: Path, wanted: float) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ConfigError(
            key,
            f"{free / GIB:.1f} GiB free in {folder}",
            f"at least {wanted / GIB:.1f} GiB for checkpoints and logs",
            "Free some space, choose another faithful_rl.output_dir, or lower trainer.max_actor_ckpt_to_keep.",
        )


def check_shared_memory(config: Mapping[str, Any], typed: FaithfulRLConfig, folder: str = "/dev/shm") -> None:
    """Weights travel from a worker to its rollout server through shared memory on a CPU (two buckets per worker); NCCL and the data
    loader use it beside GPUs, about 1 GiB per worker. With too little a process dies of a bus error, which names nothing.

    Raises:
        ConfigError: with the need, what is free and the cure.
    """
    if not os.path.isdir(folder):
        return
    workers = config["trainer"]["n_gpus_per_node"]
    bucket = config["actor_rollout_ref"]["rollout"]["checkpoint_engine"]["update_weights_bucket_megabytes"] * 2**20
    wanted = workers * (2 * bucket if typed.hardware.world == "cpu" else GIB)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ConfigError(
            folder,
            f"{free / GIB:.2f} GiB free",
            f"at least {wanted / GIB:.2f} GiB of shared memory for {workers} worker(s)",
            "Give the container more (docker run --shm-size, an emptyDir of medium Memory on Kubernetes), or remove what lies there.",
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
