"""The judges of a run: a pool of its own that ends with the run, or one that serves already and other runs use too.

Both are pools of `faithful_rl.judge_pool`, and both are asked by the same client.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import JUDGES, pool
from faithful_rl.judge_pool.client import PoolClient
from faithful_rl.judge_pool.settings import PoolSettings, from_mapping
from faithful_rl.judges.calibration import calibration_of, uncalibrated_warning

logger = logging.getLogger(__name__)

OWN_KEYS = ("backend", "replicas", "timeout_seconds", "num_cpus", "num_gpus", "resources")


@dataclass(frozen=True)
class RunningJudges:
    """The pool that judges this run. `handles` keep actors of the run's own alive; a pool that serves already needs none. `ceilings` are
    the scores that a perfect policy is given, by constraint, where the judges' calibration is known."""

    name: str
    handles: tuple[Any, ...] = ()
    ceilings: Mapping[str, float] = field(default_factory=dict)


def pool_name(judges: Mapping[str, Any]) -> str:
    """The pool's name, the same in every process of the run: `faithful_rl.judges.pool`, else one made of the Ray job."""
    return str(judges.get("pool") or f"run-{ray.get_runtime_context().get_job_id()}")


def pool_settings(judges: Mapping[str, Any], name: str) -> PoolSettings:
    """Settings of the run's own pool from the node `faithful_rl.judges`.

    Raises:
        ConfigError: as `faithful_rl.judge_pool.settings.from_mapping`.
    """
    own = {judge: {**judges[judge].get("options", {}), **_own(judges[judge])} for judge in JUDGES}
    return from_mapping({"name": name, "start_seconds": judges["start_seconds"], **own}, "faithful_rl.judges")


def start(judges: Mapping[str, Any]) -> RunningJudges:
    """Start the run's own judges and wait until each is healthy, or find the pool that `pool` names.

    Raises:
        ConfigError: no such pool in this cluster, it lacks a judge, or a backend's settings are wrong.
        PoolError: a judge did not come up; the message names it.
    """
    name = pool_name(judges)
    if not judges.get("pool"):
        started = pool.start(pool_settings(judges, name), detached=False)
        _warn_uncalibrated(started.status, judges)
        return RunningJudges(name, started.handles, _ceilings(started.status, judges))
    found = pool.status(name)
    if found.description is None or not found.description.serving:
        raise ConfigError(
            "faithful_rl.judges.pool",
            f"{name!r}, which is not serving",
            "a pool that serves",
            f"Start it anew: `python -m faithful_rl.judges stop name={name}`, then serve.",
        )
    missing = [judge for judge in JUDGES if judge not in found.description.replicas]
    if missing:
        raise ConfigError(
            "faithful_rl.judges.pool", f"{name!r} without a {missing[0]} judge", "a pool with both judges", "Serve one with both."
        )
    _warn_uncalibrated(found, judges)
    return RunningJudges(name, ceilings=_ceilings(found, judges))


def clients(judges: Mapping[str, Any]) -> tuple[PoolClient, PoolClient]:
    """Clients of the consistency and of the grounding judge, for any process of the run. Without a time limit of the run's own the
    pool's holds."""
    name = pool_name(judges)
    limits = {judge: judges[judge]["timeout_seconds"] for judge in JUDGES}
    consistency, grounding = (PoolClient(name, judge, None if limit is None else float(limit)) for judge, limit in limits.items())
    return consistency, grounding


def needs_images(judges: Mapping[str, Any]) -> bool:
    """Whether the grounding judge may look at images; the exact judge of scenes does not."""
    return bool(judges.get("pool")) or judges["grounding"]["backend"] != "scene"


def _warn_uncalibrated(status: pool.PoolStatus, judges: Mapping[str, Any]) -> None:
    """Say in the run's log whose verdicts nobody has compared with labels. Judges that only know scenes are exact."""
    description = status.description
    for judge, names in (description.replicas if description else {}).items():
        if description is not None and description.settings.get(judge, {}).get("backend") == "scene":
            continue
        versions = {health.version for health in status.replicas if health.name in names}
        for version in sorted(versions):
            warning = uncalibrated_warning(judge, version, str(judges.get("calibrations", "calibrations")))
            if warning:
                logger.warning("%s", warning)


def _ceilings(status: pool.PoolStatus, judges: Mapping[str, Any]) -> dict[str, float]:
    """Constraint -> the lowest ceiling among the versions that serve its judge. Judges that only know scenes are exact."""
    description, found = status.description, dict[str, float]()
    for judge, constraint in (("consistency", "consistency"), ("grounding", "semantic_grounding")):
        if description is None or judge not in description.replicas:
            continue
        if description.settings.get(judge, {}).get("backend") == "scene":
            found[constraint] = 1.0
            continue
        versions = {health.version for health in status.replicas if health.name in description.replicas[judge]}
        ceilings = [_ceiling(judge, version, str(judges.get("calibrations", "calibrations"))) for version in versions]
        if ceilings and None not in ceilings:
            found[constraint] = min(value for value in ceilings if value is not None)
    return found


def _ceiling(judge: str, version: str, directory: str) -> float | None:
    try:
        record = calibration_of(version, directory).get(judge)
    except ValueError as error:
        logger.warning("%s", error)
        return None
    return record.ceiling[0] if record else None


def _own(judge: Mapping[str, Any]) -> dict[str, Any]:
    return {key: judge[key] for key in OWN_KEYS if key in judge}
