"""`faithful_rl.judges`: who judges the reasoning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from faithful_rl.config.checks import in_range, one_of, require

JUDGE_BACKENDS = ("classifier", "fake", "openai", "scene", "vllm")
HELDOUT_JUDGES = ("same", "scene")


@dataclass
class JudgeConfig:
    """One judge and the named Ray actors that serve it."""

    backend: str = "scene"  # scene: exact verdicts from the known scene | vllm: a server of its own | openai: an endpoint
    # | classifier: a trained consistency model (consistency only) | fake: tests
    replicas: int = 1  # actors, >= 1
    # Seconds for one rollout, > 0; afterwards the rollout is unscored, never zero. null: as the pool says that `pool` names
    timeout_seconds: float | None = 60.0
    num_cpus: float = 0.0  # logical CPUs that Ray sets aside for each replica, >= 0
    num_gpus: float = 0.0  # GPUs for each replica, >= 0
    resources: dict[str, float] = field(default_factory=dict)  # custom Ray resources of each replica, such as {judges: 1}: which nodes
    options: dict[str, Any] = field(default_factory=dict)  # the backend's own keys, as in a pool's file: model, base_url, mode, ...


@dataclass
class JudgesConfig:
    """Who judges the reasoning: actors of the run's own, or a pool that other runs use too."""

    pool: str | None = None  # name of a pool of this Ray cluster (`python -m faithful_rl.judges serve`); null: the run starts its own
    consistency: JudgeConfig = field(default_factory=JudgeConfig)
    grounding: JudgeConfig = field(default_factory=JudgeConfig)
    start_seconds: float = 600.0  # > 0: until each of the run's own judges must be healthy, reading its model included
    ask_masked: bool = False  # also ask about rollouts whose verdict cannot count; validation always asks
    # false: the grounding judge is asked on held-out questions only; refused where constraints or weights need its verdicts
    grounding_in_training: bool = True
    heldout: str = "same"  # who judges held-out responses: same: these judges | scene: exact rules, for a run whose judges are models
    calibrations: str = "calibrations"  # directory that `python -m faithful_rl.judges calibrate out=...` wrote; preflight looks there


def validate_judges(judges: JudgesConfig) -> None:
    one_of("judges.heldout", judges.heldout, HELDOUT_JUDGES)
    in_range("judges.start_seconds", judges.start_seconds, 0.0, open_low=True)
    validate_judge("consistency", judges.consistency, of_pool=judges.pool is not None)
    validate_judge("grounding", judges.grounding, of_pool=judges.pool is not None)


def validate_judge(name: str, judge: JudgeConfig, of_pool: bool = False) -> None:
    """Raises ConfigError. `of_pool`: a pool that serves already judges, and has a time limit of its own."""
    key = f"judges.{name}"
    one_of(f"{key}.backend", judge.backend, JUDGE_BACKENDS)
    in_range(f"{key}.replicas", judge.replicas, 1)
    if judge.timeout_seconds is not None:
        in_range(f"{key}.timeout_seconds", judge.timeout_seconds, 0.0, open_low=True)
    else:
        require(
            of_pool,
            f"{key}.timeout_seconds",
            None,
            "a finite number > 0, or a pool that has its own",
            f"Set faithful_rl.{key}.timeout_seconds.",
        )
    in_range(f"{key}.num_cpus", judge.num_cpus, 0.0)
    in_range(f"{key}.num_gpus", judge.num_gpus, 0.0)
    for name_of_resource, amount in judge.resources.items():
        in_range(f"{key}.resources.{name_of_resource}", amount, 0.0, open_low=True)
