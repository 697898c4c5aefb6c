"""Settings of a pool, typed and checked, from a YAML file and `key=value` words.

name: default
consistency: {backend: scene, replicas: 1}
grounding: {backend: openai, replicas: 2, base_url: ..., model: ..., limits: {requests_per_second: 20}}
limits: {concurrency_per_replica: 64, queue_per_replica: 1024, requests_per_second: null}
cache: {memory_entries: 100000, directory: null, size_limit_mb: 512}

A judge's keys beside those of `JudgeSettings` belong to its backend, which checks them itself.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import JUDGES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REPLICA_NAME = re.compile(rf"(?P<pool>.+)-(?P<judge>{'|'.join(JUDGES)})-(?P<index>\d+)")


@dataclass(frozen=True)
class LimitsSettings:
    """What one replica takes on at once. A judge's own `limits` overrides the pool's, key by key."""

    concurrency_per_replica: int = 64  # rollouts judged at the same time, >= 1
    queue_per_replica: int = 1024  # rollouts that wait, >= 1; beyond it callers are told to come back later
    requests_per_second: float | None = None  # rollouts started per second by all replicas of a judge together, > 0; null: no limit


@dataclass(frozen=True)
class CacheSettings:
    """Verdicts that are kept; handed to the backends. A judge's own `cache` overrides the pool's, key by key."""

    memory_entries: int = 100_000  # per replica, >= 0
    directory: str | None = None  # shared by replicas and runs; null: memory only
    size_limit_mb: int = 512  # of the directory, >= 1


@dataclass(frozen=True)
class JudgeSettings:
    """One judge of a pool."""

    backend: str  # scene | openai | vllm | fake
    replicas: int = 1  # actors, >= 1
    timeout_seconds: float = 60.0  # for one rollout, > 0, unless the client says otherwise; afterwards it is unscored
    num_cpus: float = 0.0  # share of the cluster that Ray sets aside for each replica, >= 0
    num_gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)  # custom resources of a replica, > 0: nodes that have them
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    options: dict[str, Any] = field(default_factory=dict)  # the backend's own keys


@dataclass(frozen=True)
class PoolSettings:
    """A whole pool. At least one judge is set."""

    name: str = "default"
    judges: dict[str, JudgeSettings] = field(default_factory=dict)
    cache: CacheSettings = field(default_factory=CacheSettings)
    start_seconds: float = 600.0  # > 0: until every replica must be healthy
    health_seconds: float = 10.0  # > 0: between two looks at a backend
    nodes_seconds: float = 0.0  # >= 0: how long an autoscaling cluster may take to start the nodes that the replicas need

    def backend_settings(self, judge: str) -> dict[str, Any]:
        """What `faithful_rl.judges.backend.build_backend` gets for one judge."""
        own = self.judges[judge]
        cache = {**asdict(self.cache), **_mapping(f"{judge}.cache", own.options.get("cache"))}
        # A server of vLLM's would else give up after ten minutes of its own.
        patience = {"start_timeout_seconds": self.start_seconds} if own.backend == "vllm" else {}
        return {"backend": own.backend, "judge": judge, **patience, **own.options, "cache": cache}

    def replica_names(self, judge: str) -> list[str]:
        return [replica_name(self.name, judge, index) for index in range(self.judges[judge].replicas)]


def replica_name(pool: str, judge: str, index: int) -> str:
    """The name of a replica's actor."""
    return f"{pool}-{judge}-{index}"


def split_replica_name(name: str) -> tuple[str, str, int] | None:
    """(pool, judge, index) of a replica's actor; None for any other name."""
    match = _REPLICA_NAME.fullmatch(name)
    return None if match is None else (match["pool"], match["judge"], int(match["index"]))


def load(path: str | Path, overrides: Sequence[str] = ()) -> PoolSettings:
    """Read a file, apply `key=value` words (dots for depth) and check everything.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a wrong type or a value out of range.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError("config", f"no file {file}", "a YAML file with the settings of a pool", "Check the path.")
    for word in overrides:
        if "=" not in word.lstrip("="):
            raise ConfigError("command line", repr(word), "key=value", "Write for example grounding.replicas=2.")
    try:
        merged = OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_dotlist(list(overrides)))
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise ConfigError(str(file), f"a problem ({reason})", "YAML with a mapping at its top", "Correct the file.") from error
    return from_mapping(plain, str(file))


def from_mapping(plain: Any, source: str = "settings") -> PoolSettings:
    """Typed and checked settings from plain data.

    Raises:
        ConfigError: as `load`.
    """
    node = _mapping(source, plain)
    _known(node, (*JUDGES, "name", "limits", "cache", "start_seconds", "health_seconds", "nodes_seconds"), "")
    name = str(node.get("name", "default"))
    if not _NAME.fullmatch(name) or split_replica_name(name):
        raise ConfigError(
            "name",
            repr(name),
            "1 to 64 letters, digits, '_', '.' or '-' that do not end like a replica's name",
            "Choose a name such as default or lab_2.",
        )
    limits = _mapping("limits", node.get("limits"))
    judges = {judge: _judge(judge, node[judge], limits) for judge in JUDGES if node.get(judge) is not None}
    if not judges:
        raise ConfigError("settings", "no judge", "consistency, grounding or both", "Add for example consistency: {backend: scene}.")
    cache = _mapping("cache", node.get("cache"))
    _known(cache, _names(CacheSettings), "cache.")
    defaults = PoolSettings()
    directory = cache.get("directory")
    return PoolSettings(
        name=name,
        judges=judges,
        cache=CacheSettings(
            memory_entries=_whole("cache.memory_entries", cache.get("memory_entries", defaults.cache.memory_entries), 0),
            directory=None if directory is None else str(directory),
            size_limit_mb=_whole("cache.size_limit_mb", cache.get("size_limit_mb", defaults.cache.size_limit_mb), 1),
        ),
        start_seconds=_positive("start_seconds", node.get("start_seconds", defaults.start_seconds)),
        health_seconds=_positive("health_seconds", node.get("health_seconds", defaults.health_seconds)),
        nodes_seconds=_number("nodes_seconds", node.get("nodes_seconds", defaults.nodes_seconds)),
    )


def to_mapping(settings: PoolSettings) -> dict[str, Any]:
    """Plain data from which `from_mapping` makes equal settings."""
    plain = asdict(settings)
    for judge, own in plain.pop("judges").items():
        plain[judge] = {**own.pop("options"), **own}
    return plain


def _judge(judge: str, value: Any, shared_limits: Mapping[str, Any]) -> JudgeSettings:
    node = _mapping(judge, value)
    backend = node.get("backend")
    if not isinstance(backend, str) or not backend:
        raise ConfigError(f"{judge}.backend", repr(backend), "the name of a backend, such as scene, openai or vllm", "Set it.")
    own = _names(JudgeSettings)
    if "options" in node:
        raise ConfigError(f"{judge}.options", "set", "the backend's keys beside the others", f"Move them up into {judge}.")
    limits = {**shared_limits, **_mapping(f"{judge}.limits", node.get("limits"))}
    _mapping(f"{judge}.cache", node.get("cache"))  # its keys are checked by the backend
    gpus = node.get("num_gpus", 0.0)
    return JudgeSettings(
        backend=backend,
        replicas=_whole(f"{judge}.replicas", node.get("replicas", 1), 1),
        timeout_seconds=_positive(f"{judge}.timeout_seconds", node.get("timeout_seconds", 60.0)),
        num_cpus=_number(f"{judge}.num_cpus", node.get("num_cpus", 0.0)),
        num_gpus=_number(f"{judge}.num_gpus", gpus),
        resources={
            name: _positive(f"{judge}.resources.{name}", amount)
            for name, amount in _mapping(f"{judge}.resources", node.get("resources")).items()
        },
        limits=_limits(f"{judge}.limits" if node.get("limits") else "limits", limits),
        options={key: value for key, value in node.items() if key not in own},
    )


def _limits(key: str, node: Mapping[str, Any]) -> LimitsSettings:
    _known(node, _names(LimitsSettings), f"{key}.")
    defaults = LimitsSettings()
    rate = node.get("requests_per_second")
    return LimitsSettings(
        _whole(f"{key}.concurrency_per_replica", node.get("concurrency_per_replica", defaults.concurrency_per_replica), 1),
        _whole(f"{key}.queue_per_replica", node.get("queue_per_replica", defaults.queue_per_replica), 1),
        None if rate is None else _positive(f"{key}.requests_per_second", rate),
    )


def _names(kind: type) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(key, repr(value), "a mapping of keys to values", "See faithful_rl/judge_pool/settings.py.")
    return {str(name): one for name, one in value.items()}


def _known(node: Mapping[str, Any], allowed: Sequence[str], prefix: str) -> None:
    for key in node:
        if key not in allowed:
            close = [one for one in allowed if one.startswith(key)] or difflib.get_close_matches(key, allowed, n=1)
            fix = f"Did you mean {prefix}{close[0]}?" if close else "Remove it."
            raise ConfigError(f"{prefix}{key}", "an unknown key", "one of " + ", ".join(allowed), fix)


def _whole(key: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(key, repr(value), f"a whole number >= {low}", f"Change {key}.")
    return value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(key, repr(value), "a finite number >= 0", f"Change {key}.")
    return float(value)


def _positive(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigError(key, repr(value), "a finite number > 0", f"Change {key}.")
    return float(value)
