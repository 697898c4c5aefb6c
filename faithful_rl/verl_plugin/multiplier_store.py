"""The one place where a run's multipliers can be read, by any process of the cluster, with the step they belong to.

`RAY_AUTH_MODE=token python -m faithful_rl.verl_plugin.multiplier_store RUN_DIR` prints them for a run on this machine's cluster
(Ray's token authentication is on by default; a process that joins a cluster has to ask for it).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from faithful_rl.judge_pool import NAMESPACE as JUDGES_NAMESPACE
from faithful_rl.run_directory import read_json, write_json

NAME = "multiplier-store"
CLUSTER_FILE = "cluster.json"


class MultiplierStore:
    """Keeps the latest published multipliers. Steps only move forward, so a late message never undoes a newer one."""

    def __init__(self) -> None:
        self._step = -1
        self._multipliers: dict[str, float] = {}

    def publish(self, step: int, multipliers: Mapping[str, float]) -> bool:
        """Set the multipliers that the advantage of step `step` + 1 will use; False when `step` is older than what is held."""
        if step < self._step:
            return False
        self._step, self._multipliers = step, dict(multipliers)
        return True

    def read(self) -> dict[str, Any]:
        """`{"step": last finished step or -1 before any, "multipliers": {name: value}}`."""
        return {"step": self._step, "multipliers": dict(self._multipliers)}


def create() -> Any:
    """Start the run's store in the caller's namespace and on its node; it lives as long as the caller.

    An actor that takes no CPU may be put anywhere, on a node of judges too, with which it would die and end the run.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(MultiplierStore).options(name=NAME, num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()


def write_cluster_file(run_dir: Path) -> None:
    """Say in the run directory how another process reaches this run's cluster and named actors."""
    context = ray.get_runtime_context()
    write_json(run_dir / CLUSTER_FILE, {"address": context.gcs_address, "namespace": context.namespace})


def connect(namespace: str | None = None) -> Any:
    """Handle of the store of the run in `namespace` (default: the caller's).

    Raises:
        ValueError: no run is up in that namespace.
    """
    return ray.get_actor(NAME, namespace=namespace)


def read_run(run_dir: Path) -> dict[str, Any]:
    """Join the cluster of the run in `run_dir` and read its store; also lists the run's named actors, and the judges of the cluster.

    Raises:
        ValueError: the run has not started its actors yet, or its store is gone.
        ConnectionError: the cluster is gone, or RAY_AUTH_MODE=token is missing.
    """
    where = read_json(run_dir / CLUSTER_FILE)
    if not where:
        raise ValueError(f"{run_dir} has no {CLUSTER_FILE}: no run has started its actors there")
    ray.init(address=where["address"], namespace=where["namespace"], log_to_driver=False)
    try:
        state: dict[str, Any] = ray.get(connect().read.remote(), timeout=60)
        everyone = ray.util.list_named_actors(all_namespaces=True)
        return {**state, "actors": sorted(one["name"] for one in everyone if one["namespace"] in (where["namespace"], JUDGES_NAMESPACE))}
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read_run(Path(sys.argv[1]))) + "\n")
