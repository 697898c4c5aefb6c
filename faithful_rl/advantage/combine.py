"""One advantage for each rollout: a base (task, coupled or weighted signals) plus constraints with their multipliers, by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from faithful_rl.advantage.coupled import COUPLED, TERMS, Term, coupled_reward
from faithful_rl.advantage.normalise import Groups, group_normalised, whitened
from faithful_rl.advantage.settings import SUMMED, TASK, AdvantageSettings
from faithful_rl.constraints.constraint import Constraint
from faithful_rl.constraints.statistics import BoolArray, ColumnError, FloatArray, SignalColumns, mask_column, signal_columns


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages of B rollouts, float64, all finite."""

    total: FloatArray  # (B,) what the policy is updated with, whitened when the settings say so
    combined: FloatArray  # (B,) the same before whitening
    by_signal: Mapping[str, FloatArray] = field(default_factory=dict)  # (B,) A_k before its weight; the base's signals and each constraint
    weights: Mapping[str, float] = field(default_factory=dict)  # what each was weighed with; below 0 for a constraint `at_most`
    coupled: SignalColumns | None = None  # (B,) the coupled reward, where there is one


def constrained_advantage(
    columns: Mapping[str, npt.ArrayLike],
    group_ids: Iterable[object],
    constraints: Sequence[Constraint] = (),
    multipliers: Mapping[str, float] | None = None,
    settings: AdvantageSettings | None = None,
) -> Advantages:
    r"""Eq. 6 for a batch of B rollouts: `combined_advantage` of the kind `constrained`.

    $$A = \mathrm{whiten}\Big(A_{\mathrm{task}} + \sum_k \lambda_k A_k\Big), \qquad
      A_{k,i} = \frac{R_{k,i} - \mu_{k,g}}{\max(\sigma_{k,g}, \sigma_{\min}) + \epsilon}$$

    $\mu_{k,g}$ and $\sigma_{k,g}$ (n - 1 in the divisor) are taken over the rollouts of group g for which k is scored and applies.
    A_k is exactly 0 for a rollout that is masked or unscored, and for every rollout of a group with fewer than two such rollouts
    or without variance. A failed measurement is left out under either reading of `masked_rollouts`: it is never a zero reward.

    Raises:
        ColumnError, ValueError: as `combined_advantage`; ValueError for another kind.
    """
    settings = settings or AdvantageSettings()
    if settings.kind != "constrained":
        raise ValueError(f"advantage.kind is {settings.kind!r}: use combined_advantage")
    return combined_advantage(columns, group_ids, constraints, multipliers, settings)


def combined_advantage(
    columns: Mapping[str, npt.ArrayLike],
    group_ids: Iterable[object],
    constraints: Sequence[Constraint] = (),
    multipliers: Mapping[str, float] | None = None,
    settings: AdvantageSettings | None = None,
    step: int = 1,
) -> Advantages:
    r"""The advantage of any kind for a batch of B rollouts.

    $$A = \mathrm{whiten}\Big(\frac{A_{\mathrm{base}} + \sum_k s_k \lambda_k A_k}{1 + \sum_k \lambda_k}\Big)$$

    The divisor is there only with `normalise_by_multipliers`, $s_k$ is -1 for a constraint `at_most`, and the base is

    - constrained: $A_{\mathrm{task}}$. With no constraint this is GRPO.
    - additive, multiplicative: the group-normalised coupled reward, see `coupled_reward`.
    - summed: the group-normalised sum $\sum_j w_j R_j$ with constant weights, one reward as plain GRPO would be given it; the signal
      with the largest spread leads.
    - gdpo: $\sum_j w_j A_j$ with constant weights (GDPO, Liu and others 2026: each reward normalised in its group, then summed, then
      whitened over the batch).
    - hras: $\alpha(t) A_{\mathrm{task}} + \beta(t) A_{\mathrm{consistency}}$ with weights by schedule (CORA).

    Every $A_j$ is normalised over the rollouts of its group that are scored; the others get 0.

    Args:
        columns: (B,) reward columns, see `faithful_rl.rewards.COLUMNS`; padding rows left out.
        group_ids: (B,) hashable ids; equal ids are rollouts of one prompt, in any order.
        constraints: empty for the base alone.
        multipliers: lambda_k by name as before this batch's dual step, finite and >= 0, exactly one for each constraint.
        step: training step of the batch, counted from 1, for weights that follow a schedule.

    Raises:
        ColumnError: a column is missing or of the wrong length, or a scored value is not finite (named).
        ValueError: group ids of the wrong length, multipliers that do not belong to the constraints, or a constraint named like a part
            of the base.
    """
    settings = settings or AdvantageSettings()
    lambdas = _checked_multipliers(constraints, multipliers or {})
    base = _base(columns, settings, step)
    rows = next(iter(base.values()))[1].values.size
    groups = Groups.from_ids(group_ids)
    if groups.index.size != rows:
        raise ValueError(f"group_ids has {groups.index.size} entries for {rows} rollouts")

    by_signal = {name: group_normalised(signal.values, signal.scored, groups, settings) for name, (_, signal) in base.items()}
    weights = {name: weight for name, (weight, _) in base.items()}
    for constraint in constraints:
        if constraint.name in weights:
            raise ValueError(f"constraint names must differ from the signals of the base {sorted(base)}, got {constraint.name!r}")
        values, takes_part = _participation(columns, constraint, settings.masked_rollouts, rows)
        by_signal[constraint.name] = group_normalised(values, takes_part, groups, settings)
        weights[constraint.name] = constraint.sign * lambdas[constraint.name]

    combined = np.zeros(rows)
    for name, weight in weights.items():
        combined += by_signal[name] if weight == 1.0 else weight * by_signal[name]
    if settings.normalise_by_multipliers:
        combined /= 1.0 + sum(lambdas.values())
    total = whitened(combined, settings) if settings.whitening == "sequence" else combined
    return Advantages(total, combined, by_signal, weights, base[COUPLED][1] if COUPLED in base else None)


def _base(columns: Mapping[str, npt.ArrayLike], settings: AdvantageSettings, step: int) -> dict[str, tuple[float, SignalColumns]]:
    """Name -> (weight, signal) of what stands before the constraints; all signals of one length."""
    if settings.kind in TERMS:
        return {COUPLED: (1.0, coupled_reward(columns, TERMS[settings.kind]))}
    if settings.kind == SUMMED:
        terms = [Term(weight, (name,)) for name, schedule in settings.weights.items() if (weight := schedule.at(step)) > 0.0]
        return {COUPLED: (1.0, coupled_reward(columns, terms))}
    if settings.kind == "constrained":
        return {TASK: (1.0, signal_columns(columns, TASK))}
    found = {name: (schedule.at(step), signal_columns(columns, name)) for name, schedule in settings.weights.items()}
    rows = next(iter(found.values()))[1].values.shape
    for name, (_, signal) in found.items():
        if signal.values.shape != rows:
            raise ColumnError(name, f"expected shape {rows}, found {signal.values.shape}")
    return found


def _participation(
    columns: Mapping[str, npt.ArrayLike], constraint: Constraint, masked_rollouts: str, rows: int
) -> tuple[FloatArray, BoolArray]:
    signal = signal_columns(columns, constraint.column)
    if signal.values.size != rows:
        raise ColumnError(constraint.column, f"expected shape {(rows,)}, found {signal.values.shape}")
    masked_in = mask_column(columns, constraint, rows=signal.values.size)
    if masked_rollouts == "as_zero":
        return np.where(masked_in, signal.values, 0.0), signal.scored | ~masked_in
    return signal.values, signal.scored & masked_in


def _checked_multipliers(constraints: Sequence[Constraint], multipliers: Mapping[str, float]) -> dict[str, float]:
    names = [constraint.name for constraint in constraints]
    if len(set(names)) != len(names) or TASK in names:
        raise ValueError(f"constraint names must be unique and differ from {TASK!r}, got {names}")
    if set(multipliers) != set(names):
        raise ValueError(f"multipliers are {sorted(multipliers)}, expected exactly one for each constraint {sorted(names)}")
    for name, value in multipliers.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"multiplier of {name} must be finite and at least 0, got {value}")
    return {name: float(value) for name, value in multipliers.items()}
