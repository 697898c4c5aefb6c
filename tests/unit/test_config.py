"""The typed node `faithful_rl:`: ranges, choices, and messages that name key, finding, expectation and fix."""

from typing import Any

import pytest

from faithful_rl.config import ConfigError, FaithfulRLConfig, from_node
from faithful_rl.constraints import Constraint

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
        (
            {"method": "ppo"},
            "faithful_rl.method: found 'ppo', expected one of grpo, fgrpo, sft, sft_verl, crm. Set faithful_rl.method to one of them.",
        ),
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
            "faithful_rl.judges.grounding.backend: found 'gpt', expected one of classifier, fake, openai, scene, vllm. "
            "Set faithful_rl.judges.grounding.backend to one of them.",
        ),
        (
            {"judges": {"consistency": {"timeout_seconds": 0.0}}},
            "faithful_rl.judges.consistency.timeout_seconds: found 0.0, expected a finite number > 0. "
            "Change faithful_rl.judges.consistency.timeout_seconds.",
        ),
        (
            {"judges": {"start_seconds": 0.0}},
            "faithful_rl.judges.start_seconds: found 0.0, expected a finite number > 0. Change faithful_rl.judges.start_seconds.",
        ),
        (
            {"judges": {"grounding": {"timeout_seconds": None}}},
            "faithful_rl.judges.grounding.timeout_seconds: found None, expected a finite number > 0, or a pool that has its own. "
            "Set faithful_rl.judges.grounding.timeout_seconds.",
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


SHORT = {"threshold": 300.0, "mask": "none", "direction": "at_most"}


def demand(**changes: Any) -> dict[str, Any]:
    return {"constraints": {"consistency": {**CONSISTENCY, **changes}}}


def weighted(kind: str = "gdpo", **weights: Any) -> dict[str, Any]:
    return {"method": "grpo", "constraints": {}, "advantage": {"kind": kind, "weights": weights}}


@pytest.mark.parametrize(
    "changes",
    [
        {"constraints": {"response_tokens": SHORT}},
        {"constraints": {"short_answers": {**SHORT, "column": "response_tokens"}, "sentence_count": {"threshold": 2.0, "mask": "format"}}},
        demand(by_source={"vgr": 0.9, "sat": 0.5}),
        demand(threshold_schedule={"kind": "linear", "start": 0.5, "steps": 10}),
        demand(threshold_schedule={"kind": "relative", "share": 0.5, "measure": 3}),
        demand(
            multiplier={
                "kind": "pid",
                "proportional": 1.0,
                "derivative": 0.5,
                "damping": 0.5,
                "window": 4,
                "update_every": 2,
                "first_step": 5,
            }
        ),
        demand(multiplier={"kind": "schedule", "schedule": {"kind": "cosine", "start": 0.0, "end": 2.0, "steps": 10}}),
        demand(multiplier={"kind": "fixed", "step_size": 0.05}),  # the default's number: nobody chose it
        {"advantage": {"masked_rollouts": "as_zero"}},
        {"advantage": {"normalise_by_multipliers": True, "whitening": "none", "normalise_by_std": False}},
        weighted(task={}, consistency={"start": 0.5}),
        weighted("hras", task={}, consistency={"kind": "linear", "start": 0.0, "end": 1.0, "steps": 5}),
        {"method": "grpo", "constraints": {}, "advantage": {"kind": "additive"}},
        {"constraints": {"response_tokens": SHORT}, "advantage": {"kind": "multiplicative"}},
        {**demand(mask="none"), "judges": {"ask_masked": True}},
        {"constraints": {"whole_task": {"threshold": 0.5, "mask": "none", "column": "task"}}, "advantage": {"kind": "additive"}},
        demand(mask="judged_sentence_count"),
        {"rewards": {"design": "vanilla"}, "constraints": {"think_tag": {"threshold": 0.5, "mask": "none"}}},
        {**weighted(task={}, rethink_tag={}), "rewards": {"design": "mixture"}},
    ],
)
def test_open_constraints_multipliers_and_advantages_are_taken(changes: dict[str, Any]) -> None:
    from_node(node(**changes))


@pytest.mark.parametrize(
    ("changes", "key", "part"),
    [
        ({"constraints": {"short/answers": {**SHORT, "column": "response_tokens"}}}, "constraints", "Choose another name, with column"),
        ({"constraints": {"coupled": {**SHORT, "column": "response_tokens"}}}, "constraints", "none of task, coupled"),
        (
            {"constraints": {"task": {"threshold": 0.5, "mask": "none"}}, "advantage": {"kind": "additive"}},
            "constraints",
            "Choose another name, with column: task.",
        ),
        ({"constraints": {"lengthh": SHORT}}, "constraints", "one of task, accuracy, format, consistency"),
        ({"constraints": {"short": {**SHORT, "column": "tokens"}}}, "constraints.short.column", "response_tokens"),
        (demand(mask="right"), "constraints.consistency.mask", "one of none, task, accuracy"),
        (demand(mask="consistency"), "constraints.consistency.mask", "another column than the constrained one"),
        (demand(direction="above"), "constraints.consistency.direction", "one of at_least, at_most"),
        (demand(by_source={"vgr": 2.0}), "constraints.consistency.by_source.vgr", "a number in [0, 1]"),
        ({"constraints": {"response_tokens": {**SHORT, "threshold": -1.0}}}, "constraints.response_tokens.threshold", ">= 0"),
        (
            demand(by_source={"vgr": 0.5}, threshold_schedule={"kind": "relative", "share": 0.5, "measure": 3}),
            "constraints.consistency.by_source",
            "one of the two",
        ),
        (demand(threshold_schedule={"kind": "linear", "steps": 3}), "constraints.consistency.threshold_schedule.start", "at its beginning"),
        (demand(threshold_schedule={"share": 0.5}), "constraints.consistency.threshold_schedule.share", "only with kind relative"),
        (demand(multiplier={"proportional": 1.0}), "constraints.consistency.multiplier.proportional", "only with kind pi or pid"),
        (demand(multiplier={"kind": "pid"}), "constraints.consistency.multiplier.proportional", "without one is dual_ascent"),
        (
            demand(multiplier={"kind": "fixed", "window": 3}),
            "constraints.consistency.multiplier.window",
            "only with kind dual_ascent or pi",
        ),
        (demand(multiplier={"kind": "schedule"}), "constraints.consistency.multiplier.schedule", "a schedule"),
        (
            demand(multiplier={"kind": "schedule", "schedule": {"start": 9.0}}),
            "constraints.consistency.multiplier.schedule.start",
            "a number in [0, 5]",
        ),
        (
            demand(multiplier={"kind": "fixed", "step_size": 0.3}),
            "constraints.consistency.multiplier.step_size",
            "dual_ascent or pi or pid",
        ),
        (
            demand(multiplier={"kind": "schedule", "start": 2.0, "schedule": {"start": 2.0}}),
            "constraints.consistency.multiplier.start",
            "only with kind fixed or dual_ascent",
        ),
        (weighted(task={"start": 0.0}, consistency={"start": 0.0}), "advantage.weights", "the advantage is 0 everywhere"),
        (
            weighted("hras", task={"start": 0.0}, consistency={"kind": "linear", "start": 0.0, "end": 0.0, "steps": 20}),
            "advantage.weights",
            "0 at every step for task, consistency",
        ),
        (
            {"method": "grpo", "constraints": {}, "advantage": {"masked_rollouts": "as_zero"}},
            "advantage.masked_rollouts",
            "a constraint with a mask",
        ),
        (
            {"constraints": {"response_tokens": SHORT}, "advantage": {"masked_rollouts": "as_zero"}},
            "advantage.masked_rollouts",
            "only masks leave rollouts out",
        ),
        (
            {"method": "grpo", "constraints": {}, "advantage": {"normalise_by_multipliers": True, "whitening": "none"}},
            "advantage.normalise_by_multipliers",
            "divides by 1",
        ),
        (weighted(), "advantage.weights", "a weight for each signal"),
        (weighted(taks={}), "advantage.weights", "one of task"),
        (weighted(task={"kind": "linear", "end": 0.0, "steps": 2}), "advantage.weights.task.kind", "constant"),
        (weighted("hras", task={}), "advantage.weights", "task and consistency"),
        (weighted(task={"kind": "linear"}), "advantage.weights.task.end", "the value at its end"),
        (weighted(task={"steps": 3}), "advantage.weights.task", "a constant schedule without end"),
        ({"advantage": {"weights": {"task": {}}}}, "advantage.weights", "no weights"),
        ({"advantage": {"normalise_by_multipliers": True}}, "advantage.normalise_by_multipliers", "divides by the spread anyway"),
        ({"advantage": {"kind": "additive"}}, "constraints.consistency", "a column that the advantage does not already hold"),
        (
            {"constraints": {"semantic_grounding": CONSISTENCY}, "judges": {"grounding_in_training": False}},
            "judges.grounding_in_training",
            "need the grounding judge's verdicts: semantic_grounding. Leave it out",
        ),
        (
            {**demand(mask="judged_sentence_count"), "judges": {"grounding_in_training": False}},
            "judges.grounding_in_training",
            "judged_sentence_count",
        ),
        ({"constraint_patience": 0}, "constraint_patience", ">= 1"),
        (demand(mask="none"), "constraints.consistency.mask", "Set faithful_rl.constraints.consistency.mask=accuracy"),
        ({"constraints": {"semantic_grounding": {"threshold": 0.9, "mask": "format"}}}, "constraints.semantic_grounding.mask", "accuracy"),
        (demand(mask="think_tag"), "constraints.consistency.mask", "one of none, task, accuracy"),  # 0 under `paper`
        (
            {"rewards": {"design": "vanilla"}, "constraints": {"rethink_tag": {"threshold": 0.5, "mask": "none"}}},
            "constraints",
            "think_tag, answer_credit, response_tokens",
        ),
        ({**weighted(task={}, answer_credit={})}, "advantage.weights", "one of task"),
        (
            {"method": "grpo", "constraints": {}, "rewards": {"design": "vanilla"}, "advantage": {"kind": "additive"}},
            "rewards.design",
            "which is made of accuracy, format, consistency, spatial_grounding",
        ),
        ({**weighted(consistency={}), "rewards": {"design": "mixture"}}, "rewards.design", "which is made of consistency"),
    ],
)
def test_contradictions_and_unknown_names_are_refused(changes: dict[str, Any], key: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_node(node(**changes))
    assert caught.value.key == f"faithful_rl.{key}"
    assert part in str(caught.value)


@pytest.mark.parametrize(("sign", "direction"), [("<=", "at_most"), (">=", "at_least"), ("at_most", "at_most")])
def test_a_direction_may_be_written_as_in_a_formula(sign: str, direction: str) -> None:
    typed = from_node(node(constraints={"response_tokens": {**SHORT, "direction": sign}}))
    assert typed.constraints["response_tokens"].direction == direction
    assert Constraint("response_tokens", 300.0, direction=sign).direction == direction  # the trainer reads the node as it was written
