"""What is demanded of the policy: the mean of one signal over the rollouts where it applies stays at or above a threshold (Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constraint:
    """E[R_name] >= threshold over rollouts whose `mask` column is above 0.

    `name` is at once the signal, its reward column, its recipe key and its metric prefix.

    Raises:
        ValueError: an empty name or mask, or a threshold that is not in [0, 1].
    """

    name: str
    threshold: float  # tau_k, in [0, 1]
    mask: str  # reward column, for example `accuracy` or `has_reference_boxes`

    def __post_init__(self) -> None:
        if not self.name or not self.mask:
            raise ValueError(f"a constraint needs a name and a mask column, got name={self.name!r}, mask={self.mask!r}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"{self.name}.threshold must lie in [0, 1], got {self.threshold}")
