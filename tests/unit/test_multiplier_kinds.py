"""Schedules, thresholds that move, PI and PID, pace, watchman, thresholds by source: each by hand."""

import json
import math

import numpy as np
import pytest

from faithful_rl.constraints import ColumnError, ConstrainedProblem, Constraint, Frozen, Schedule, build_multiplier
from faithful_rl.constraints.monitor import Monitor, Observation
from faithful_rl.constraints.pacing import Pace, PaceSettings
from faithful_rl.constraints.threshold import Threshold, ThresholdSettings
from faithful_rl.types import Reason


def problem(threshold=0.9, multiplier=None, patience=20, **demand):
    multiplier = {"kind": "dual_ascent", "step_size": 0.1, "min_applicable": 1, **(multiplier or {})}
    node = {"threshold": threshold, "mask": "none", **demand, "multiplier": multiplier}
    return ConstrainedProblem.from_settings({"sentence_count" if threshold > 1 else "format": node}, patience=patience)


def step(subject, *values, number=None, sources=None):
    name = subject.constraints[0].name
    return subject.dual_step({name: np.array(values, dtype=float)}, number, sources)[name]


# ---- schedules ----


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0]),
        ("cosine", [0.0, 0.0, 1 - math.cos(math.pi / 4), 1.0, 1 + math.cos(math.pi / 4), 2.0, 2.0]),
    ],
)
def test_a_schedule_moves_between_its_ends(kind, expected):
    schedule = Schedule(kind, 0.0, 2.0, begin=2, steps=4)
    assert [schedule.at(number) for number in range(1, 8)] == pytest.approx(expected)
    assert schedule.last_step == 6
    decay = Schedule(kind, 2.0, 0.0, begin=2, steps=4)
    assert [decay.at(number) for number in range(1, 8)] == pytest.approx([2.0 - value for value in expected])


def test_the_ends_of_a_schedule_are_exact():
    schedule = Schedule("cosine", 0.1, 0.7, steps=3)
    assert (schedule.at(0), schedule.at(3), schedule.at(1000), Schedule(start=0.3).at(7)) == (0.1, 0.7, 0.7, 0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "step"}, "schedule.kind is 'step'"),
        ({"kind": "linear"}, "set schedule.end and schedule.steps"),
        ({"end": 1.0}, "schedule.kind is constant"),
        ({"kind": "linear", "end": math.nan, "steps": 1}, "schedule.end must be finite"),
        ({"kind": "linear", "end": 1.0, "steps": 1, "begin": -1}, "schedule.begin"),
        ({"stop": 1}, "stop"),
    ],
)
def test_bad_schedules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Schedule.from_settings(settings)


# ---- multipliers ----


def test_pid_by_hand():
    subject = build_multiplier("pid", start=1.0, step_size=0.1, proportional=2.0, derivative=3.0, damping=0.5)
    subject.update(0.4)  # I = 1.04, xi = 0.2, no derivative yet
    assert subject.value == pytest.approx(1.04 + 0.4)
    subject.update(0.8)  # I = 1.12, xi = 0.5, rise 0.3
    assert subject.value == pytest.approx(1.12 + 1.0 + 0.9)
    subject.update(-0.5)  # I = 1.07, xi = 0.0, a fall counts as 0
    assert subject.value == pytest.approx(1.07)


def test_pi_without_damping_is_dual_ascent_plus_the_violation():
    subject = build_multiplier("pi", start=0.5, step_size=0.1, proportional=1.0)
    subject.update(0.2)
    assert subject.value == pytest.approx(0.5 + 0.02 + 0.2)
    subject.update(-0.1)
    assert subject.value == pytest.approx(0.5 + 0.02 - 0.01 - 0.1)


def test_a_long_violation_does_not_wind_the_integral_up():
    subject = build_multiplier("pi", start=1.0, step_size=0.5, proportional=1.0, maximum=2.0)
    for _ in range(100):
        subject.update(0.9)
    assert (subject.value, subject.saturated) == (2.0, True)
    subject.update(-0.1)
    assert subject.value == pytest.approx(2.0 - 0.05 - 0.1)  # falls at once


def test_a_scheduled_multiplier_belongs_to_the_step_in_which_it_is_used():
    schedule = {"kind": "linear", "start": 0.0, "end": 1.0, "begin": 0, "steps": 4}
    subject = problem(multiplier={"kind": "schedule", "schedule": schedule})
    used = [step(subject, 0.0, number=number).multiplier for number in range(1, 6)]
    assert used == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_a_scheduled_multiplier_moves_even_where_nothing_is_measured():
    schedule = {"kind": "linear", "start": 0.0, "end": 1.0, "steps": 2}
    subject = ConstrainedProblem.from_settings(
        {"format": {"threshold": 0.9, "mask": "accuracy", "multiplier": {"kind": "schedule", "schedule": schedule}}}
    )
    found = subject.dual_step({"format": np.ones(2), "accuracy": np.zeros(2)}, 1)["format"]
    assert (found.multiplier, found.multiplier_next, found.frozen) == (0.5, 1.0, Frozen.TOO_FEW_APPLICABLE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "dual_ascent", "proportional": 1.0}, "multiplier.proportional is set, but multiplier.kind is 'dual_ascent'"),
        ({"kind": "pi", "derivative": 1.0}, "multiplier.derivative is set"),
        ({"kind": "pid", "proportional": -1.0}, "multiplier.proportional"),
        ({"kind": "pid", "damping": 1.0}, "multiplier.damping"),
        ({"kind": "fixed", "schedule": {"start": 1.0}}, "multiplier.schedule is set"),
        ({"kind": "schedule"}, "set multiplier.schedule"),
        ({"kind": "schedule", "schedule": {"start": 9.0}}, r"values from 9 to 9, expected \[0, 5.0\]"),
    ],
)
def test_bad_multipliers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_multiplier(**settings)


def test_another_controllers_state_is_refused():
    subject = build_multiplier("pid", proportional=1.0, maximum=2.0)
    good = subject.state_dict()
    for change, message in (({"kind": "pi"}, "kind"), ({"integral": 3.0}, "integral"), ({"smoothed": "x"}, "smoothed")):
        with pytest.raises(ValueError, match=message):
            subject.load_state_dict({**good, **change})
        assert subject.state_dict() == good


# ---- pace ----


def test_pace_by_hand():
    pace = Pace(PaceSettings(first_step=3, update_every=2, window=2))
    assert [pace.due(number) for number in range(1, 8)] == [False, False, True, False, True, False, True]
    for violation in (0.1, 0.2, 0.6):
        pace.observe(violation)
    assert pace.smoothed() == pytest.approx(0.4)


def test_a_multiplier_waits_for_its_first_step_and_takes_the_mean_of_its_window():
    subject = problem(multiplier={"first_step": 2, "update_every": 2, "window": 2})
    first, second, third = (step(subject, value, number=number) for number, value in ((1, 0.5), (2, 0.7), (3, 0.0)))
    assert (first.updated, second.updated, third.updated) == (False, True, False)
    assert (first.frozen, third.frozen) == (None, None)  # waiting is no trouble
    assert second.multiplier_next == pytest.approx(1.0 + 0.1 * (0.4 + 0.2) / 2)
    assert third.multiplier_next == second.multiplier_next


@pytest.mark.parametrize("name", ["first_step", "update_every", "window"])
def test_a_pace_below_one_is_refused(name):
    with pytest.raises(ValueError, match=rf"constraints\.format: multiplier\.{name} must be at least 1"):
        problem(multiplier={name: 0})


# ---- thresholds ----


def test_a_linear_threshold():
    threshold = Threshold(0.9, ThresholdSettings("linear", start=0.5, begin=1, steps=4))
    assert [threshold.at(number) for number in (1, 2, 3, 5, 9)] == pytest.approx([0.5, 0.6, 0.7, 0.9, 0.9])


def test_a_relative_threshold_waits_for_the_starting_rate():
    subject = problem(1.0, threshold_schedule={"kind": "relative", "share": 0.5, "measure": 2})
    first, second, third = (step(subject, value) for value in (0.7, 0.9, 0.8))
    assert [one.threshold for one in (first, second)] == [None, None]
    assert (first.violation, first.updated, first.multiplier_next) == (None, False, 1.0)
    assert third.threshold == pytest.approx(0.8 + 0.5 * 0.2)  # half of the starting failures
    assert third.multiplier_next == pytest.approx(1.0 + 0.1 * 0.1)


def test_a_share_of_zero_demands_what_the_policy_started_with():
    threshold = Threshold(1.0, ThresholdSettings("relative", share=0.0, measure=1))
    threshold.observe(0.74)
    threshold.observe(0.1)  # too late to count
    assert threshold.at(2) == 0.74


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cubic"}, "threshold_schedule.kind is 'cubic'"),
        ({"kind": "linear"}, "needs a finite start"),
        ({"kind": "relative", "share": 2.0, "measure": 1}, "share in"),
        ({"share": 0.5, "measure": 1}, "share and measure belong to relative"),
        ({"kind": "relative", "share": 0.5, "measure": 1, "steps": 3}, "start, begin and steps belong to linear"),
    ],
)
def test_bad_threshold_schedules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ThresholdSettings(**settings)


def test_thresholds_by_source_are_averaged_over_what_counts():
    subject = problem(0.9, by_source={"vgr": 0.5})
    found = step(subject, 1.0, 0.0, 1.0, 1.0, sources=["vgr", "vgr", "sat", "vgr"])
    assert found.threshold == pytest.approx((0.5 * 3 + 0.9) / 4)
    assert found.violation == pytest.approx(0.6 - 0.75)
    with pytest.raises(ColumnError, match="one data source for each rollout"):
        step(subject, 1.0)


# ---- direction, mask and column ----


def test_an_upper_bound_is_violated_above_it():
    subject = problem(4.0, direction="at_most")
    found = step(subject, 5.0, 6.0)
    assert (found.score, found.violation) == (5.5, 1.5)
    # 1.5 sentences are 37.5% of the threshold: a count's violation moves its multiplier by its share
    assert found.multiplier_next == pytest.approx(1.0 + 0.1 * 0.375)
    assert step(subject, 1.0).multiplier_next == pytest.approx(1.0 + 0.1 * 0.375 - 0.1 * 0.75)


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        ({"direction": "near"}, "direction is 'near'"),
        ({"by_source": {"vgr": 1.5}}, r"by_source\.vgr must be finite and lie in \[0, 1\]"),
        ({"by_source": {"vgr": 0.5}, "threshold_schedule": {"kind": "linear", "start": 0.1, "steps": 3}}, "exclude each other"),
    ],
)
def test_demands_that_do_not_fit_are_refused(demand, message):
    with pytest.raises(ValueError, match=message):
        problem(**demand)


# ---- what is told ----


def seen(**changes):
    usual = {
        "multiplier": 5.0, "limit": 5.0, "frozen": None, "applicable": 10, "attempted": 10, "coverage": 1.0,
        "score": 0.85, "threshold": 0.95, "violation": 0.1, "min_applicable": 8, "coverage_floor": 0.9,
    }  # fmt: skip
    return Observation(**{**usual, **changes})


def told(monitor, *observations):
    """Numbers, counted from 1, of the steps with a message."""
    return [number for number, one in enumerate(observations, 1) if monitor.observe(one).message]


def test_a_constraint_out_of_reach_is_told_once():
    monitor = Monitor("consistency", patience=3)
    reports = [monitor.observe(seen()) for _ in range(5)]
    assert [bool(report.message) for report in reports] == [False, False, True, False, False]
    assert [report.infeasible for report in reports] == [False, False, True, True, True]
    assert "constraint consistency looks infeasible: over the last 3 measured steps" in reports[2].message
    assert "(mean 5.00 of 5), and the mean score is 0.850 against a threshold of 0.950" in reports[2].message


def test_the_judges_ceiling_says_why():
    for ceiling, why in ((0.9, "a perfect policy scores 0.900: the threshold is out of its reach"),
                         (0.99, "would give a perfect policy 0.990: raise multiplier.maximum")):  # fmt: skip
        monitor = Monitor("consistency", patience=1, ceiling=ceiling)
        assert why in monitor.observe(seen()).message


def test_a_lucky_batch_does_not_hide_a_constraint_out_of_reach():
    monitor = Monitor("c", patience=4)
    lucky = seen(multiplier=4.9, score=0.97, violation=-0.02)
    steps = [seen(), lucky, seen(), lucky, seen(), lucky]  # mean of any four: 4.95 of 5, violation 0.04
    assert told(monitor, *steps) == [4]


def test_it_is_told_again_only_after_the_multiplier_came_well_down():
    monitor = Monitor("c", patience=2)
    high, lower, low = seen(), seen(multiplier=4.2), seen(multiplier=3.9, violation=-0.1)
    assert told(monitor, high, high, lower, lower, high, high) == [2]  # 4.2 of 5 is above 0.8: not cleared
    assert told(monitor, low, low, high, high) == [4]


def test_a_constraint_that_holds_on_average_is_not_out_of_reach():
    monitor = Monitor("c", patience=2)
    assert told(monitor, *[seen(), seen(violation=-0.2)] * 4) == []


def test_frozen_and_unmeasured_steps_say_nothing_about_reach():
    monitor = Monitor("c", patience=2)
    gap = seen(frozen=Frozen.TOO_FEW_APPLICABLE, applicable=1, attempted=1)
    assert told(monitor, seen(), gap, seen(threshold=None, violation=None), seen(limit=None), seen()) == [5]


NOTHING = {"frozen": Frozen.TOO_FEW_APPLICABLE, "applicable": 0, "attempted": 0, "score": None, "violation": None}
TOO_FEW = {"frozen": Frozen.TOO_FEW_APPLICABLE, "applicable": 5, "attempted": 5}
FAILED = {"frozen": Frozen.LOW_COVERAGE, "applicable": 3, "attempted": 12, "coverage": 0.25}


@pytest.mark.parametrize(
    ("why", "message"),
    [
        (NOTHING, "constraint c: no rollout applied in 3 steps, so it constrains nothing. Look at its mask"),
        (TOO_FEW, "its multiplier has stood still for 3 steps, because too few rollouts applied: 5.0 on average, multiplier.min_applicable "
                  "is 8. Take larger batches"),
        (FAILED, "its multiplier has stood still for 3 steps, because 75% of its measurements failed (coverage 0.25 on average, "
                 "faithful_rl.coverage_floor is 0.9). Look at the judges"),
    ],
)  # fmt: skip
def test_a_multiplier_that_stands_still_is_told_once_with_the_reason(why, message):
    monitor = Monitor("c", patience=3)
    reports = [monitor.observe(seen(multiplier=1.0, **why)) for _ in range(5)]
    assert [bool(report.message) for report in reports] == [False, False, True, False, False]
    assert message in reports[2].message
    assert ("mask" in reports[2].message) == (why is not FAILED)
    assert [report.starved for report in reports] == [False, False, True, True, True]
    assert not reports[4].infeasible


def test_standing_still_is_told_again_only_after_it_moved_for_as_long():
    monitor = Monitor("c", patience=2)
    frozen, moving = seen(**TOO_FEW), seen(violation=-0.1)
    assert told(monitor, frozen, frozen, moving, frozen, frozen, moving, moving, frozen, frozen) == [2, 9]


def test_a_multiplier_that_no_violation_moves_starves_only_where_nothing_counts():
    monitor = Monitor("c", patience=2)
    assert told(monitor, *[seen(limit=None, **TOO_FEW)] * 3, *[seen(limit=None, **FAILED)] * 3) == []
    nobody = {**FAILED, "applicable": 0, "coverage": 0.0}
    assert told(monitor, *[seen(limit=None, **nobody)] * 2) == [2]
    assert told(Monitor("c", patience=1), seen(limit=None, **NOTHING)) == [1]


def test_failed_judges_are_the_reason_where_without_them_enough_would_have_counted():
    failed = float(Reason.JUDGE_ERROR)
    scored = np.array([1.0] * 4 + [0.0] * 12)  # four measured, twelve failed, all masked in
    columns = {
        "consistency": np.ones(16), "consistency_scored": scored,
        "consistency_reason": np.where(scored == 1.0, 0.0, failed), "accuracy": np.ones(16),
    }  # fmt: skip
    node = {"threshold": 0.9, "mask": "accuracy", "multiplier": {"kind": "dual_ascent", "min_applicable": 8}}
    subject = ConstrainedProblem.from_settings({"consistency": node}, patience=1)
    found = subject.dual_step(columns)["consistency"]
    assert (found.frozen, found.applicable, found.coverage) == (Frozen.LOW_COVERAGE, 4, 0.25)
    assert "75% of its measurements failed" in found.message


def test_the_watch_goes_on_after_a_restart():
    for before in ([seen()] * 2, [seen()] * 3, [seen(**FAILED)] * 2, [seen(**TOO_FEW)] * 4):
        straight, first, second = (Monitor("c", patience=3) for _ in range(3))
        for one in before:
            straight.observe(one)
            first.observe(one)
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        after = [*before, seen(multiplier=1.0), seen(**NOTHING), *[seen(violation=-0.1)] * 3, seen(**NOTHING)]
        assert [second.observe(one) for one in after] == [straight.observe(one) for one in after]
        assert second.state_dict() == straight.state_dict()


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("reach", "window", [[1.0, 0.1]]), ("reach", "told", 1), ("standstill", "steps", {}), ("standstill", "coverage", "much")],
)
def test_a_damaged_watch_is_refused_and_nothing_changes(part, key, value):
    monitor = Monitor("c", patience=2)
    monitor.observe(seen())
    before = monitor.state_dict()
    with pytest.raises(ValueError, match="in the checkpoint"):
        monitor.load_state_dict({**before, part: {**before[part], key: value}})
    assert monitor.state_dict() == before


def test_a_problem_tells_it_in_its_steps():
    subject = problem(multiplier={"start": 5.0}, patience=2)
    subject.set_ceilings({"format": 0.5})
    assert step(subject, 0.0).message == ""
    found = step(subject, 0.0)
    assert found.infeasible
    assert "a perfect policy scores 0.500" in found.message


def test_a_constraint_on_a_constraint_name_alone_needs_its_column():
    with pytest.raises(ColumnError, match="'short': missing"):
        ConstrainedProblem([Constraint("short", 1.0, "none")], {"short": build_multiplier("fixed")}).dual_step({"format": [1.0]})
