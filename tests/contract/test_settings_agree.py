"""Settings that exist twice, as keys of a recipe and as arguments of the part they steer, have the same names and defaults."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from data_prep.scenes.dataset import SceneDataSettings
from faithful_rl.advantage import AdvantageSettings
from faithful_rl.config import AdvantageConfig, FaithfulRLConfig, MultiplierConfig, ScenesConfig, WarmStartConfig


def defaults(settings: Any) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def shared(ours: Any, theirs: Any) -> dict[str, tuple[Any, Any]]:
    left, right = defaults(ours), defaults(theirs)
    return {name: (left[name], right[name]) for name in left.keys() & right.keys()}


def test_scenes() -> None:
    same = shared(ScenesConfig(), SceneDataSettings())
    assert set(same) == {"seed", "train", "val", "test"}
    assert all(ours == theirs for ours, theirs in same.values())


def test_the_advantage() -> None:
    same = shared(AdvantageConfig(), AdvantageSettings())
    assert {"std_floor", "epsilon"} <= set(same)
    assert all(ours == theirs for ours, theirs in same.values())
    assert FaithfulRLConfig().coverage_floor == 0.9


def test_the_multiplier_takes_every_key() -> None:
    from faithful_rl.constraints import ConstrainedProblem

    settings = {"consistency": {"threshold": 0.95, "mask": "accuracy", "multiplier": defaults(MultiplierConfig())}}
    assert ConstrainedProblem.from_settings(settings, 0.9).multipliers == {"consistency": 1.0}


def test_the_warm_start() -> None:
    """In a process of its own, because its module loads torch and transformers."""
    code = (
        "import dataclasses, json\n"
        "from faithful_rl.tiny.warm_start import WarmStartSettings\n"
        "print(json.dumps({f.name: getattr(WarmStartSettings(), f.name) for f in dataclasses.fields(WarmStartSettings) "
        "if f.name not in ('seed', 'imperfection')}))"
    )
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300, env=environment)
    assert json.loads(done.stdout.splitlines()[-1]) == defaults(WarmStartConfig())


def test_the_judges() -> None:
    from faithful_rl.config import JudgeConfig, JudgesConfig
    from faithful_rl.judge_pool.settings import JudgeSettings
    from faithful_rl.judges.calibration.records import DEFAULT_DIRECTORY

    same = shared(JudgeConfig(), JudgeSettings("scene"))
    assert set(same) == {"backend", "replicas", "timeout_seconds", "num_cpus", "num_gpus", "resources", "options"}
    assert all(ours == theirs for ours, theirs in same.values())
    assert JudgesConfig().calibrations == str(DEFAULT_DIRECTORY), "preflight looks where `calibrate` writes"
