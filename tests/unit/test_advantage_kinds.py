"""Each way to compose an advantage, by hand: coupled rewards, weighted signals, Dr. GRPO, constraints of either direction."""

import math

import numpy as np
import pytest

from faithful_rl.advantage import ADDITIVE, MULTIPLICATIVE, AdvantageSettings, combined_advantage, constrained_advantage, coupled_reward
from faithful_rl.constraints import ColumnError, Constraint, Schedule
from faithful_rl.types import Reason

NAMES = ("task", "accuracy", "format", "consistency", "semantic_grounding", "spatial_grounding")
HALF = math.sqrt(0.5)  # two values one apart lie 1/2 / sqrt(1/2) from their mean


def columns(rows, **values):
    """Every signal 1.0 and scored, unless given; None is unscored by a failed judge, a Reason is unscored by that reason."""
    built = {}
    for name in NAMES:
        given = values.get(name, [1.0] * rows)
        reasons = [float(Reason.JUDGE_ERROR if v is None else v if isinstance(v, Reason) else Reason.SCORED) for v in given]
        scored = [reason == 0.0 for reason in reasons]
        built[name] = np.array([v if ok else math.nan for v, ok in zip(given, scored, strict=True)], dtype=float)
        built[f"{name}_scored"] = np.array(scored, dtype=float)
        built[f"{name}_reason"] = np.array(reasons)
    return built


def plain(kind="constrained", **settings):
    return AdvantageSettings(kind=kind, whitening="none", **{"epsilon": 0.0, "std_floor": 1e-3, **settings})


def weights(**values):
    return {name: value if isinstance(value, Schedule) else Schedule(start=value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("accuracy", "format_", "consistency", "grounding", "additive", "multiplicative"),
    [
        (1, 1, 1, 1.0, 1.0, 1.0),
        (1, 1, 0, 0.5, 1 / 3 + 0 + 0.5 / 3, 0.25),
        (0, 1, 1, 0.4, 0.4 / 3, 0.2),
        (1, 0, 1, 0.8, 2 / 3, 0.5),
        (0, 0, 0, 0.0, 0.0, 0.0),
    ],
)
def test_coupled_rewards_by_hand(accuracy, format_, consistency, grounding, additive, multiplicative):
    built = columns(1, accuracy=[accuracy], format=[format_], consistency=[consistency], spatial_grounding=[grounding])
    for terms, expected in ((ADDITIVE, additive), (MULTIPLICATIVE, multiplicative)):
        found = coupled_reward(built, terms)
        assert (found.values[0], found.scored[0]) == (pytest.approx(expected), True)


def test_an_unscored_factor_beside_a_zero_does_not_matter():
    built = columns(2, accuracy=[0.0, 0.0], consistency=[Reason.MASKED, None], spatial_grounding=[0.6, 0.6])
    found = coupled_reward(built, MULTIPLICATIVE)
    assert found.scored.all()
    assert found.values == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize("why", [None, Reason.JUDGE_TIMEOUT, Reason.NOTHING_TO_JUDGE])
def test_an_unscored_factor_that_matters_leaves_the_rollout_out(why):
    built = columns(3, consistency=[1.0, 0.0, why])
    assert coupled_reward(built, ADDITIVE).scored.tolist() == [True, True, False]
    found = combined_advantage(built, [0] * 3, settings=plain("additive"))
    assert found.total == pytest.approx([HALF, -HALF, 0.0])  # as if the third had not been there; a zero reward would have lowered it


def test_a_row_without_boxes_is_rewarded_by_the_terms_that_it_has():
    built = columns(2, consistency=[1.0, 0.0], spatial_grounding=[Reason.NO_REFERENCE] * 2, format=[1.0, 0.0])
    # without the third term: 3/3 * (1/3 + 1/3) / (2/3) = 1, and (1/3 + 0) / (2/3) = 1/2; format is part of the term that is gone
    assert coupled_reward(built, ADDITIVE).values == pytest.approx([1.0, 0.5])
    assert coupled_reward(built, MULTIPLICATIVE).values == pytest.approx([1.0, 0.0])


def test_a_summed_reward_is_normalised_once():
    # rewards 1 * 1 + 0.5 * 1 = 1.5, 0.5, 1.0: half a unit from their mean 1, spread 0.5
    built = columns(3, task=[1.0, 0.0, 1.0], consistency=[1.0, 1.0, 0.0])
    found = combined_advantage(built, [0] * 3, settings=plain("summed", weights=weights(task=1.0, consistency=0.5)))
    assert found.coupled.values == pytest.approx([1.5, 0.5, 1.0])
    assert found.total == pytest.approx([1.0, -1.0, 0.0])
    gdpo = combined_advantage(built, [0] * 3, settings=plain("gdpo", weights=weights(task=1.0, consistency=0.5)))
    # one by one: +-1/3 or 2/3 over sqrt(1/3); 1 * (1, -2, 1) + 0.5 * (1, 1, -2), each times 1/3 / sqrt(1/3) = sqrt(1/3)
    assert gdpo.total == pytest.approx(np.array([1.5, -1.5, 0.0]) * math.sqrt(1 / 3))


def test_a_summed_reward_leaves_out_what_was_not_measured_and_what_weighs_nothing():
    built = columns(3, task=[1.0, 0.0, 1.0], consistency=[1.0, 0.0, None], format=[None] * 3)
    found = combined_advantage(built, [0] * 3, settings=plain("summed", weights=weights(task=1.0, consistency=1.0, format=0.0)))
    assert found.coupled.scored.tolist() == [True, True, False]
    assert found.total == pytest.approx([HALF, -HALF, 0.0])  # 2 and 0, one above and below their mean, spread sqrt(2)


def test_coupled_columns_of_other_lengths_are_refused():
    built = {**columns(2), "consistency": np.ones(3), "consistency_scored": np.ones(3), "consistency_reason": np.zeros(3)}
    with pytest.raises(ColumnError, match="consistency"):
        coupled_reward(built, ADDITIVE)


def test_the_coupled_reward_is_normalised_in_its_group():
    built = columns(4, accuracy=[1, 1, 0, 0], consistency=[1, 0, 1, 0], spatial_grounding=[0.0] * 4)
    found = combined_advantage(built, [0, 0, 0, 0], settings=plain("multiplicative"))  # rewards 1/2, 0, 0, 0
    assert found.total == pytest.approx(np.array([0.375, -0.125, -0.125, -0.125]) / 0.25)
    assert set(found.by_signal) == {"coupled"}


def test_decoupled_signals_are_normalised_one_by_one():
    built = columns(4, task=[1.0, 0.0, 1.0, 0.0], consistency=[0.2, 0.0, 0.0, 0.2], semantic_grounding=[1.0, None, 0.0, None])
    chosen = weights(task=1.0, consistency=2.0, semantic_grounding=0.5)
    found = combined_advantage(built, [0, 0, 1, 1], settings=plain("gdpo", weights=chosen))
    # Small rewards weigh as much as large ones; the lone scored R_S of each group has nobody to be compared with.
    assert found.total == pytest.approx([3 * HALF, -3 * HALF, -1 * HALF, 1 * HALF])
    assert found.by_signal["semantic_grounding"].tolist() == [0.0] * 4


def test_masks_do_not_enter_a_decoupled_advantage():
    built = columns(2, accuracy=[0.0, 0.0], consistency=[1.0, 0.0])
    found = combined_advantage(built, [0, 0], settings=plain("gdpo", weights=weights(consistency=1.0)))
    assert found.total == pytest.approx([HALF, -HALF])


@pytest.mark.parametrize(("step", "beta"), [(1, 0.1), (5, 0.5), (10, 1.0), (99, 1.0)])
def test_hras_weighs_by_the_step(step, beta):
    built = columns(2, task=[1.0, 0.0], consistency=[0.0, 1.0])
    warm = weights(task=1.0, consistency=Schedule("linear", 0.0, 1.0, steps=10))
    found = combined_advantage(built, [0, 0], settings=plain("hras", weights=warm), step=step)
    assert found.total == pytest.approx([HALF * (1 - beta), -HALF * (1 - beta)])
    assert found.weights == {"task": 1.0, "consistency": pytest.approx(beta)}


def test_without_std_rewards_are_only_centred():
    built = columns(4, task=[1.0, 0.5, 0.0, 0.5], consistency=[1.0, 0.0, 0.0, 1.0])
    demand = Constraint("consistency", 0.9, "accuracy")
    found = combined_advantage(built, [0] * 4, [demand], {"consistency": 2.0}, plain(normalise_by_std=False))
    assert found.total == pytest.approx(np.array([0.5, 0.0, -0.5, 0.0]) + 2.0 * np.array([0.5, -0.5, -0.5, 0.5]))


def test_an_upper_bound_pulls_the_other_way():
    built = {**columns(2, task=[1.0, 1.0]), "response_tokens": np.array([100.0, 300.0])}
    short = Constraint("response_tokens", 150.0, "none", "at_most")
    found = combined_advantage(built, [0, 0], [short], {"response_tokens": 1.5}, plain())
    assert found.total == pytest.approx([1.5 * HALF, -1.5 * HALF])
    assert found.weights["response_tokens"] == -1.5


def test_a_constraint_may_watch_a_column_under_another_name():
    built = {**columns(2, task=[1.0, 1.0]), "sentence_count": np.array([2.0, 4.0])}
    found = combined_advantage(built, [0, 0], [Constraint("enough", 3.0, "none", column="sentence_count")], {"enough": 1.0}, plain())
    assert found.total == pytest.approx([-HALF, HALF])


def test_the_sum_of_multipliers_can_be_divided_out():
    built = columns(2, task=[1.0, 0.0], consistency=[1.0, 0.0])
    demand = Constraint("consistency", 0.9, "accuracy")
    found = combined_advantage(built, [0, 0], [demand], {"consistency": 3.0}, plain(normalise_by_multipliers=True))
    assert found.total == pytest.approx([HALF, -HALF])  # (1 + 3) / (1 + 3)


def test_constraints_come_on_top_of_any_base():
    built = {**columns(2, accuracy=[1.0, 0.0]), "response_tokens": np.array([10.0, 20.0])}
    short = Constraint("response_tokens", 15.0, "none", "at_most")
    found = combined_advantage(built, [0, 0], [short], {"response_tokens": 0.5}, plain("additive"))
    assert found.total == pytest.approx([1.5 * HALF, -1.5 * HALF])
    assert set(found.by_signal) == {"coupled", "response_tokens"}


def test_a_constraint_may_not_repeat_a_signal_of_the_base():
    chosen = plain("gdpo", weights=weights(consistency=1.0))
    with pytest.raises(ValueError, match="differ from the signals of the base"):
        combined_advantage(columns(2), [0, 0], [Constraint("consistency", 0.9, "accuracy")], {"consistency": 1.0}, chosen)


def test_eq_6_is_the_constrained_kind_only():
    with pytest.raises(ValueError, match="combined_advantage"):
        constrained_advantage(columns(2), [0, 0], settings=plain("additive"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "magic"}, "advantage.kind is 'magic'"),
        ({"whitening": "token"}, "advantage.whitening"),
        ({"normalise_by_multipliers": True}, "no effect under whitening"),
        ({"kind": "gdpo"}, "set advantage.weights"),
        ({"weights": weights(task=1.0)}, "belong to summed, gdpo, hras"),
        ({"kind": "hras", "weights": weights(task=1.0)}, "weighs task and consistency"),
        ({"kind": "gdpo", "weights": weights(task=Schedule("linear", 0.0, 1.0, steps=2))}, "gdpo has constant weights"),
        ({"kind": "gdpo", "weights": weights(task=-1.0)}, "at least 0"),
        ({"kind": "summed", "weights": weights(task=Schedule("linear", 0.0, 1.0, steps=2))}, "summed has constant weights"),
        ({"kind": "summed", "weights": weights(task=0.0)}, "all 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdvantageSettings(**settings)


def test_settings_come_from_a_recipes_node():
    node = {"kind": "hras", "weights": {"task": {}, "consistency": {"kind": "cosine", "start": 1.0, "end": 0.0, "steps": 4}}}
    found = AdvantageSettings.from_settings(node)
    assert found.weights["consistency"] == Schedule("cosine", 1.0, 0.0, steps=4)
    with pytest.raises(ValueError, match="weigths"):
        AdvantageSettings.from_settings({"weigths": {}})
