"""What a joined Ray cluster offers against what the run reserves: a table within seconds in place of a wait without end.

Ray is asked by a program of its own (`cluster_probe`), which can be ended when the cluster does not answer.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight import machine, stack
from faithful_rl.preflight.machine import GIB, Group

ANSWER = "CLUSTER "
CONNECT_SECONDS = 5.0  # for the head's port to take a connection
JOIN_SECONDS = 20.0  # for the probe to join, once its imports are done
ANSWER_SECONDS = 30.0  # for its imports, and to hear from every node, beside `cluster_wait_seconds`
POLL_SECONDS = 0.1
ADVICE = "Check RAY_ADDRESS, RAY_AUTH_TOKEN and `ray status`; unset RAY_ADDRESS to run on this machine alone."


@dataclass
class Node:
    """One node of the cluster: what is free now, and what a task there has seen (`facts`; empty where none answered)."""

    name: str
    free: dict[str, float]  # CPU, GPU and custom resources by name
    total: dict[str, float]
    facts: dict[str, Any] = field(default_factory=dict)


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Refuse a run that the cluster of RAY_ADDRESS cannot place; does nothing where Ray starts on this machine.

    Raises:
        ConfigError: no answer, too few resources, a node with other versions, without the files, or with too little shared memory.
    """
    if not machine.joins_cluster():
        return
    need = machine.required_slots(config, typed)
    paths = _paths(config)
    request = {
        "cpus": need.cpus,
        "gpus": need.gpus,
        "resources": _custom(need.groups),
        "wait": typed.hardware.cluster_wait_seconds,
        "paths": list(paths),
        "versions": list(_versions(config, typed)),
        "pool": typed.judges.pool,
    }
    answer = _ask(request, typed.hardware.cluster_wait_seconds + ANSWER_SECONDS)
    nodes = [Node(**one) for one in answer["nodes"]]
    check_fit(need, nodes, typed.hardware.cluster_wait_seconds)
    check_storage(nodes, typed.hardware.node_resource)
    if typed.judges.pool and typed.judges.pool not in answer["pools"]:
        raise ConfigError(
            "faithful_rl.judges.pool",
            repr(typed.judges.pool),
            f"a pool of this cluster ({', '.join(answer['pools']) or 'none is served'})",
            f"Start it: python -m faithful_rl.judges serve config=... name={typed.judges.pool}.",
        )
    workers = [node for node in nodes if node.total.get("GPU", 0) > 0 or len(nodes) == 1]
    _check_facts(workers, typed, paths, _versions(config, typed))


def _versions(config: Mapping[str, Any], typed: FaithfulRLConfig) -> dict[str, str]:
    return stack.wanted(typed.hardware.world, config["actor_rollout_ref"]["rollout"]["name"])


def _custom(groups: Sequence[Group]) -> dict[str, float]:
    total: dict[str, float] = {}
    for group in groups:
        for name, amount in group.resources:
            total[name] = total.get(name, 0.0) + group.nodes * amount
    return total


def _paths(config: Mapping[str, Any]) -> dict[str, str]:
    """Files that every node must see, with the key that names each; hub ids and relative paths are left out."""
    files = config["data"]["train_files"]
    named = {str(config["actor_rollout_ref"]["model"]["path"]): "actor_rollout_ref.model.path"}
    named |= {str(file): "data.train_files" for file in ([files] if isinstance(files, str) else files)}
    return {path: key for path, key in named.items() if Path(path).is_absolute()}


def _ask(request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The probe's answer. `seconds`: for all of it, after its first sign of life.

    Raises:
        ConfigError: nobody takes a connection, or nothing comes back in time.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    _knock(address)
    # The probe must not be taken for the job's own driver, which will hand its runtime environment to Ray itself.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_JOB_CONFIG_JSON_ENV_VAR"}
    with tempfile.TemporaryDirectory(prefix="faithful_rl_") as folder:
        progress = Path(folder) / "progress"
        program = [sys.executable, "-m", "faithful_rl.preflight.cluster_probe", json.dumps({**request, "progress": str(progress)})]
        with (Path(folder) / "out").open("w+") as out, (Path(folder) / "err").open("w+") as err:
            process = subprocess.Popen(program, stdout=out, stderr=err, env=environment)
            try:
                late = _wait(process, progress, seconds)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            written, told = ((Path(folder) / name).read_text(errors="replace") for name in ("out", "err"))
    if late:
        raise ConfigError("RAY_ADDRESS", f"{address}, which did not answer within {late:g} s", "a Ray cluster that answers", ADVICE)
    lines = [line for line in written.splitlines() if line.startswith(ANSWER)]
    if not lines:
        last = (told.strip().splitlines() or ["no message"])[-1]
        raise ConfigError("RAY_ADDRESS", f"{address}, which cannot be joined ({last[:300]})", "a Ray cluster that answers", ADVICE)
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix(ANSWER))
    return answer


def _knock(address: str) -> None:
    """A connection to the head's port: Ray itself tries for a minute to reach one that is gone."""
    host, _, port = address.rpartition("://")[2].partition(":")
    if not port.isdigit():
        return  # auto, local, or a name that Ray resolves
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS):
            return
    except OSError as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        found = f"{address}, which cannot be joined (no connection within {CONNECT_SECONDS:g} s: {why})"
        raise ConfigError("RAY_ADDRESS", found, "a Ray cluster that answers", ADVICE) from error


def _wait(process: subprocess.Popen[bytes], progress: Path, seconds: float) -> float:
    """Wait for the probe's end; returns 0, or the seconds after which it was given up: while it joined, or in all."""
    began, imported = time.monotonic(), 0.0
    while process.poll() is None:
        now, said = time.monotonic(), progress.read_text() if progress.exists() else ""
        imported = imported or (now if said else 0.0)
        if said == "imported" and now - imported > JOIN_SECONDS:
            return JOIN_SECONDS
        if now - began > seconds:
            return seconds
        time.sleep(POLL_SECONDS)
    return 0.0


def check_fit(need: machine.Slots, nodes: Sequence[Node], waited: float) -> None:
    """Place every group on the nodes' free resources, largest first, each on the fullest node that holds it.

    Raises:
        ConfigError: with a table of needs and nodes, naming the first role that finds no place.
    """
    free = [dict(node.free) for node in nodes]
    missing = ""
    for group in sorted(need.groups, key=lambda group: (-group.gpus, -group.cpus)):
        wanted = {"CPU": group.cpus, "GPU": group.gpus, **dict(group.resources)}
        for _ in range(group.nodes):
            fitting = [one for one in free if all(one.get(name, 0.0) >= amount for name, amount in wanted.items())]
            if not fitting:
                missing = missing or group.what
                continue
            chosen = min(fitting, key=lambda one: (one.get("GPU", 0.0), one.get("CPU", 0.0)))
            for name, amount in wanted.items():
                chosen[name] = chosen.get(name, 0.0) - amount
    if not missing and sum(node.free.get("CPU", 0.0) for node in nodes) < need.cpus:
        missing = "driver, servers and TransferQueue"
    if missing:
        raise ConfigError(
            "Ray cluster",
            f"no place for: {missing}, after {waited:g} s\n{_table(need, nodes)}\n",
            "free resources for every role on nodes that hold it whole; with fewer the run would wait for ever",
            "Add nodes, end other jobs (`ray job list`), or ask for fewer workers.",
        )


def check_storage(nodes: Sequence[Node], resource: str | None) -> None:
    """TransferQueue pins its storage units, one CPU each, to nodes by the order of their ids: each node must be able to take one.

    Raises:
        ConfigError: a node that may be chosen has no CPU, or no node has the resource.
    """
    eligible = [node for node in nodes if resource is None or node.total.get(resource, 0.0) > 0]
    key = "faithful_rl.hardware.node_resource"
    if not eligible:
        raise ConfigError(
            key,
            repr(resource),
            "a custom resource that some node has",
            f"Start the training nodes with --resources='{{\"{resource}\": 1}}'.",
        )
    for node in eligible:
        if node.total.get("CPU", 0.0) < 1:
            raise ConfigError(
                key,
                f"{resource or 'nothing'}, and node {node.name} without CPUs, where TransferQueue may put its storage and wait for ever",
                "a custom Ray resource that only nodes with CPUs have",
                "Start the training nodes with --resources='{\"training\": 1}', and set faithful_rl.hardware.node_resource=training.",
            )


def _table(need: machine.Slots, nodes: Sequence[Node]) -> str:
    lines = [f"  {'the run reserves':<44}{'CPU':>7}{'GPU':>7}"]
    listed = {group.what for group in need.groups}
    for group in need.groups:
        custom = "".join(f" {name}:{amount:g}" for name, amount in group.resources)
        lines.append(f"  {f'{group.what} ({group.nodes} x)':<44}{group.cpus:>7g}{group.gpus:>7g}{custom}")
    lines += [f"  {what:<44}{cpus:>7}{gpus:>7}" for what, cpus, gpus in need.parts if what not in listed and what != "judge workers"]
    lines.append(f"  {'free in the cluster (of all)':<44}{'CPU':>7}{'GPU':>7}")
    for node in nodes:
        custom = "".join(f" {name}:{amount:g}" for name, amount in sorted(node.free.items()) if name not in ("CPU", "GPU"))
        cpus, gpus = (f"{node.free.get(name, 0):g}/{node.total.get(name, 0):g}" for name in ("CPU", "GPU"))
        lines.append(f"  {node.name:<44}{cpus:>7}{gpus:>7}{custom}")
    return "\n".join(lines)


def _check_facts(nodes: Sequence[Node], typed: FaithfulRLConfig, paths: Mapping[str, str], pins: Mapping[str, str]) -> None:
    for node in nodes:
        if not node.facts:
            raise ConfigError(
                f"node {node.name}",
                "no answer to a task that takes no processor",
                "a node that starts workers: the run may be placed on it",
                "Look at its raylet (`ray status`, its logs), or take it out of the cluster.",
            )
        for path in node.facts["missing"]:
            raise ConfigError(
                paths[path], f"{path}, which node {node.name} does not see", "a path on storage that all nodes share", "Mount it there too."
            )
        for name, found in node.facts["versions"].items():
            if not stack.fits(found, pins[name], typed.hardware.world):
                raise ConfigError(
                    f"node {node.name}",
                    f"{name} {found or 'not installed'}",
                    f"{name} {pins[name]}, as here",
                    "Use one image for all nodes.",
                )
        slots = node.total.get("GPU", 0.0)
        wanted = slots * GIB if typed.hardware.world == "gpu" else 0.0
        if node.facts["shared_memory"] < wanted:
            raise ConfigError(
                f"/dev/shm of node {node.name}",
                f"{node.facts['shared_memory'] / GIB:.2f} GiB",
                f"at least {wanted / GIB:.0f} GiB, one for each GPU",
                "Mount an emptyDir of medium Memory there (cluster/base shows it).",
            )
