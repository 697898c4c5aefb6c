"""Groups of rollouts, and rewards normalised inside them and over the batch.

Everything is float64 and vectorised over the batch: a group is a label, sums over groups are `np.bincount`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faithful_rl.advantage.settings import AdvantageSettings
from faithful_rl.constraints.statistics import BoolArray, FloatArray


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


def group_normalised(values: FloatArray, takes_part: BoolArray, groups: Groups, settings: AdvantageSettings) -> FloatArray:
    r"""(B,) values minus their group's mean, over max(std, floor) + epsilon; statistics over the rollouts that take part.

    $$A_i = \frac{R_i - \mu_g}{\max(\sigma_g, \sigma_{\min}) + \epsilon}, \qquad
      \text{without std (Dr. GRPO, Liu and others 2025):}\quad A_i = R_i - \mu_g$$

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
    result = np.zeros(values.shape, dtype=np.float64)
    if not settings.normalise_by_std:
        result[rows] = centred
        return result
    variance = np.bincount(group, weights=centred * centred, minlength=groups.count) / np.maximum(size - 1, 1)
    divisor = np.maximum(np.sqrt(variance), settings.std_floor) + settings.epsilon
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
