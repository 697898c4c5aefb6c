"""Before a run: a pool is in a cluster that the run joins, and what is not known of a judge is told."""

from __future__ import annotations

from typing import Any

import pytest

from faithful_rl.compose import compose_recipe
from faithful_rl.config import ConfigError, FaithfulRLConfig, from_node
from faithful_rl.main import resolved
from faithful_rl.preflight import judges

ENDPOINT = [
    "faithful_rl.judges.consistency.backend=openai",
    *(
        f"+faithful_rl.judges.consistency.options.{word}"
        for word in ("base_url=http://127.0.0.1:9/v1", "model=m", "api_key_env=SOME_JUDGES_KEY")
    ),
]


def composed(*overrides: str) -> tuple[dict[str, Any], FaithfulRLConfig]:
    job = compose_recipe(["recipe=fgrpo_tiny", *overrides])
    return resolved(job), from_node(job.faithful_rl)


def test_a_pool_needs_a_cluster_to_join() -> None:
    with pytest.raises(ConfigError) as caught:
        judges.check_pool(*composed("judges=pool"))
    assert str(caught.value) == (
        "faithful_rl.judges.pool: found 'default', while this run starts a Ray of its own, which holds no pool, expected a pool of a "
        "running cluster. Set RAY_ADDRESS (auto: the cluster of this machine), or leave judges=pool out."
    )
    judges.check_pool(*composed("judges=pool", "+ray_kwargs.ray_init.address=10.0.0.1:6379"))
    judges.check_pool(*composed())


def test_a_key_that_is_not_here_is_told_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    _, typed = composed(*ENDPOINT, "faithful_rl.judges.calibrations=none")
    monkeypatch.delenv("SOME_JUDGES_KEY", raising=False)
    uncalibrated, key = judges.warnings(typed)
    assert uncalibrated.startswith("the consistency judge was not calibrated under its version")
    assert key == "SOME_JUDGES_KEY, the consistency judge's key, is not set here: it must be in the environment of the Ray cluster"
    monkeypatch.setenv("SOME_JUDGES_KEY", "sk-very-secret")
    (only,) = judges.warnings(typed)
    assert "sk-very-secret" not in only


def test_exact_judges_and_pools_have_nothing_to_tell() -> None:
    assert judges.warnings(composed()[1]) == []
    assert judges.warnings(composed("judges=pool")[1]) == []


def test_a_server_is_not_sharded_over_more_gpus_than_its_replica_has() -> None:
    words = ["faithful_rl.judges.grounding.backend=vllm", "faithful_rl.judges.grounding.num_gpus=1"]
    options = ["+faithful_rl.judges.grounding.options.model=org/model", "+faithful_rl.judges.grounding.options.tensor_parallel_size=2"]
    with pytest.raises(ConfigError) as caught:
        judges.check(composed(*words, *options)[1])
    assert str(caught.value) == (
        "faithful_rl.judges.grounding.num_gpus: found 1 for a replica of faithful_rl.judges.grounding with tensor_parallel_size 2, expected "
        "at least 2. Set faithful_rl.judges.grounding.num_gpus=2, or lower tensor_parallel_size."
    )
    judges.check(composed(words[0], "faithful_rl.judges.grounding.num_gpus=2", *options)[1])
    judges.check(composed(words[0], "faithful_rl.judges.grounding.num_gpus=0.5", options[0])[1])
