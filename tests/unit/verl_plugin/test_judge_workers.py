"""The run's judges: settings of its own pool, the name every process agrees on, and a pool that serves already."""

from typing import Any

import pytest

ray = pytest.importorskip("ray")

from faithful_rl.config import JUDGE_BACKENDS, ConfigError, FaithfulRLConfig  # noqa: E402
from faithful_rl.judge_pool import pool  # noqa: E402
from faithful_rl.judge_pool.messages import Description, Health, State  # noqa: E402
from faithful_rl.judges.backend import BACKENDS  # noqa: E402
from faithful_rl.verl_plugin import judge_workers  # noqa: E402

ONE = {"backend": "scene", "replicas": 1, "timeout_seconds": 60.0, "num_cpus": 0.0, "num_gpus": 0.0, "options": {}}
JUDGES: dict[str, Any] = {
    "pool": None,
    "consistency": ONE,
    "grounding": ONE,
    "start_seconds": 600.0,
    "ask_masked": False,
    "calibrations": "none",
}


class Context:
    def get_job_id(self) -> str:
        return "0a000000"


@pytest.fixture(autouse=True)
def _job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_runtime_context", Context)


def serving(monkeypatch: pytest.MonkeyPatch, replicas: dict[str, list[str]], is_serving: bool = True) -> None:
    health = [Health(name, State.READY, version="abc") for names in replicas.values() for name in names]
    found = pool.PoolStatus("lab", Description({}, replicas, is_serving, "2026-11-21T00:00:00+00:00"), health)
    monkeypatch.setattr(pool, "status", lambda name: found)


def test_the_configuration_knows_every_backend() -> None:
    assert set(JUDGE_BACKENDS) == set(BACKENDS)


def test_all_processes_of_a_job_agree_on_the_name_of_its_pool() -> None:
    assert judge_workers.pool_name(JUDGES) == "run-0a000000"
    assert judge_workers.pool_name({**JUDGES, "pool": "lab"}) == "lab"


def test_a_judges_options_reach_its_backend() -> None:
    grounding = {**ONE, "backend": "openai", "replicas": 3, "options": {"model": "m", "base_url": "http://127.0.0.1:1/v1"}}
    settings = judge_workers.pool_settings({**JUDGES, "grounding": grounding}, "run-1")
    assert (settings.name, settings.judges["grounding"].replicas) == ("run-1", 3)
    assert settings.backend_settings("grounding")["model"] == "m"
    assert settings.judges["consistency"].backend == "scene"


def test_a_run_says_how_long_its_judges_may_read_their_models() -> None:
    grounding = {**ONE, "backend": "vllm", "options": {"model": "/models/judge"}}
    settings = judge_workers.pool_settings({**JUDGES, "start_seconds": 1800.0, "grounding": grounding}, "run-1")
    assert settings.start_seconds == 1800.0
    assert settings.backend_settings("grounding")["start_timeout_seconds"] == 1800.0


def test_a_run_can_keep_its_verdicts_on_disk_and_limit_its_judges() -> None:
    options = {"cache": {"directory": "/verdicts"}, "limits": {"concurrency_per_replica": 4}}
    settings = judge_workers.pool_settings({**JUDGES, "grounding": {**ONE, "backend": "fake", "options": options}}, "run-1")
    assert settings.backend_settings("grounding")["cache"]["directory"] == "/verdicts"
    assert settings.judges["grounding"].limits.concurrency_per_replica == 4


def test_a_pools_own_time_limit_holds_where_the_run_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_workers, "PoolClient", lambda *words: words)
    patient = {**ONE, "timeout_seconds": None}
    found = judge_workers.clients({**JUDGES, "pool": "lab", "grounding": patient})
    assert found == (("lab", "consistency", 60.0), ("lab", "grounding", None))


def test_the_defaults_of_the_configuration_make_a_pool() -> None:
    from dataclasses import asdict

    settings = judge_workers.pool_settings(asdict(FaithfulRLConfig(recipe="r").judges), "run-1")
    assert {judge: one.backend for judge, one in settings.judges.items()} == {"consistency": "scene", "grounding": "scene"}


def test_a_pool_that_serves_is_used_and_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, {"consistency": ["lab-consistency-0"], "grounding": ["lab-grounding-0"]})
    assert judge_workers.start({**JUDGES, "pool": "lab"}) == judge_workers.RunningJudges("lab")


def test_a_pool_without_one_of_the_judges_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, {"consistency": ["lab-consistency-0"]})
    with pytest.raises(ConfigError) as caught:
        judge_workers.start({**JUDGES, "pool": "lab"})
    assert (
        str(caught.value)
        == "faithful_rl.judges.pool: found 'lab' without a grounding judge, expected a pool with both judges. Serve one with both."
    )


def test_a_pool_that_is_being_stopped_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, {"consistency": ["a"], "grounding": ["b"]}, is_serving=False)
    with pytest.raises(ConfigError, match="which is not serving"):
        judge_workers.start({**JUDGES, "pool": "lab"})


def test_images_travel_only_to_judges_that_look(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not judge_workers.needs_images(JUDGES)
    assert judge_workers.needs_images({**JUDGES, "pool": "lab"})
    assert judge_workers.needs_images({**JUDGES, "grounding": {**ONE, "backend": "openai"}})


def test_the_ceilings_of_calibrated_judges_come_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, {"consistency": ["a"], "grounding": ["b"]})
    assert judge_workers.start({**JUDGES, "pool": "lab"}).ceilings == {}  # nobody has calibrated them

    class Record:
        ceiling = (0.91, 0.88, 0.94)

    monkeypatch.setattr(judge_workers, "calibration_of", lambda version, directory: {"grounding": Record()})
    assert judge_workers.start({**JUDGES, "pool": "lab"}).ceilings == {"semantic_grounding": 0.91}


def test_the_judge_that_knows_the_scene_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {judge: {"backend": "scene"} for judge in ("consistency", "grounding")}
    found = pool.PoolStatus("lab", Description(settings, {"consistency": ["a"], "grounding": ["b"]}, True, ""), [])
    monkeypatch.setattr(pool, "status", lambda name: found)
    assert judge_workers.start({**JUDGES, "pool": "lab"}).ceilings == {"consistency": 1.0, "semantic_grounding": 1.0}
