"""The vectorised advantage against a naive loop, against verl's estimator, and under symmetries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithful_rl.advantage import AdvantageSettings, combined_advantage, constrained_advantage
from faithful_rl.constraints import Constraint, Schedule

CONSTRAINTS = (Constraint("consistency", 0.95, "accuracy"), Constraint("spatial_grounding", 0.65, "has_reference_boxes"))
LAMBDAS = {"consistency": 1.3, "spatial_grounding": 0.4}
REWARDS = (0.0, 0.1, 1 / 3, 0.5, 1.0)

rollout = st.fixed_dictionaries(
    {
        "group": st.integers(0, 4),
        "task": st.sampled_from(REWARDS),
        "consistency": st.sampled_from(REWARDS),
        "consistency_scored": st.booleans(),
        "accuracy": st.booleans(),
        "spatial_grounding": st.floats(0, 1),
        "spatial_grounding_scored": st.booleans(),
        "has_reference_boxes": st.booleans(),
    }
)
batches = st.lists(rollout, min_size=1, max_size=30)
options = st.builds(
    AdvantageSettings,
    std_floor=st.sampled_from([1e-3, 0.0, 0.3]),
    epsilon=st.just(1e-6),
    whitening=st.sampled_from(["none", "sequence"]),
    masked_rollouts=st.sampled_from(["left_out", "as_zero"]),
)


def columns(rows, unscored=np.nan):
    built = {"task": np.array([row["task"] for row in rows]), "task_scored": np.ones(len(rows)), "task_reason": np.zeros(len(rows))}
    for constraint in CONSTRAINTS:
        scored = np.array([row[f"{constraint.name}_scored"] for row in rows])
        built[constraint.name] = np.where(scored, [row[constraint.name] for row in rows], unscored)
        built[f"{constraint.name}_scored"] = scored.astype(float)
        built[f"{constraint.name}_reason"] = np.where(scored, 0.0, 4.0)
        built[constraint.mask] = np.array([float(row[constraint.mask]) for row in rows])
    return built


def advantage(rows, chosen, **changes):
    return constrained_advantage({**columns(rows), **changes}, [row["group"] for row in rows], CONSTRAINTS, LAMBDAS, chosen)


def naive_signal(rows, values, chosen):
    """One rollout and one group at a time; None does not take part."""
    found = np.zeros(len(rows))
    for i, row in enumerate(rows):
        peers = [values[j] for j, other in enumerate(rows) if other["group"] == row["group"] and values[j] is not None]
        if values[i] is None or len(peers) < 2 or min(peers) == max(peers):
            continue
        found[i] = (values[i] - np.mean(peers)) / (max(np.std(peers, ddof=1), chosen.std_floor) + chosen.epsilon)
    return found


def naive(rows, chosen):
    total = naive_signal(rows, [row["task"] for row in rows], chosen)
    for constraint in CONSTRAINTS:
        values = []
        for row in rows:
            if not row[constraint.mask]:
                values.append(0.0 if chosen.masked_rollouts == "as_zero" else None)
            else:
                values.append(row[constraint.name] if row[f"{constraint.name}_scored"] else None)
        total += LAMBDAS[constraint.name] * naive_signal(rows, values, chosen)
    if chosen.whitening == "none":
        return total
    if len(rows) < 2:
        return np.zeros(1)
    return (total - total.mean()) / (max(total.std(ddof=1), chosen.std_floor) + chosen.epsilon)


@settings(max_examples=300)
@given(batches, options)
def test_equals_a_naive_loop(rows, chosen):
    np.testing.assert_allclose(advantage(rows, chosen).total, naive(rows, chosen), rtol=1e-6, atol=1e-8)


@given(batches, options, st.randoms(use_true_random=False))
def test_order_of_rollouts_does_not_matter(rows, chosen, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    straight = advantage(rows, chosen).total
    np.testing.assert_allclose(advantage([rows[i] for i in order], chosen).total, straight[order], rtol=1e-6, atol=1e-8)


@given(batches, options, st.floats(allow_nan=True, allow_infinity=True))
def test_what_stands_in_an_unscored_cell_does_not_matter(rows, chosen, junk):
    np.testing.assert_array_equal(
        constrained_advantage(columns(rows, junk), [row["group"] for row in rows], CONSTRAINTS, LAMBDAS, chosen).total,
        advantage(rows, chosen).total,
    )


@given(batches)
def test_each_signal_sums_to_zero_in_each_group_and_is_zero_where_masked(rows):
    found = advantage(rows, AdvantageSettings(whitening="none"))
    groups = np.array([row["group"] for row in rows])
    for values in found.by_signal.values():
        for group in set(groups.tolist()):
            assert values[groups == group].sum() == pytest.approx(0.0, abs=1e-9)
    for constraint in CONSTRAINTS:
        out = [not (row[constraint.mask] and row[f"{constraint.name}_scored"]) for row in rows]
        assert (found.by_signal[constraint.name][out] == 0.0).all()


@given(batches, options)
def test_everything_is_finite_and_float64(rows, chosen):
    found = advantage(rows, chosen)
    for values in (found.total, *found.by_signal.values()):
        assert values.dtype == np.float64
        assert np.isfinite(values).all()


@given(batches, st.floats(-3, 3))
def test_a_constant_added_to_a_reward_changes_nothing(rows, shift):
    chosen = AdvantageSettings()
    moved = advantage(rows, chosen, task=columns(rows)["task"] + shift).total
    np.testing.assert_allclose(moved, advantage(rows, chosen).total, rtol=1e-6, atol=1e-6)


def test_equals_verls_grpo_estimator_for_one_signal_without_masks(peer_stack):
    from verl.trainer.ppo import core_algos

    generator = np.random.default_rng(3)
    groups = np.array([f"uid-{group}" for group in generator.integers(0, 40, 400)], dtype=object)
    sizes = dict(zip(*np.unique(groups.astype(str), return_counts=True), strict=True))
    assert min(sizes.values()) >= 2  # verl leaves the reward of a singleton as its advantage, ours is 0
    rewards = generator.choice(REWARDS, 400)
    expected, _ = core_algos.compute_grpo_outcome_advantage(
        torch.from_numpy(rewards.copy())[:, None], torch.ones(400, 1, dtype=torch.float64), groups
    )
    built = {"task": rewards, "task_scored": np.ones(400), "task_reason": np.zeros(400)}
    ours = constrained_advantage(built, groups, settings=AdvantageSettings(std_floor=0.0, whitening="none")).total
    np.testing.assert_allclose(ours, expected[:, 0].numpy(), rtol=1e-6, atol=1e-6)


def test_gdpo_equals_verls_estimator(peer_stack):
    from verl.trainer.ppo import core_algos

    generator = np.random.default_rng(5)
    groups = np.repeat([f"uid-{group}" for group in range(60)], 5).astype(object)
    signals = {
        "task": generator.choice(REWARDS, 300),
        "consistency": generator.integers(0, 2, 300),
        "spatial_grounding": generator.random(300),
    }
    weights = {"task": 1.0, "consistency": 0.5, "spatial_grounding": 2.0}
    expected, _ = core_algos.compute_gdpo_outcome_advantage(
        torch.zeros(300, 1),
        torch.ones(300, 1),
        groups,
        config={"gdpo_reward_keys": list(weights), "gdpo_reward_weights": list(weights.values())},
        non_tensor_batch=signals,
        batch={"prompts": torch.zeros(300, 1), "attention_mask": torch.ones(300, 2, dtype=torch.long)},
    )
    built = {name: np.asarray(values, dtype=float) for name, values in signals.items()}
    chosen = AdvantageSettings(kind="gdpo", std_floor=0.0, weights={name: Schedule(start=weight) for name, weight in weights.items()})
    ours = combined_advantage(built, groups, settings=chosen).total
    np.testing.assert_allclose(ours, expected[:, 0].numpy(), rtol=1e-4, atol=1e-4)  # theirs is float32


def test_dr_grpo_equals_verls_estimator_without_std(peer_stack):
    from verl.trainer.ppo import core_algos

    generator = np.random.default_rng(6)
    groups = np.repeat([f"uid-{group}" for group in range(40)], 5).astype(object)
    rewards = generator.choice(REWARDS, 200)
    expected, _ = core_algos.compute_grpo_outcome_advantage(
        torch.from_numpy(rewards.copy())[:, None], torch.ones(200, 1, dtype=torch.float64), groups, norm_adv_by_std_in_grpo=False
    )
    chosen = AdvantageSettings(normalise_by_std=False, whitening="none")
    ours = combined_advantage({"task": rewards}, groups, settings=chosen).total
    np.testing.assert_allclose(ours, expected[:, 0].numpy(), rtol=1e-6, atol=1e-6)
