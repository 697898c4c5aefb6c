"""`python two_nodes.py FOLDER`: a Ray cluster of two nodes (raylets of their own) on this machine, told what to do over standard input.

The first node trains, the second one, which alone has the resource `judges`, serves judges and
takes nothing else, because it has no CPUs to give. Commands, one a line: `remove` (the second
node's processes are killed), `add` (a new second node), `where` (actors by node). Every command is answered by one line of JSON. The
cluster ends with standard input, so also with the process that started this one.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray
from ray._private import state
from ray.cluster_utils import Cluster

COMMON = {"object_store_memory": 100 << 20, "include_dashboard": False}


def actors() -> dict[str, str]:
    """Living actors, by name or class and process, with the node that each is on."""
    found = {}
    for number, one in enumerate(state.actors().values()):
        if one["State"] == "ALIVE":
            found[one["Name"] or f"{one['ActorClassName']} {number}"] = one["Address"]["NodeID"]
    return found


def say(answer: Any) -> None:
    print("ANSWER" + json.dumps(answer), flush=True)


def main(folder: str) -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 40, "num_gpus": 2, "resources": {"training": 1}, "temp_dir": folder, **COMMON}
    )
    second = cluster.add_node(num_cpus=0, resources={"judges": 2}, object_store_memory=COMMON["object_store_memory"])
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        say({"address": cluster.address, "first": cluster.head_node.node_id, "second": second.node_id})
        for line in sys.stdin:
            if line.strip() == "remove":
                cluster.remove_node(second, allow_graceful=False)
                say("removed")
            elif line.strip() == "add":
                second = cluster.add_node(num_cpus=0, resources={"judges": 2}, object_store_memory=COMMON["object_store_memory"])
                say({"second": second.node_id})
            elif line.strip() == "where":
                say(actors())
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
