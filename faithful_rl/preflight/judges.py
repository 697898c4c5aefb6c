"""The judges before a run: can they be built as configured, and is it known what their verdicts are worth?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig, JudgeConfig
from faithful_rl.judge_pool.vllm_settings import check_gpus
from faithful_rl.judges.backend import build_backend
from faithful_rl.judges.calibration import uncalibrated_warning


def check(typed: FaithfulRLConfig) -> None:
    """Build each judge's backend and ask its version: keys and a local model's files are checked, nothing is started.
    A pool has checked its own when it was started.

    Raises:
        ConfigError: a backend's settings are wrong, or its model's directory is incomplete.
    """
    for judge, own in _own(typed).items():
        if own.backend == "vllm":
            check_gpus(f"faithful_rl.judges.{judge}", own.num_gpus, own.options)
        _version(judge, own)


def check_pool(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """For a run that joins no cluster by RAY_ADDRESS: a Ray of its own holds no pool.

    Raises:
        ConfigError: a pool is named, and nothing says in which cluster.
    """
    if typed.judges.pool and (config["ray_kwargs"]["ray_init"].get("address") or "local") == "local":
        found = f"{typed.judges.pool!r}, while this run starts a Ray of its own, which holds no pool"
        fix = "Set RAY_ADDRESS (auto: the cluster of this machine), or leave judges=pool out."
        raise ConfigError("faithful_rl.judges.pool", found, "a pool of a running cluster", fix)


def warnings(typed: FaithfulRLConfig) -> list[str]:
    """One line for each judge that was not calibrated under its present version (the exact judge of scenes is the truth itself), and for
    each key that this environment lacks.

    What a pool's judges are worth is looked up when the run has found the pool, and said in its log.
    """
    found = []
    for judge, own in _own(typed).items():
        if own.backend != "scene":
            found.append(uncalibrated_warning(judge, _version(judge, own), typed.judges.calibrations))
        key = own.options.get("api_key_env")
        if own.backend == "openai" and key and not os.environ.get(str(key)):
            found.append(f"{key}, the {judge} judge's key, is not set here: it must be in the environment of the Ray cluster")
    return [warning for warning in found if warning]


def described(typed: FaithfulRLConfig) -> str:
    """Who judges, in one line."""
    if typed.judges.pool:
        return f"pool {typed.judges.pool!r} of the Ray cluster"
    return ", ".join(f"{judge}: {own.backend} x {own.replicas}" for judge, own in _own(typed).items())


def _own(typed: FaithfulRLConfig) -> dict[str, JudgeConfig]:
    return {} if typed.judges.pool else {"consistency": typed.judges.consistency, "grounding": typed.judges.grounding}


def _version(judge: str, own: JudgeConfig) -> str:
    try:
        return build_backend({"backend": own.backend, "judge": judge, **own.options}).version()
    except ConfigError as error:
        here = f"faithful_rl.judges.{judge}"
        options = here + ".options."  # where the backend's own keys stand in a recipe; it names them after itself
        key = error.key.replace(f"{own.backend}.", options, 1) if error.key.startswith(own.backend) else f"{here}: {error.key}"
        raise ConfigError(key, error.found, error.expected, error.fix.replace(f"{own.backend}.", options)) from error
