"""n steps, save, load, n steps equal 2n steps to the last bit, for every kind of multiplier and every option."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.constraints import ConstrainedProblem, kinds

SCHEDULES = st.one_of(
    st.fixed_dictionaries({"kind": st.just("constant"), "start": st.floats(0, 2)}),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["linear", "cosine"]),
            "start": st.floats(0, 2),
            "end": st.floats(0, 2),
            "begin": st.integers(0, 3),
            "steps": st.integers(1, 9),
        }
    ),
)
PACE = {"first_step": st.integers(1, 6), "update_every": st.integers(1, 3), "window": st.integers(1, 4)}
MOVING = {"start": st.floats(0, 2), "step_size": st.floats(0.01, 1), "maximum": st.just(2.0), "min_applicable": st.integers(1, 4), **PACE}
GAINS = {"proportional": st.floats(0, 2), "damping": st.floats(0, 0.9)}
MULTIPLIERS = {
    "dual_ascent": st.fixed_dictionaries({"kind": st.just("dual_ascent"), **MOVING}),
    "pi": st.fixed_dictionaries({"kind": st.just("pi"), **MOVING, **GAINS}),
    "pid": st.fixed_dictionaries({"kind": st.just("pid"), **MOVING, **GAINS, "derivative": st.floats(0, 2)}),
    "fixed": st.fixed_dictionaries({"kind": st.just("fixed"), "start": st.floats(0, 2)}),
    "schedule": st.fixed_dictionaries({"kind": st.just("schedule"), "schedule": SCHEDULES}),
}
THRESHOLDS = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"kind": st.just("linear"), "start": st.floats(0, 1), "begin": st.integers(0, 3), "steps": st.integers(1, 9)}),
    st.fixed_dictionaries({"kind": st.just("relative"), "share": st.floats(0, 1), "measure": st.integers(1, 5)}),
)
ROLLOUT = st.tuples(st.floats(0, 1), st.sampled_from((0.0, 3.0, 4.0)), st.booleans())
HISTORY = st.lists(st.lists(ROLLOUT, max_size=8), min_size=1, max_size=12)


def columns(rows):
    return {
        "consistency": np.array([value if reason == 0.0 else np.nan for value, reason, _ in rows]),
        "consistency_scored": np.array([float(reason == 0.0) for _, reason, _ in rows]),
        "consistency_reason": np.array([reason for _, reason, _ in rows]),
        "accuracy": np.array([float(masked_in) for _, _, masked_in in rows]),
    }


def run(problem, history, first):
    return [problem.dual_step(columns(rows), first + number)["consistency"] for number, rows in enumerate(history)]


def test_every_kind_is_tried():
    assert set(kinds()) - {"halving"} == set(MULTIPLIERS)  # `halving` is another test's


@pytest.mark.parametrize("kind", sorted(MULTIPLIERS))
@given(data=st.data())
def test_saving_and_loading_anywhere_changes_no_bit(kind, data):
    demand = {
        "threshold": data.draw(st.floats(0, 1)),
        "mask": data.draw(st.sampled_from(["accuracy", "none"])),
        "direction": data.draw(st.sampled_from(["at_least", "at_most"])),
        "threshold_schedule": data.draw(THRESHOLDS),
        "multiplier": data.draw(MULTIPLIERS[kind]),
    }
    history = data.draw(HISTORY)
    cut = data.draw(st.integers(0, len(history)))
    patience = data.draw(st.integers(1, 4))  # short, so that windows fill, messages are told and told again
    straight, first, second = (ConstrainedProblem.from_settings({"consistency": demand}, 0.5, patience=patience) for _ in range(3))
    expected = run(straight, history, 1)
    run(first, history[:cut], 1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert run(second, history[cut:], cut + 1) == expected[cut:]
    assert second.state_dict() == straight.state_dict()
    for step in expected:
        assert 0.0 <= step.multiplier_next <= 5.0
