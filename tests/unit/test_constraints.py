"""Eq. 4 and 5 by hand: what counts, what freezes, what is saved and what is refused."""

import json
import math

import numpy as np
import pytest

from faithful_rl.constraints import (
    ColumnError,
    ConstrainedProblem,
    Constraint,
    DualAscent,
    FixedMultiplier,
    Frozen,
    applicability,
    build_multiplier,
    constraint_score,
    kinds,
    register,
    signal_columns,
)
from faithful_rl.types import Reason

CONSISTENCY = Constraint("consistency", 0.95, "accuracy")


def batch(values, scored=None, mask=None, reason=None, name="consistency", mask_name="accuracy"):
    rows = len(values)
    scored = [1.0] * rows if scored is None else scored
    reason = [0.0 if is_scored else float(Reason.JUDGE_ERROR) for is_scored in scored] if reason is None else [float(r) for r in reason]
    return {
        name: np.array(values, dtype=float),
        f"{name}_scored": np.array(scored, dtype=float),
        f"{name}_reason": np.array(reason),
        mask_name: np.array([1.0] * rows if mask is None else mask, dtype=float),
    }


def problem(min_applicable=2, **settings):
    return ConstrainedProblem([CONSISTENCY], {"consistency": DualAscent(min_applicable=min_applicable, **settings)})


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf])
def test_threshold_must_be_a_share(threshold):
    with pytest.raises(ValueError, match=r"consistency\.threshold"):
        Constraint("consistency", threshold, "accuracy")


def test_constraint_needs_names():
    with pytest.raises(ValueError, match="mask"):
        Constraint("consistency", 0.5, "")


def test_constraint_score_is_the_mean_over_what_counts():
    assert constraint_score([1.0, 0.0, 0.5, math.nan], [1, 1, 1, 0]) == 0.5
    assert constraint_score([1.0, 2.0], [0, 0]) is None
    assert constraint_score([], []) is None


def test_applicability_and_coverage_by_hand():
    reasons = [
        Reason.SCORED,
        Reason.JUDGE_ERROR,
        Reason.NO_REFERENCE,
        Reason.NOTHING_TO_JUDGE,
        Reason.SCORED,
        Reason.JUDGE_TIMEOUT,
        Reason.SCORED,
    ]
    columns = batch([1, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0, 1], [1, 1, 1, 1, 0, 0, 1], reasons)
    applies = applicability(columns, CONSISTENCY)
    assert applies.masked_in.tolist() == [True, True, True, True, False, False, True]
    assert applies.counts.tolist() == [True, False, False, False, False, False, True]
    assert applies.coverage == pytest.approx(2 / 3)  # two scored, one failed; the masked time-out is nobody's loss


def test_a_rollout_that_should_have_been_asked_lowers_coverage():
    columns = batch([1, 0], [1, 0], reason=[Reason.SCORED, Reason.MASKED])
    assert applicability(columns, CONSISTENCY).coverage == 0.5


def test_coverage_of_nothing_attempted_is_one():
    assert applicability(batch([0, 0], mask=[0, 0]), CONSISTENCY).coverage == 1.0


def test_unscored_nan_is_never_looked_at():
    signal = signal_columns(batch([math.nan, 1.0], [0, 1]), "consistency")
    assert signal.values.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scored_nonfinite_value_is_refused_and_named(value):
    with pytest.raises(ColumnError, match=r"'consistency'.*rollout 1") as caught:
        signal_columns(batch([0.0, value]), "consistency")
    assert caught.value.column == "consistency"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"consistency": np.ones((2, 1))}, "shape"),
        ({"consistency_scored": np.ones(3)}, r"expected shape \(2,\), found \(3,\)"),
        ({"consistency_scored": np.array([0.5, 1.0])}, "only 0 and 1"),
        ({"consistency_scored": np.array([math.nan, 1.0])}, "only 0 and 1"),
        ({"accuracy": np.array([math.nan, 1.0])}, "'accuracy'"),
        ({"consistency_reason": np.zeros(1)}, "'consistency_reason'"),
        ({"consistency": np.array([None, "x"], dtype=object)}, "not numeric"),
    ],
)
def test_bad_columns_are_refused_and_named(change, message):
    with pytest.raises(ColumnError, match=message):
        applicability({**batch([1.0, 1.0]), **change}, CONSISTENCY)


@pytest.mark.parametrize("missing", ["consistency", "consistency_scored", "consistency_reason", "accuracy"])
def test_missing_column_is_named(missing):
    columns = batch([1.0, 1.0])
    del columns[missing]
    with pytest.raises(ColumnError, match=f"'{missing}': missing"):
        applicability(columns, CONSISTENCY)


def test_dual_step_by_hand():
    subject = problem()
    step = subject.dual_step(batch([1, 0, 1, 0]))["consistency"]
    assert (step.score, step.applicable, step.coverage) == (0.5, 4, 1.0)
    assert step.violation == pytest.approx(0.45)
    assert (step.multiplier, step.multiplier_next) == (1.0, pytest.approx(1.0225))  # 1 + 0.05 * (0.95 - 0.5)
    assert step.frozen is None
    assert subject.multipliers == {"consistency": step.multiplier_next}


def test_multiplier_falls_when_satisfied_and_stops_at_zero_and_at_the_maximum():
    falling = DualAscent(start=0.01, step_size=0.5, maximum=2.0)
    falling.update(-0.05)
    assert (falling.value, falling.saturated) == (0.0, False)
    rising = DualAscent(start=1.9, step_size=0.5, maximum=2.0)
    rising.update(0.95)
    assert (rising.value, rising.saturated) == (2.0, True)


def test_too_few_applicable_rollouts_freeze():
    step = problem(min_applicable=3).dual_step(batch([0, 0, 0], mask=[1, 1, 0]))["consistency"]
    assert (step.frozen, step.multiplier_next, step.score, step.applicable) == (Frozen.TOO_FEW_APPLICABLE, 1.0, 0.0, 2)


def test_exactly_the_minimum_is_enough():
    assert problem(min_applicable=3).dual_step(batch([0, 0, 0]))["consistency"].frozen is None


def test_no_applicable_rollout_freezes_even_without_a_minimum():
    step = problem(min_applicable=0).dual_step(batch([0, 0], mask=[0, 0]))["consistency"]
    assert (step.score, step.violation, step.frozen, step.multiplier_next) == (None, None, Frozen.TOO_FEW_APPLICABLE, 1.0)


def test_judge_failures_freeze_below_the_coverage_floor():
    nine_of_ten, eight_of_ten = [1] * 9 + [0], [1] * 8 + [0] * 2
    assert problem().dual_step(batch([0] * 10, nine_of_ten))["consistency"].frozen is None
    step = problem().dual_step(batch([0] * 10, eight_of_ten))["consistency"]
    assert (step.frozen, step.coverage, step.multiplier_next) == (Frozen.LOW_COVERAGE, 0.8, 1.0)


def test_a_failed_judge_is_no_zero():
    all_well = problem().dual_step(batch([1] * 19))["consistency"]
    one_failed = problem().dual_step(batch([1] * 19 + [0], [1] * 19 + [0]))["consistency"]
    assert one_failed.multiplier_next == all_well.multiplier_next


def test_fixed_multiplier_stays():
    subject = ConstrainedProblem([CONSISTENCY], {"consistency": FixedMultiplier(start=1.0)})
    step = subject.dual_step(batch([0, 0]))["consistency"]
    assert (step.multiplier_next, step.frozen, step.saturated) == (1.0, None, False)


def test_nothing_moves_when_a_column_is_broken():
    constraints = [CONSISTENCY, Constraint("spatial_grounding", 0.65, "has_reference_boxes")]
    subject = ConstrainedProblem(constraints, {c.name: DualAscent(min_applicable=1) for c in constraints})
    columns = {**batch([0.0]), **batch([math.nan], name="spatial_grounding", mask_name="has_reference_boxes")}
    with pytest.raises(ColumnError, match="spatial_grounding"):
        subject.dual_step(columns)
    assert subject.multipliers == {"consistency": 1.0, "spatial_grounding": 1.0}


def test_task_only_is_the_problem_without_constraints():
    subject = ConstrainedProblem([], {})
    assert subject.dual_step({}) == {}
    assert subject.multipliers == {}
    subject.load_state_dict(json.loads(json.dumps(subject.state_dict())))


SETTINGS = {
    "consistency": {
        "threshold": 0.95,
        "mask": "accuracy",
        "multiplier": {"kind": "dual_ascent", "start": 0.5, "step_size": 0.1, "maximum": 2.0, "min_applicable": 4},
    },
    "spatial_grounding": {
        "threshold": 0.65,
        "mask": "has_reference_boxes",
        "multiplier": {"kind": "fixed", "start": 1.0, "step_size": 0.05, "maximum": 5.0, "min_applicable": 8},
    },
}


def test_problem_from_settings():
    subject = ConstrainedProblem.from_settings(SETTINGS)
    assert subject.multipliers == {"consistency": 0.5, "spatial_grounding": 1.0}
    assert subject.constraints == (CONSISTENCY, Constraint("spatial_grounding", 0.65, "has_reference_boxes"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 2}, r"constraints\.consistency: consistency\.threshold"),
        ({"multiplier": {"kind": "magic"}}, r"constraints\.consistency: multiplier\.kind is 'magic'.*dual_ascent.*fixed"),
        ({"multiplier": {"kind": "fixed", "stepsize": 1}}, "stepsize"),
        ({"multiplier": {"kind": "dual_ascent", "step_size": 0.0}}, "step_size"),
        ({"multiplier": {"kind": "dual_ascent", "start": 6.0}}, "multiplier.start"),
        ({"multiplier": {"kind": "dual_ascent", "maximum": math.inf}}, "multiplier.maximum"),
        ({"multiplier": {"kind": "fixed", "min_applicable": -1}}, "min_applicable"),
        ({"extra": 1}, "extra"),
    ],
)
def test_bad_settings_name_their_constraint(change, message):
    with pytest.raises(ValueError, match=message):
        ConstrainedProblem.from_settings({"consistency": {**SETTINGS["consistency"], **change}})


def test_problem_refuses_names_that_do_not_fit():
    with pytest.raises(ValueError, match="unique"):
        ConstrainedProblem([CONSISTENCY, CONSISTENCY], {"consistency": DualAscent()})
    with pytest.raises(ValueError, match="one multiplier"):
        ConstrainedProblem([CONSISTENCY], {"consistent": DualAscent()})
    with pytest.raises(ValueError, match="coverage_floor"):
        ConstrainedProblem([], {}, coverage_floor=1.5)


def test_state_survives_json_to_the_last_bit():
    subject = problem(start=0.1)
    for _ in range(7):
        subject.dual_step(batch([1, 0, 0]))
    other = problem(start=0.1)
    other.load_state_dict(json.loads(json.dumps(subject.state_dict())))
    assert other.multipliers == subject.multipliers
    assert other.dual_step(batch([1, 0])) == subject.dual_step(batch([1, 0]))


def changed_state(path, value):
    state = json.loads(json.dumps(problem().state_dict()))
    node = state
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed_state(["version"], 1), "version 1, this code reads versions 2 and 3: continue the run with the version"),
        (changed_state(["constraints"], {}), "same recipe"),
        (changed_state(["constraints"], None), "same recipe"),
        (changed_state(["constraints", "consistency", "threshold"], 0.9), r"consistency: threshold is 0.95 in the recipe and 0.9"),
        (changed_state(["constraints", "consistency", "mask"], "x"), r"consistency: mask"),
        (changed_state(["constraints", "consistency", "multiplier", "kind"], "fixed"), r"consistency: multiplier\.kind"),
        (changed_state(["constraints", "consistency", "multiplier", "value"], 9.0), r"\[0, 5.0\]"),
        (changed_state(["constraints", "consistency", "multiplier", "value"], math.nan), r"\[0, 5.0\]"),
        (changed_state(["constraints", "consistency", "multiplier"], None), r"multiplier\.kind"),
        ({}, "version None"),
    ],
)
def test_another_problems_state_is_refused(state, message):
    subject = problem()
    with pytest.raises(ValueError, match=message):
        subject.load_state_dict(state)
    assert subject.multipliers == {"consistency": 1.0}


def test_a_state_from_before_the_watch_over_windows_is_taken():
    subject = problem(start=0.3)
    subject.dual_step(batch([0, 0]))
    state = json.loads(json.dumps(subject.state_dict()))
    state["version"] = 2
    state["constraints"]["consistency"]["monitor"] = {"saturated_steps": 0, "empty_steps": 0}
    other = problem(start=0.3)
    other.load_state_dict(state)
    assert other.multipliers == subject.multipliers == {"consistency": pytest.approx(0.3 + 0.05 * 0.95)}
    assert other.dual_step(batch([1, 0]))["consistency"].multiplier_next == subject.dual_step(batch([1, 0]))["consistency"].multiplier_next
    assert other.state_dict()["version"] == 3


def test_a_refused_state_leaves_every_multiplier_as_it_was():
    subject = ConstrainedProblem.from_settings(SETTINGS)
    state = json.loads(json.dumps(subject.state_dict()))
    state["constraints"]["consistency"]["multiplier"]["value"] = 1.5
    state["constraints"]["spatial_grounding"]["multiplier"]["value"] = 3.0
    with pytest.raises(ValueError, match=r"spatial_grounding: fixed multiplier was 3.0"):
        subject.load_state_dict(state)
    assert subject.multipliers == {"consistency": 0.5, "spatial_grounding": 1.0}


def test_another_kind_can_be_registered_once():
    assert {"dual_ascent", "fixed"} <= set(kinds())

    class Halving(FixedMultiplier):
        kind = "halving"

        def update(self, violation: float) -> None:
            self._value /= 2

    if "halving" not in kinds():
        register("halving", Halving)
    subject = ConstrainedProblem([CONSISTENCY], {"consistency": build_multiplier("halving", start=1.0)})
    assert subject.dual_step(batch([0, 0]))["consistency"].multiplier_next == 0.5
    with pytest.raises(ValueError, match="already registered"):
        register("fixed", FixedMultiplier)
