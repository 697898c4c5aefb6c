"""The constrained advantage (Eq. 6): each signal normalised inside its group, combined by name, whitened over the batch.

Everything is float64 and vectorised over the batch: a group is a label, sums over groups are `np.bincount`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from faithful_rl.constraints.constraint import Constraint
from faithful_rl.constraints.statistics import BoolArray, ColumnError, FloatArray, mask_column, signal_columns

TASK = "task"
MASKED_ROLLOUTS = ("left_out", "as_zero")


@dataclass(frozen=True, slots=True)
class AdvantageSettings:
    """How advantages are normalised.

    Raises:
        ValueError: a setting out of its range.
    """

    std_floor: float = 1e-3  # reward units, >= 0; smallest divisor, so that judge noise is not stretched to unit variance
    epsilon: float = 1e-6  # added to the divisor, >= 0; one of the two must be above 0
    whiten: bool = True  # zero mean and unit variance over the batch, one value per rollout
    # left_out: a masked rollout has A_k = 0 and no part in its group's statistics; as_zero: it takes part with R_k = 0 (an ablation)
    masked_rollouts: str = "left_out"

    def __post_init__(self) -> None:
        for name, value in (("std_floor", self.std_floor), ("epsilon", self.epsilon)):
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"advantage.{name} must be finite and at least 0, got {value}")
        if self.std_floor + self.epsilon <= 0.0:
            raise ValueError("advantage.std_floor and advantage.epsilon must not both be 0: groups without variance would divide by 0")
        if self.masked_rollouts not in MASKED_ROLLOUTS:
            raise ValueError(f"advantage.masked_rollouts is {self.masked_rollouts!r}, expected one of {list(MASKED_ROLLOUTS)}")


@dataclass(frozen=True, slots=True)
class ConstrainedAdvantage:
    """Advantages of B rollouts, float64, all finite."""

    total: FloatArray  # (B,) A of Eq. 6, whitened when the settings say so
    by_signal: Mapping[str, FloatArray] = field(default_factory=dict)  # (B,) A_k before its multiplier; `task` and each constraint


@dataclass(frozen=True, slots=True)
class Groups:
    """Group of each rollout as an index 0..count-1, in order of first appearance."""

    index: npt.NDArray[np.intp]  # (B,)
    count: int

    @classmethod
    def from_ids(cls, group_ids: Iterable[object]) -> Groups:
        """Label rollouts by any hashable id (uid text, UUID, int); NumPy arrays are read as they are."""
        ids = group_ids.tolist() if isinstance(group_ids, np.ndarray) else list(group_ids)
        # A dictionary numbers 100,000 text ids in a few milliseconds; sorting them, as np.unique does, takes ten times as long.
        numbers = {group: number for number, group in enumerate(dict.fromkeys(ids))}
        return cls(np.fromiter(map(numbers.__getitem__, ids), dtype=np.intp, count=len(ids)), len(numbers))


def constrained_advantage(
    columns: Mapping[str, npt.ArrayLike],
    group_ids: Iterable[object],
    constraints: Sequence[Constraint] = (),
    multipliers: Mapping[str, float] | None = None,
    settings: AdvantageSettings | None = None,
) -> ConstrainedAdvantage:
    r"""Eq. 6 for a batch of B rollouts.

    $$A = \mathrm{whiten}\Big(A_{\mathrm{task}} + \sum_k \lambda_k A_k\Big), \qquad
      A_{k,i} = \frac{R_{k,i} - \mu_{k,g}}{\max(\sigma_{k,g}, \sigma_{\min}) + \epsilon}$$

    $\mu_{k,g}$ and $\sigma_{k,g}$ (n - 1 in the divisor) are taken over the rollouts of group g for which k is scored and applies.
    A_k is exactly 0 for a rollout that is masked or unscored, and for every rollout of a group with fewer than two such rollouts
    or without variance. A failed measurement is left out under either reading of `masked_rollouts`: it is never a zero reward.

    Args:
        columns: (B,) reward columns, see `faithful_rl.rewards.COLUMNS`; padding rows left out.
        group_ids: (B,) hashable ids; equal ids are rollouts of one prompt, in any order.
        constraints: empty for the task reward alone (plain GRPO).
        multipliers: lambda_k by name as before this batch's dual step, finite and >= 0, exactly one for each constraint.

    Raises:
        ColumnError: a column is missing or of the wrong length, or a scored value is not finite (named).
        ValueError: group ids of the wrong length, or multipliers that do not belong to the constraints.
    """
    settings = settings or AdvantageSettings()
    weights = _checked_multipliers(constraints, multipliers or {})
    task = signal_columns(columns, TASK)
    groups = Groups.from_ids(group_ids)
    if groups.index.size != task.values.size:
        raise ValueError(f"group_ids has {groups.index.size} entries for {task.values.size} rollouts")

    by_signal = {TASK: group_normalised(task.values, task.scored, groups, settings)}
    total = by_signal[TASK].copy()
    for constraint in constraints:
        values, takes_part = _participation(columns, constraint, settings.masked_rollouts)
        if values.size != task.values.size:
            raise ColumnError(constraint.name, f"expected shape {task.values.shape}, found {values.shape}")
        by_signal[constraint.name] = group_normalised(values, takes_part, groups, settings)
        total += weights[constraint.name] * by_signal[constraint.name]
    return ConstrainedAdvantage(whitened(total, settings) if settings.whiten else total, by_signal)


def group_normalised(values: FloatArray, takes_part: BoolArray, groups: Groups, settings: AdvantageSettings) -> FloatArray:
    """(B,) values minus their group's mean, over max(std, floor) + epsilon; statistics over the rollouts that take part.

    Args:
        values: (B,) finite where `takes_part`.
        takes_part: (B,) bool; elsewhere the result is 0.
    """
    rows = np.flatnonzero(takes_part)
    group = groups.index[rows]
    # Shifting by one member of the group makes a group of equal values exactly zero, whatever its value in binary.
    anchor = np.zeros(groups.count)
    anchor[group] = values[rows]
    shifted = values[rows] - anchor[group]

    size = np.bincount(group, minlength=groups.count)
    mean = np.bincount(group, weights=shifted, minlength=groups.count) / np.maximum(size, 1)
    centred = shifted - mean[group]
    variance = np.bincount(group, weights=centred * centred, minlength=groups.count) / np.maximum(size - 1, 1)
    divisor = np.maximum(np.sqrt(variance), settings.std_floor) + settings.epsilon

    result = np.zeros(values.shape, dtype=np.float64)
    result[rows] = centred / divisor[group]
    return result


def whitened(values: FloatArray, settings: AdvantageSettings) -> FloatArray:
    """(B,) values minus their mean, over max(std, floor) + epsilon, over the whole batch; zeros when all are equal or B < 2."""
    if values.size < 2:
        return np.zeros_like(values)
    shifted = values - values[0]
    centred = shifted - shifted.mean()
    deviation = math.sqrt(float(centred @ centred) / (values.size - 1))
    result: FloatArray = centred / (max(deviation, settings.std_floor) + settings.epsilon)
    return result


def _participation(columns: Mapping[str, npt.ArrayLike], constraint: Constraint, masked_rollouts: str) -> tuple[FloatArray, BoolArray]:
    signal = signal_columns(columns, constraint.name)
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
