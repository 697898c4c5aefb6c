"""The wait for the run's first actor has an end. Real Ray."""

from pathlib import Path

import pytest

pytest.importorskip("verl")
import ray
from omegaconf import OmegaConf

from faithful_rl.verl_plugin.task_runner import HungRunError, _Launcher, phase_limit

CPUS = 1  # of the Ray that `cluster` starts
LONG = 120.0


def runner() -> type:
    class Runner:  # inside, so that Ray ships the class itself: its workers cannot import this module
        def answer(self) -> int:
            return 7

    return Runner


def test_a_task_runner_that_finds_no_cpu_ends_the_wait_with_a_cure(cluster: None, tmp_path: Path) -> None:
    first = _Launcher(runner(), tmp_path, LONG)
    try:
        handle = first.remote()
        assert ray.get(handle.answer.remote(), timeout=LONG) == 7
        second = _Launcher(runner(), tmp_path, 0.2)  # the one processor is taken
        try:
            with pytest.raises(HungRunError, match=r"within 0\.2 s \(faithful_rl\.step_timeout_seconds\): it needs 1 CPU, and [01] of"):
                second.remote()
        finally:
            second.restore_signals()
    finally:
        first.restore_signals()


def test_the_limit_is_the_one_of_a_phase() -> None:
    assert phase_limit(OmegaConf.create({"faithful_rl": {"step_timeout_seconds": 12}})) == 12.0
    assert phase_limit(OmegaConf.create({"faithful_rl": {}})) == 1800.0
