"""The typed node `faithful_rl:`: ranges, choices, and messages that name key, finding, expectation and fix."""

from typing import Any

import pytest

from faithful_rl.config import ConfigError, FaithfulRLConfig, from_node

CONSISTENCY = {"threshold": 0.95, "mask": "accuracy"}


def node(**changes: Any) -> dict[str, Any]:
    return {"recipe": "mine", "constraints": {"consistency": dict(CONSISTENCY)}, **changes}


def test_defaults_are_the_papers() -> None:
    typed = from_node(node())
    multiplier = typed.constraints["consistency"].multiplier
    assert (multiplier.kind, multiplier.start, multiplier.step_size, multiplier.maximum, multiplier.min_applicable) == (
        "dual_ascent",
        1.0,
        0.05,
        5.0,
        8,
    )
    assert typed.coverage_floor == 0.9
    assert isinstance(typed, FaithfulRLConfig)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, "faithful_rl.method: found 'ppo', expected one of grpo, fgrpo, sft. Set faithful_rl.method to one of them."),
        ({"seed": -1}, "faithful_rl.seed: found -1, expected a number in [0, 2.14748e+09]. Change faithful_rl.seed."),
        ({"coverage_floor": 1.5}, "faithful_rl.coverage_floor: found 1.5, expected a number in [0, 1]. Change faithful_rl.coverage_floor."),
        (
            {"coverage_floor": float("nan")},
            "faithful_rl.coverage_floor: found nan, expected a number in [0, 1]. Change faithful_rl.coverage_floor.",
        ),
        (
            {"constraints": {"consistency": {**CONSISTENCY, "threshold": 1.01}}},
            "faithful_rl.constraints.consistency.threshold: found 1.01, expected a number in [0, 1]. "
            "Change faithful_rl.constraints.consistency.threshold.",
        ),
        (
            {"constraints": {"accuracy": CONSISTENCY}},
            "faithful_rl.constraints: found 'accuracy', expected one of consistency, semantic_grounding, spatial_grounding. "
            "Set faithful_rl.constraints to one of them.",
        ),
        (
            {"constraints": {"consistency": {**CONSISTENCY, "mask": "format"}}},
            "faithful_rl.constraints.consistency.mask: found 'format', expected one of accuracy, has_reference_boxes. "
            "Set faithful_rl.constraints.consistency.mask to one of them.",
        ),
        (
            {"constraints": {"consistency": {**CONSISTENCY, "multiplier": {"start": 6.0}}}},
            "faithful_rl.constraints.consistency.multiplier.start: found 6.0, expected a number in [0, 5]. "
            "Change faithful_rl.constraints.consistency.multiplier.start.",
        ),
        (
            {"constraints": {}},
            "faithful_rl.constraints: found 'none', expected at least one constraint, because faithful_rl.method is fgrpo. "
            "Choose constraints=fgrpo, or set faithful_rl.method=grpo to train on the task reward only.",
        ),
        (
            {"method": "grpo"},
            "faithful_rl.constraints: found 'consistency', expected no constraints, because faithful_rl.method is grpo. "
            "Choose constraints=none, or set faithful_rl.method=fgrpo.",
        ),
        (
            {"judges": {"grounding": {"backend": "gpt"}}},
            "faithful_rl.judges.grounding.backend: found 'gpt', expected one of fake, openai, scene, vllm. "
            "Set faithful_rl.judges.grounding.backend to one of them.",
        ),
        (
            {"judges": {"consistency": {"timeout_seconds": 0.0}}},
            "faithful_rl.judges.consistency.timeout_seconds: found 0.0, expected a finite number > 0. "
            "Change faithful_rl.judges.consistency.timeout_seconds.",
        ),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_node(node(**changes))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sed": 1}, "faithful_rl.sed"),
        ({"seed": "many"}, "faithful_rl.seed"),
        ({"constraints": {"consistency": {**CONSISTENCY, "tau": 1}}}, "faithful_rl.constraints.consistency.tau"),
        ({"constraints": {"consistency": {"mask": "accuracy"}}}, "faithful_rl.constraints.consistency.threshold"),
    ],
)
def test_unknown_keys_wrong_types_and_missing_values_are_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_node(node(**changes))
    assert caught.value.key == key
