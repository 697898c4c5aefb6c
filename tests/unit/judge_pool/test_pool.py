"""Before a pool starts: is it larger than its cluster, are its judges such as can be built, is its name free? No Ray is started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from faithful_rl.config import ConfigError
from faithful_rl.judge_pool import pool
from faithful_rl.judge_pool.messages import Description, State
from faithful_rl.judge_pool.settings import from_mapping

FAKE = {"backend": "fake"}


class Cluster:
    """What `pool` asks of Ray. `resources` are those of the cluster, one entry a look; the last one stays."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self._resources = list(resources)

    def cluster_resources(self) -> dict[str, float]:
        return self._resources.pop(0) if len(self._resources) > 1 else self._resources[0]


def check(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, **settings: Any) -> list[list[dict[str, float]]]:
    """`_check_resources` of a pool; returns what the autoscaler was asked for."""
    asked: list[list[dict[str, float]]] = []
    monkeypatch.setattr(pool, "ray", cluster)
    monkeypatch.setattr(pool, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.0)
    pool._check_resources(from_mapping(settings))
    return asked


def test_replicas_of_both_judges_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    judges = {
        "consistency": {**FAKE, "replicas": 2, "num_gpus": 1},
        "grounding": {**FAKE, "replicas": 3, "num_gpus": 2, "resources": {"judges": 1}},
    }
    assert check(monkeypatch, Cluster({"GPU": 8.0, "judges": 3.0}), **judges) == []
    with pytest.raises(ConfigError, match="num_gpus: found 8 GPU for all replicas, expected at most the 7 of the cluster") as caught:
        check(monkeypatch, Cluster({"GPU": 7.0, "judges": 3.0}), **judges)
    assert caught.value.fix == "Lower replicas or num_gpus, or add nodes."
    with pytest.raises(ConfigError, match="resources: found 3 judges for all replicas, expected at most the 0 of the cluster"):
        check(monkeypatch, Cluster({"GPU": 8.0}), **judges)


def test_an_autoscaler_is_asked_for_nodes_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    judges: dict[str, Any] = {"grounding": {**FAKE, "replicas": 2, "num_gpus": 1}, "nodes_seconds": 60.0}
    assert check(monkeypatch, Cluster({}, {"GPU": 1.0}, {"GPU": 2.0}), **judges) == [[{"GPU": 1.0}] * 2, []]
    with pytest.raises(ConfigError, match="found 2 GPU for all replicas, expected at most the 1 of the cluster"):
        check(monkeypatch, Cluster({"GPU": 1.0}), **{**judges, "nodes_seconds": 0.01})


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"backend": "scenes"}, r"^consistency: backend: found 'scenes', expected one of classifier, fake"),
        ({**FAKE, "latency": 1}, r"^consistency: fake\.latency: found an unknown key.*Did you mean latency_seconds\?"),
        (
            {"backend": "vllm", "model": "org/model", "num_gpus": 1, "tensor_parallel_size": 4},
            r"^consistency\.num_gpus: found 1 for a replica of consistency with tensor_parallel_size 4, expected at least 4\.",
        ),
    ],
)
def test_a_judge_that_cannot_be_built_is_named(judge: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pool._check_backends(from_mapping({"consistency": judge}))


@pytest.mark.parametrize(
    ("description", "how"),
    [
        (Description({}, {}, True, "2026-01-01"), "serving since 2026-01-01"),
        (Description({}, {}, False, "2026-01-01"), "being stopped"),
        (None, "parts of it are left"),
    ],
)
def test_a_name_that_is_taken(monkeypatch: pytest.MonkeyPatch, description: Description | None, how: str) -> None:
    monkeypatch.setattr(pool, "pools", lambda: ["lab"])
    monkeypatch.setattr(pool, "status", lambda name: pool.PoolStatus(name, description, []))
    pool._check_name("other")
    with pytest.raises(ConfigError, match=f"name: found a pool 'lab', {how}, expected a name that is free in this cluster"):
        pool._check_name("lab")


def test_a_replica_that_does_not_come_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([[State.STARTING, State.READY], [State.FAILED, State.READY]])

    def look(method: Any, seconds: float) -> list[Any]:
        return [
            SimpleNamespace(name=f"lab-grounding-{number}", state=state, message="no model") for number, state in enumerate(next(looks))
        ]

    monkeypatch.setattr(pool, "_call", look)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.0)
    settings = from_mapping({"name": "lab", "grounding": {**FAKE, "replicas": 2}})
    heard: list[int] = []
    with pytest.raises(pool.PoolError, match="lab-grounding-0 did not start: no model"):
        pool._wait_healthy(settings, SimpleNamespace(look=None), lambda found: heard.append(len(found)))
    assert heard == [2, 2]
    late = from_mapping({"name": "lab", "grounding": {**FAKE, "replicas": 1}, "start_seconds": 1e-6})
    looks = iter([[State.STARTING]])
    with pytest.raises(pool.PoolError, match="not healthy within start_seconds=1e-06: lab-grounding-0 is starting no model"):
        pool._wait_healthy(late, SimpleNamespace(look=None), lambda found: None)
