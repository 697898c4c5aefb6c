"""Multipliers over any history of batches."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.constraints import ConstrainedProblem, Constraint, DualAscent, constraint_score

REASONS = (0.0, 2.0, 3.0, 4.0)
rollout = st.tuples(st.floats(0, 1), st.sampled_from(REASONS), st.booleans())
batches = st.lists(st.lists(rollout, max_size=12), min_size=1, max_size=12)


def columns(rows):
    return {
        "consistency": np.array([value if reason == 0.0 else np.nan for value, reason, _ in rows]),
        "consistency_scored": np.array([float(reason == 0.0) for _, reason, _ in rows]),
        "consistency_reason": np.array([reason for _, reason, _ in rows]),
        "accuracy": np.array([float(masked_in) for _, _, masked_in in rows]),
    }


def problem():
    return ConstrainedProblem(
        [Constraint("consistency", 0.9, "accuracy")], {"consistency": DualAscent(step_size=0.7, maximum=1.5, min_applicable=3)}
    )


@given(batches)
def test_eq_4_and_5_over_any_history(history):
    subject, value = problem(), 1.0
    for rows in history:
        counted = [score for score, reason, masked_in in rows if masked_in and reason == 0.0]
        failed = sum(masked_in and reason == 4.0 for _, reason, masked_in in rows)
        step = subject.dual_step(columns(rows))["consistency"]
        if len(counted) >= 3 and len(counted) / (len(counted) + failed) >= 0.9:
            value = min(max(value + 0.7 * (0.9 - sum(counted) / len(counted)), 0.0), 1.5)
            assert step.frozen is None
        else:
            assert step.frozen is not None
            assert step.multiplier_next == step.multiplier
        assert abs(step.multiplier_next - value) < 1e-12
        value = step.multiplier_next
        assert 0.0 <= value <= 1.5
        assert step.saturated == (value == 1.5)


@given(batches, st.integers(0, 12))
def test_saving_and_loading_anywhere_changes_no_bit(history, cut):
    straight, first, second = problem(), problem(), problem()
    for rows in history:
        straight.dual_step(columns(rows))
    for rows in history[:cut]:
        first.dual_step(columns(rows))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for rows in history[cut:]:
        second.dual_step(columns(rows))
    assert second.multipliers == straight.multipliers


@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=30))
def test_constraint_score_is_between_the_extremes_of_what_counts(rows):
    chosen = [value for value, counts in rows if counts]
    score = constraint_score([value for value, _ in rows], [counts for _, counts in rows])
    if chosen:
        assert min(chosen) - 1e-12 <= score <= max(chosen) + 1e-12
    else:
        assert score is None
