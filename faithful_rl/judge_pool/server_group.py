"""vLLM servers on a Ray cluster, each in a named actor of its own on the node that Ray chooses: behind an evaluation.

All of them are reserved together by a placement group or not at all, so that two evaluations cannot hold half of what each needs. Actors
and reservation belong to the driver: they end with it, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import pool
from faithful_rl.judge_pool.server_actor import Look, ModelServer, Started
from faithful_rl.judge_pool.vllm_settings import VllmSettings

NAMESPACE = "faithful-evaluation"
KEY = "ray"
CONNECT_SECONDS = 10.0  # for the machine of an address to accept a connection
RESERVE_SECONDS = 15.0  # for a reservation where nobody is to be waited for: what has just ended is not free at once
WORKER_SECONDS = 180.0  # for a node to start an actor's process, beside the server's own deadline
LOOK_SECONDS = 30.0
CLOSE_SECONDS = 25.0  # for an actor to end its server
POLL_SECONDS = 1  # whole: Ray takes no fraction here


@dataclass(frozen=True)
class Wish:
    """What to set aside for each of `replicas` servers; `seconds` to wait for nodes that an autoscaler brings, or others set free."""

    replicas: int
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def bundle(self) -> dict[str, float]:
        """Ray's names of resources -> amount for one server, all > 0."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: amount for name, amount in wanted.items() if amount > 0}


@dataclass(frozen=True)
class Node:
    """A living node: what it has, and what of it nobody holds now."""

    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]


def join(address: str) -> None:
    """Join the cluster at `address`; "auto" takes RAY_ADDRESS, else the one on this machine, "local" starts one that ends with this
    process. Nothing happens when Ray is initialised already.

    Raises:
        ConfigError: there is none.
    """
    place = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = place.rpartition(":")
    fix = "Start one with `ray start --head`, name one with ray.address or RAY_ADDRESS, or leave servers=ray out."
    try:
        if host and port.isdigit() and "/" not in host and not ray.is_initialized():  # Ray itself tries a dead address for minutes
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        pool.connect(None if address == "auto" else address)
    except OSError as error:
        raise ConfigError(f"{KEY}.address", f"{place}, where nobody answers ({error})", "a running Ray cluster", fix) from error
    except ConfigError as error:
        raise ConfigError(f"{KEY}.address", error.found, "a running Ray cluster", fix) from error


def check_room(wish: Wish) -> None:
    """Refuse at once what the cluster can never hold; says nothing where an autoscaler may still bring nodes (`wish.seconds` > 0).

    Raises:
        ConfigError: with a table of what is asked and what each node has.
    """
    nodes = _nodes()
    room = sum(fits(wish, node.total) for node in nodes)
    if room < wish.replicas and wish.seconds <= 0:
        raise _refusal(wish, nodes, f"a cluster with room for {room} of {wish.replicas} servers")


def fits(wish: Wish, there: Mapping[str, float]) -> int:
    """How many of the servers fit on one node; a server is never spread over several."""
    return min(int(there.get(name, 0.0) / amount + 1e-9) for name, amount in wish.bundle().items())


def table(wish: Wish, nodes: Sequence[Node]) -> str:
    """What a server asks for and what each node offers, free of total, with room for how many servers; plain text in columns."""
    names = list(wish.bundle())
    rows = [["", *names, "servers"], ["asked for each", *(f"{wish.bundle()[name]:g}" for name in names), str(wish.replicas)]]
    for node in nodes:
        amounts = [f"{node.free.get(name, 0.0):g} of {node.total.get(name, 0.0):g}" for name in names]
        rows.append([f"free on {node.name}", *amounts, str(fits(wish, node.free))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


class ServerGroup:
    """Servers of one model. `reserve` first, then `start` each; `close` ends everything, also what is half started."""

    def __init__(self, wish: Wish, settings: VllmSettings, logs: Path) -> None:
        """
        Args:
            settings: of every server, with the model's absolute path or a hub id.
            logs: folder of this machine that gets the end of each server's log.
        """
        self._wish, self._settings, self._logs = wish, settings, logs
        self.name = f"evaluate-{secrets.token_hex(4)}"
        self.secret = secrets.token_urlsafe(32)
        self._expected = ""  # name of the model, known from `reserve` on
        self._placement: Any = None
        self._actors: dict[int, Any] = {}
        self._lives: dict[int, int] = {}  # actors that a server has had

    async def reserve(self) -> None:
        """Set aside what all servers need.

        Raises:
            ConfigError: the model's directory is incomplete; the cluster is too small or others hold it, with the table of `table`.
        """
        self._expected = await asyncio.to_thread(self._settings.served_name)
        await asyncio.to_thread(check_room, self._wish)
        self._placement = placement_group([self._wish.bundle()] * self._wish.replicas, strategy="PACK", name=self.name)
        end = time.monotonic() + max(self._wish.seconds, RESERVE_SECONDS)
        while not await asyncio.to_thread(self._placement.wait, POLL_SECONDS):  # in short waits, so that Ctrl-C is heard
            if time.monotonic() >= end:
                nodes = await asyncio.to_thread(_nodes)
                self._release()
                waited = max(self._wish.seconds, RESERVE_SECONDS)
                raise _refusal(self._wish, nodes, f"a cluster on which {self._wish.replicas} servers had no room together for {waited:g} s")

    async def start(self, index: int) -> Started:
        """Start server `index`, again where it has lived before, and wait until it answers.

        Raises:
            ConfigError: it did not come up: node and reason are in the message, the end of its log in a file of `logs`.
        """
        await self._end(index)
        life = self._lives[index] = self._lives.get(index, -1) + 1
        try:
            handle = self._actors[index] = self._actor(index, life)
            async with asyncio.timeout(self._settings.start_timeout_seconds + WORKER_SECONDS):
                found: Started = await handle.start.remote()
        except TimeoutError as error:
            await self._end(index)
            seconds = f"{self._settings.start_timeout_seconds + WORKER_SECONDS:g} s, in which server {index} did not come up"
            fix = f"Raise {self._settings.key}.start_timeout_seconds, or look at `ray status` and {self._logs}."
            raise ConfigError(KEY, seconds, "a node that starts an actor, and time enough to load the model", fix) from error
        except (RayError, ValueError) as error:
            told = pool.cause(error) if isinstance(error, RayError) else str(error)
            fix = "Install this project with its extra on every node, or see the logs of Ray there."
            raise ConfigError(KEY, f"server {index}, whose actor did not start ({told})", "actors that start on every node", fix) from error
        if found.problem is not None:
            kept = self._keep(index, found.log)
            problem = found.problem
            where = f" Its log is kept in {kept}." if kept is not None else ""
            raise ConfigError(problem.key, f"{problem.found}, on node {found.node}", problem.expected, problem.fix + where)
        return found

    async def look(self, index: int) -> str:
        """Why server `index` is gone, for people; "" while it lives."""
        if index not in self._actors:
            return "it was not started"
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                found: Look = await self._actors[index].look.remote()
        except TimeoutError:
            return f"its actor did not answer within {LOOK_SECONDS:.0f} s"
        except RayError as error:
            return f"its actor is gone ({pool.cause(error)})"
        return "" if found.alive else found.cause or "the server ended"

    async def close(self) -> None:
        """End every server, keep the ends of their logs, give the reservation back. Safe to call again; never raises for what is gone."""
        await asyncio.gather(*(self._end(index) for index in list(self._actors)), return_exceptions=True)
        self._release()

    def _actor(self, index: int, life: int) -> Any:
        wish = self._wish
        place = PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=index)
        options = {
            "name": f"{self.name}-{index}" + (f"-restart-{life}" if life else ""),
            "namespace": NAMESPACE,
            "num_cpus": wish.num_cpus,
            "num_gpus": wish.num_gpus,
            "resources": dict(wish.resources) or None,
            "scheduling_strategy": place,
            "max_restarts": 0,  # an actor that Ray restarts has no server, and its questions must not go to another address unseen
        }
        return ray.remote(ModelServer).options(**options).remote(self._settings, self._expected, self.secret)

    async def _end(self, index: int) -> None:
        handle = self._actors.pop(index, None)
        if handle is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                self._keep(index, await handle.end.remote())
        except (TimeoutError, RayError):
            pass  # its process is ended next, and the server with it
        finally:
            with suppress(RayError, ValueError):
                ray.kill(handle, no_restart=True)

    def _keep(self, index: int, log: bytes) -> Path | None:
        if not log:
            return None
        life = self._lives.get(index, 0)
        path = self._logs / (f"server-{index}" + (f"-restart-{life}" if life else "") + ".log")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(log)
        return path

    def _release(self) -> None:
        placement, self._placement = self._placement, None
        if placement is not None:
            with suppress(RayError, ValueError):
                remove_placement_group(placement)


def _refusal(wish: Wish, nodes: Sequence[Node], found: str) -> ConfigError:
    amounts = ", ".join(f"{amount:g} {name}" for name, amount in wish.bundle().items())
    expected = f"room for {wish.replicas} with {amounts} each, no one spread over nodes"
    fix = "Lower replicas, ray.num_cpus or ray.num_gpus, wait for others with ray.nodes_seconds, or add nodes.\n"
    return ConfigError(KEY, found, expected, fix + table(wish, nodes))


def _nodes() -> list[Node]:
    from ray._private.state import available_resources_per_node  # Ray has no public call for it; verl uses the same one

    free = available_resources_per_node()
    return [
        Node(str(one.get("NodeManagerHostname") or one.get("NodeManagerAddress")), one["Resources"], free.get(one["NodeID"], {}))
        for one in ray.nodes()
        if one["Alive"]
    ]
