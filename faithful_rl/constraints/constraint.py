"""What is demanded of the policy: the mean of one column over the rollouts where it applies stays on one side of a threshold (Eq. 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from faithful_rl.rewards.ranges import column_ranges

NO_MASK = "none"
AT_LEAST, AT_MOST = "at_least", "at_most"
DIRECTIONS = (AT_LEAST, AT_MOST)
SIGNS = {">=": AT_LEAST, "<=": AT_MOST}  # other spellings, as formulas have them


@dataclass(frozen=True, slots=True)
class Constraint:
    r"""E[R] >= threshold (`at_least`) or E[R] <= threshold (`at_most`) over the rollouts whose `mask` column is above 0.

    $$s\,(\mathbb{E}[R_k] - \tau_k) \ge 0, \qquad s = +1 \ \text{for at\_least}, \quad s = -1 \ \text{for at\_most}$$

    `name` is at once the recipe key and the metric prefix, and unless `column` says otherwise the reward column.

    Raises:
        ValueError: an empty name or mask, an unknown direction, or a threshold that is not finite or outside the column's range.
    """

    name: str
    threshold: float  # tau_k, in the column's range
    mask: str = NO_MASK  # reward column, for example `accuracy` or `has_reference_boxes`; `none`: every rollout
    direction: str = AT_LEAST  # or AT_MOST; >= and <= are taken for them
    column: str = ""  # reward column; empty: the name
    by_source: Mapping[str, float] = field(default_factory=dict)  # data_source -> its own threshold; others use `threshold`

    def __post_init__(self) -> None:
        if not self.name or not self.mask:
            raise ValueError(f"a constraint needs a name and a mask column, got name={self.name!r}, mask={self.mask!r}")
        object.__setattr__(self, "direction", SIGNS.get(self.direction, self.direction))
        if self.direction not in DIRECTIONS:
            raise ValueError(f"{self.name}.direction is {self.direction!r}, expected one of {list(DIRECTIONS)}")
        if not self.column:
            object.__setattr__(self, "column", self.name)
        low, high = column_ranges().get(self.column, (-math.inf, math.inf))
        for where, value in (("threshold", self.threshold), *((f"by_source.{name}", value) for name, value in self.by_source.items())):
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{self.name}.{where} must be finite and lie in [{low:g}, {high:g}], got {value}")

    @property
    def unit(self) -> float:
        """What a violation is divided by before a multiplier sees it: 1 for a column of bounded range, else the threshold's size, so that
        one step size suits shares and token counts."""
        low, high = column_ranges().get(self.column, (-math.inf, math.inf))
        return 1.0 if math.isfinite(low) and math.isfinite(high) else abs(self.threshold) or 1.0

    @property
    def sign(self) -> float:
        """s: +1 where more is better, -1 where less is."""
        return 1.0 if self.direction == AT_LEAST else -1.0
