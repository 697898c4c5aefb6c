"""Settings of a pool: what a user may write, and what each mistake is told."""

from pathlib import Path
from typing import Any

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import settings
from faithful_rl.judge_pool.settings import from_mapping, load, split_replica_name, to_mapping

FILE = """
name: lab
consistency: {backend: scene}
grounding: {backend: openai, replicas: 2, base_url: http://127.0.0.1:8000/v1, model: judge, limits: {requests_per_second: 20}}
limits: {concurrency_per_replica: 8}
cache: {directory: null, memory_entries: 10}
"""


def test_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(FILE)
    pool = load(path, ["name=lab_2", "grounding.replicas=3", "limits.queue_per_replica=16"])
    assert pool.name == "lab_2"
    assert pool.replica_names("grounding") == ["lab_2-grounding-0", "lab_2-grounding-1", "lab_2-grounding-2"]
    assert pool.judges["consistency"].limits == settings.LimitsSettings(8, 16, None)
    assert pool.judges["grounding"].limits == settings.LimitsSettings(8, 16, 20.0)
    assert pool.backend_settings("grounding") == {
        "backend": "openai",
        "judge": "grounding",
        "base_url": "http://127.0.0.1:8000/v1",
        "model": "judge",
        "cache": {"memory_entries": 10, "directory": None, "size_limit_mb": 512},
    }
    assert from_mapping(to_mapping(pool)) == pool


def test_a_vllm_server_may_start_as_long_as_its_pool_unless_it_says_otherwise() -> None:
    server = {"backend": "vllm", "model": "/models/judge"}
    pool = from_mapping({"start_seconds": 1800, "consistency": server, "grounding": {**server, "start_timeout_seconds": 900}})
    assert pool.backend_settings("consistency")["start_timeout_seconds"] == 1800.0
    assert pool.backend_settings("grounding")["start_timeout_seconds"] == 900


def test_a_judges_own_cache_overrides_the_pools_key_by_key() -> None:
    fake = {"backend": "fake", "cache": {"directory": "/verdicts", "memory_entries": 5}}
    plain = {"consistency": fake, "grounding": {"backend": "fake"}, "cache": {"size_limit_mb": 64}}
    pool = from_mapping(plain)
    assert pool.backend_settings("consistency")["cache"] == {"directory": "/verdicts", "memory_entries": 5, "size_limit_mb": 64}
    assert pool.backend_settings("grounding")["cache"] == {"directory": None, "memory_entries": 100_000, "size_limit_mb": 64}
    assert from_mapping(to_mapping(pool)).backend_settings("consistency") == pool.backend_settings("consistency")
    with pytest.raises(ConfigError, match=r"consistency\.cache: found 3, expected a mapping"):
        from_mapping({"consistency": {"backend": "fake", "cache": 3}})


SCENE = {"backend": "scene"}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, "settings: found no judge, expected consistency, grounding or both. Add for example consistency: {backend: scene}."),
    (
        {"consistncy": SCENE},
        "consistncy: found an unknown key, expected one of consistency, grounding, name, limits, cache, start_seconds, health_seconds, "
        "nodes_seconds. "
        "Did you mean consistency?",
    ),
    (
        {"consistency": SCENE, "limits": {"queue": 3}},
        "limits.queue: found an unknown key, expected one of concurrency_per_replica, queue_per_replica, requests_per_second. "
        "Did you mean limits.queue_per_replica?",
    ),
    (
        {"consistency": SCENE | {"limits": {"burst": 3}}},
        "consistency.limits.burst: found an unknown key, expected one of concurrency_per_replica, queue_per_replica, requests_per_second. "
        "Remove it.",
    ),
    (
        {"consistency": SCENE, "cache": {"dir": "x"}},
        "cache.dir: found an unknown key, expected one of memory_entries, directory, size_limit_mb. Did you mean cache.directory?",
    ),
    ({"consistency": {}}, "consistency.backend: found None, expected the name of a backend, such as scene, openai or vllm. Set it."),
    ({"consistency": "scene"}, "consistency: found 'scene', expected a mapping of keys to values. See faithful_rl/judge_pool/settings.py."),
    ({"consistency": SCENE | {"replicas": 0}}, "consistency.replicas: found 0, expected a whole number >= 1. Change consistency.replicas."),
    (
        {"consistency": SCENE | {"timeout_seconds": "soon"}},
        "consistency.timeout_seconds: found 'soon', expected a finite number > 0. Change consistency.timeout_seconds.",
    ),
    (
        {"consistency": SCENE | {"num_gpus": -1}},
        "consistency.num_gpus: found -1, expected a finite number >= 0. Change consistency.num_gpus.",
    ),
    (
        {"consistency": SCENE | {"options": {"a": 1}}},
        "consistency.options: found set, expected the backend's keys beside the others. Move them up into consistency.",
    ),
    (
        {"consistency": SCENE, "limits": {"requests_per_second": 0}},
        "limits.requests_per_second: found 0, expected a finite number > 0. Change limits.requests_per_second.",
    ),
    (
        {"consistency": SCENE, "limits": {"concurrency_per_replica": True}},
        "limits.concurrency_per_replica: found True, expected a whole number >= 1. Change limits.concurrency_per_replica.",
    ),
    (
        {"consistency": SCENE, "start_seconds": float("inf")},
        "start_seconds: found inf, expected a finite number > 0. Change start_seconds.",
    ),
    (
        {"consistency": SCENE, "name": "lab-grounding-1"},
        "name: found 'lab-grounding-1', expected 1 to 64 letters, digits, '_', '.' or '-' that do not end like a replica's name. "
        "Choose a name such as default or lab_2.",
    ),
]


@pytest.mark.parametrize(("plain", "message"), MISTAKES, ids=[message.split(":")[0] for _, message in MISTAKES])
def test_mistakes_are_named(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        from_mapping(plain)
    assert str(raised.value) == message


def test_a_file_that_is_missing_or_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^config: found no file .*gone.yaml, expected a YAML file with the settings of a pool\."):
        load(tmp_path / "gone.yaml")
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"expected (a mapping|YAML with a mapping)"):
        load(path)
    path.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="expected YAML with a mapping at its top"):
        load(path)
    with pytest.raises(ConfigError, match=r"^command line: found 'replicas', expected key=value\."):
        load(path, ["replicas"])


def test_replica_names_are_read_back() -> None:
    assert split_replica_name("my-pool.1-grounding-12") == ("my-pool.1", "grounding", 12)
    assert split_replica_name("my-pool") is None
    assert split_replica_name("default-judge-0") is None
