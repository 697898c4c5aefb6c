"""Start, list and stop pools: named Ray actors in the namespace `faithful-judges`.

A pool is one registry actor, `<pool>`, and replicas, `<pool>-<judge>-<index>`. Those that are served are
detached: they outlive the process and the job that started them. Ray restarts actors that die.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import GetTimeoutError, RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from faithful_rl.cluster_token import make_token
from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import NAMESPACE
from faithful_rl.judge_pool.failure_log import clean
from faithful_rl.judge_pool.messages import Description, Health, State
from faithful_rl.judge_pool.registry import LOOK_SECONDS, Registry
from faithful_rl.judge_pool.replica import CLOSE_SECONDS, Replica
from faithful_rl.judge_pool.settings import JudgeSettings, PoolSettings, replica_name, split_replica_name, to_mapping
from faithful_rl.judge_pool.vllm_settings import check_gpus
from faithful_rl.judges.backend import build_backend

CALL_SECONDS = 30.0  # for an actor to take a short call on a busy machine
CONTROL_CALLS = 256  # calls beside questions that an actor takes at the same time
POLL_SECONDS = 0.25
GONE_SECONDS = 30.0  # for the names of ended actors to become free
ACTOR: dict[str, Any] = {"namespace": NAMESPACE, "max_restarts": -1, "max_task_retries": 0}


class PoolError(RuntimeError):
    """A pool did not start, or its actors do not answer. The message says which and why."""


@dataclass(frozen=True)
class PoolStatus:
    """One pool as it is now; `description` is None when its registry is gone or does not answer."""

    name: str
    description: Description | None
    replicas: list[Health]


@dataclass(frozen=True)
class Started:
    """A pool that `start` made. Without a lifetime of their own its actors end with these handles, or with the job."""

    status: PoolStatus
    handles: tuple[Any, ...]


@dataclass(frozen=True)
class Stopped:
    """What `stop` ended: rollouts given up by replica; -1 for one that did not answer."""

    name: str
    left: dict[str, int]


def connect(address: str | None = None) -> None:
    """Join the Ray cluster at `address` (default: RAY_ADDRESS, else one that runs on this machine; "local" starts one that ends with
    this process). Nothing happens when Ray is initialised already.

    Raises:
        ConfigError: there is none.
    """
    if ray.is_initialized():
        return
    more = {"include_dashboard": False} if address == "local" else {}
    if address == "local":
        make_token()
    try:
        ray.init(address=address or "auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR", **more)
    except (ConnectionError, RuntimeError, ValueError) as error:
        named = address or os.environ.get("RAY_ADDRESS")
        raise ConfigError(
            "Ray cluster",
            f"none {f'at {named}' if named else 'on this machine'} that answers and takes this process's token",
            "a running cluster that judges and training jobs share",
            "Start one with `ray start --head`, name one with --address or RAY_ADDRESS (its token in RAY_AUTH_TOKEN), or use "
            "--foreground --address local.",
        ) from error


def serve(settings: PoolSettings, say: Callable[[Sequence[Health]], None] = lambda _: None) -> PoolStatus:
    """Start a pool that outlives this process and wait until every replica is healthy; see `start`."""
    return start(settings, detached=True, say=say).status


def start(settings: PoolSettings, *, detached: bool = False, say: Callable[[Sequence[Health]], None] = lambda _: None) -> Started:
    """Start a pool and wait until every replica is healthy; `say` hears of the replicas while they start.

    Raises:
        ConfigError: a pool of this name exists, a backend's settings are wrong, or the cluster is too small.
        PoolError: a replica failed to start or was not healthy within `settings.start_seconds`; everything is taken down again.
    """
    _check_backends(settings)
    _check_resources(settings)
    _check_name(settings.name)
    plain = to_mapping(settings)
    kind = {**ACTOR, "lifetime": "detached"} if detached else ACTOR
    handles: list[Any] = []
    try:
        # Beside whoever starts the pool where possible, and not on a judges' node, with which it would go.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {"name": settings.name, "num_cpus": 0, "max_concurrency": CONTROL_CALLS, "scheduling_strategy": here, **kind}
        actor = ray.remote(Registry).options(**options)
        registry = actor.remote(plain, datetime.now(UTC).isoformat(timespec="seconds"))
        handles.append(registry)
        for judge in settings.judges:
            # By a generator: what was started before a failure is then in the list, to be taken down.
            handles.extend(_start_replica(settings, plain, judge, index, kind) for index in range(settings.judges[judge].replicas))
        # The first answer waits for the registry's process as well, whose start takes a busy machine longer than a short call.
        description = _call(registry.describe, max(CALL_SECONDS, settings.start_seconds))
        found = PoolStatus(settings.name, description, _wait_healthy(settings, registry, say))
        return Started(found, tuple(handles))
    except BaseException as error:
        for handle in reversed(handles):
            ray.kill(handle, no_restart=True)
        if isinstance(error, ValueError) and not isinstance(error, ConfigError):  # Ray: the name is taken
            raise _taken(settings.name, "another command has just started it") from error
        raise


def pools() -> list[str]:
    """Names of all pools of the cluster, also of those of which only some actors are left."""
    return sorted({pool for pool, _ in _actors()})


def status(name: str) -> PoolStatus:
    """How a pool is now.

    Raises:
        ConfigError: there is no pool of this name.
    """
    if name not in pools():
        known = ", ".join(pools()) or "none"
        raise ConfigError("name", repr(name), f"a pool of this cluster ({known})", "Start it with `python -m faithful_rl.judges serve`.")
    try:
        registry = ray.get_actor(name, NAMESPACE)
        return PoolStatus(name, _call(registry.describe, CALL_SECONDS), _call(registry.look, CALL_SECONDS))
    except (ValueError, PoolError):
        rest = [actor for pool, actor in _actors() if pool == name and actor != name]
        return PoolStatus(name, None, [Health(one, State.UNREACHABLE, "the pool's registry does not answer") for one in rest])


def stop(name: str, drain_seconds: float = 30.0) -> Stopped:
    """Take nothing new, let the replicas finish for at most `drain_seconds`, end all actors of the pool.

    Raises:
        ConfigError: there is no pool of this name.
    """
    actors = [actor for pool, actor in _actors() if pool == name]
    if not actors:
        status(name)
    handles = {actor: handle for actor in actors if (handle := _handle(actor)) is not None}
    registry = handles.pop(name, None)
    if registry is not None:
        with contextlib.suppress(PoolError):  # it is about to be killed; clients find out by themselves
            _call(registry.refuse, CALL_SECONDS)
    draining = {actor: handle.drain.remote(drain_seconds) for actor, handle in handles.items()}
    end = time.monotonic() + drain_seconds + CLOSE_SECONDS + LOOK_SECONDS
    left = {}
    for actor, reference in draining.items():
        try:
            left[actor] = int(ray.get(reference, timeout=max(end - time.monotonic(), 0.1))["left"])
        except RayError:
            left[actor] = -1
    for handle in [*handles.values(), *([registry] if registry is not None else [])]:
        ray.kill(handle, no_restart=True)
    _wait_gone(name)
    return Stopped(name, left)


def _check_backends(settings: PoolSettings) -> None:
    """Building starts nothing, and checks every key."""
    for judge, own in settings.judges.items():
        if own.backend == "vllm":
            check_gpus(judge, own.num_gpus, own.options)
        try:
            build_backend(settings.backend_settings(judge))
        except ConfigError as error:
            raise ConfigError(f"{judge}: {error.key}", error.found, error.expected, error.fix) from error


def _check_resources(settings: PoolSettings) -> None:
    """Refuse a pool that is larger than the cluster, after the autoscaler has had `nodes_seconds` to bring nodes."""
    end = time.monotonic() + settings.nodes_seconds
    missing = _missing_resource(settings)
    if missing and settings.nodes_seconds > 0:
        bundles = [_reserved(own) for own in settings.judges.values() for _ in range(own.replicas)]
        request_resources(bundles=bundles)
        while missing and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            missing = _missing_resource(settings)
        request_resources(bundles=[])  # from here on the replicas themselves keep their nodes
    if missing:
        raise missing


def _reserved(own: JudgeSettings) -> dict[str, float]:
    """What Ray sets aside for one replica."""
    wanted = {"CPU": own.num_cpus, "GPU": own.num_gpus, **own.resources}
    return {name: amount for name, amount in wanted.items() if amount > 0}


def _missing_resource(settings: PoolSettings) -> ConfigError | None:
    there = ray.cluster_resources()
    needed: dict[str, float] = {}
    for own in settings.judges.values():
        for name, amount in _reserved(own).items():
            needed[name] = needed.get(name, 0.0) + own.replicas * amount
    for name, amount in needed.items():
        if amount > there.get(name, 0.0):
            key = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, "resources")
            has = f"at most the {there.get(name, 0.0):g} of the cluster"
            return ConfigError(key, f"{amount:g} {name} for all replicas", has, f"Lower replicas or {key}, or add nodes.")
    return None


def _check_name(name: str) -> None:
    if name not in pools():
        return
    found = status(name)
    if found.description is None:
        raise _taken(name, "parts of it are left")
    raise _taken(name, f"serving since {found.description.started_at}" if found.description.serving else "being stopped")


def _taken(name: str, how: str) -> ConfigError:
    fix = f"Use it as it is, end it with `python -m faithful_rl.judges stop name={name}`, or choose another name."
    return ConfigError("name", f"a pool {name!r}, {how}", "a name that is free in this cluster", fix)


def _start_replica(settings: PoolSettings, plain: dict[str, Any], judge: str, index: int, kind: dict[str, Any]) -> Any:
    own = settings.judges[judge]
    return (
        ray.remote(Replica)
        .options(
            name=replica_name(settings.name, judge, index),
            num_cpus=own.num_cpus,
            num_gpus=own.num_gpus,
            resources=own.resources or None,
            # Waiting is done in the replica's own queue, which is bounded and fair; Ray must not be a second queue before it.
            max_concurrency=own.limits.concurrency_per_replica + own.limits.queue_per_replica + CONTROL_CALLS,
            **kind,
        )
        .remote(judge, index, plain)
    )


def _wait_healthy(settings: PoolSettings, registry: Any, say: Callable[[Sequence[Health]], None]) -> list[Health]:
    end = time.monotonic() + settings.start_seconds
    while True:
        found: list[Health] = _call(registry.look, CALL_SECONDS)
        say(found)
        failed = [one for one in found if one.state is State.FAILED]
        if failed:
            raise PoolError(f"{failed[0].name} did not start: {failed[0].message}")
        waiting = [one for one in found if one.state is not State.READY]
        if not waiting:
            return found
        if time.monotonic() > end:
            told = "; ".join(f"{one.name} is {one.state} {one.message}".strip() for one in waiting)
            raise PoolError(f"not healthy within start_seconds={settings.start_seconds:g}: {told}")
        time.sleep(POLL_SECONDS)


def _call(method: Any, seconds: float) -> Any:
    try:
        return ray.get(method.remote(), timeout=seconds)
    except GetTimeoutError as error:
        raise PoolError(f"no answer within {seconds:.0f} s") from error
    except RayError as error:
        raise PoolError(cause(error)) from error


def cause(error: RayError) -> str:
    """Ray puts the remote traceback into the message of its error; what went wrong stands in its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return clean(lines[-1] if lines else type(error).__name__)


def _handle(actor: str) -> Any:
    try:
        return ray.get_actor(actor, NAMESPACE)
    except ValueError:
        return None  # it has ended since it was listed


def _actors() -> list[tuple[str, str]]:
    """(pool, actor) of every actor of every pool."""
    named = [one["name"] for one in list_named_actors(all_namespaces=True) if one["namespace"] == NAMESPACE]
    return [(split[0] if (split := split_replica_name(name)) else name, name) for name in named]


def _wait_gone(name: str) -> None:
    end = time.monotonic() + GONE_SECONDS
    while any(pool == name for pool, _ in _actors()):
        if time.monotonic() > end:
            raise PoolError(f"actors of pool {name!r} are still there {GONE_SECONDS:.0f} s after they were ended")
        time.sleep(POLL_SECONDS)
