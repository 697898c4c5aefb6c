"""The wait for the run's first actor has an end (real Ray), and a Ray that does not come up is named for what it is."""

import inspect
from pathlib import Path

import pytest

pytest.importorskip("verl")
import ray
from omegaconf import OmegaConf
from ray._private import node

from faithful_rl.verl_plugin import task_runner
from faithful_rl.verl_plugin.task_runner import HungRunError, RayStartError, _Launcher, phase_limit

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


def test_ray_still_says_so_when_its_node_does_not_come_up() -> None:
    """Ray raises a bare `Exception`, which its words alone tell from others."""
    said = "".join(inspect.getsource(node.Node.__init__).split('"')).replace("\n", "")
    assert task_runner.NODE_TIMED_OUT in " ".join(said.split())


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (Exception(f"{task_runner.NODE_TIMED_OUT}. This could happen because"), RayStartError),
        (ValueError("something of verl's"), ValueError),
    ],
)
def test_a_ray_that_does_not_come_up_is_told_with_a_cure(
    raised: Exception, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: object, task_runner_class: object) -> None:
        raise raised

    for name in ("prepare", "validate_config", "need_reference_policy", "need_critic", "make_token"):
        monkeypatch.setattr(task_runner, name, lambda *given, **named: None)
    monkeypatch.setattr(task_runner, "run_ppo", fail)
    config = OmegaConf.create({"faithful_rl": {"output_dir": str(tmp_path)}, "ray_kwargs": {"ray_init": {"address": "local"}}})
    with pytest.raises(expected, match=r"Nothing of the run has started|something of verl's"):
        task_runner.run(config)
