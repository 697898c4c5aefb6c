"""`python -m faithful_rl.preflight.cluster_probe REQUEST`: join the cluster of RAY_ADDRESS, look around, print one line of JSON.

REQUEST is JSON: `cpus`, `gpus`, `resources` and `wait` (seconds until that much must be free), `paths` and `versions` to look up on
every node, and `progress`, a file that says `imported` and then `joined`. The answer holds `nodes` (see `cluster.Node`) and `pools` (served
pools of judges).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from faithful_rl.judge_pool.pool import pools
from faithful_rl.preflight.cluster import ANSWER

POLL_SECONDS = 1.0
TASK_SECONDS = 15.0  # for one node to start a worker and look around
INTERNAL = ("node:", "memory", "object_store_memory", "bundle_group", "CPU_group", "GPU_group", "accelerator_type:")


def look(paths: list[str], versions: list[str]) -> dict[str, Any]:
    """Runs on one node: shared memory in bytes, absent paths, installed versions."""

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return ""

    return {
        "shared_memory": shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0,
        "missing": [path for path in paths if not os.path.exists(path)],
        "versions": {name: version(name) for name in versions},
    }


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Wait until the needs are met or the time is up, then ask every node."""
    progress = Path(request["progress"])
    progress.write_text("imported")
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR", configure_logging=False)
    progress.write_text("joined")
    try:
        wanted = {"CPU": request["cpus"], "GPU": request["gpus"], **request["resources"]}
        end = time.monotonic() + request["wait"]
        nodes = _nodes()
        while time.monotonic() < end and any(
            sum(node["free"].get(name, 0.0) for node in nodes) < amount for name, amount in wanted.items()
        ):
            time.sleep(POLL_SECONDS)
            nodes = _nodes()
        _add_facts(nodes, request)
        for node in nodes:
            node.pop("id")
        return {"nodes": nodes, "pools": pools()}
    finally:
        ray.shutdown()


def _nodes() -> list[dict[str, Any]]:
    from ray._private.state import available_resources_per_node  # Ray has no public call for it; verl uses the same one

    free = available_resources_per_node()
    return [
        {
            "id": node["NodeID"],
            "name": str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress")),
            "free": _countable(free.get(node["NodeID"], {})),
            "total": _countable(node["Resources"]),
            "facts": {},
        }
        for node in ray.nodes()
        if node["Alive"]
    ]


def _countable(resources: dict[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in resources.items() if not name.startswith(INTERNAL)}


def _add_facts(nodes: list[dict[str, Any]], request: dict[str, Any]) -> None:
    task = ray.remote(look)
    asked = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node["id"], soft=False)
        asked[node["id"]] = task.options(num_cpus=0, scheduling_strategy=place, max_retries=0).remote(request["paths"], request["versions"])
    end = time.monotonic() + TASK_SECONDS
    for node in nodes:
        try:
            node["facts"] = ray.get(asked[node["id"]], timeout=max(0.1, end - time.monotonic()))
        except RayError:  # a busy or lost node; what it offers is known without it
            continue


if __name__ == "__main__":
    sys.stdout.write(ANSWER + json.dumps(main(json.loads(sys.argv[1]))) + "\n")
