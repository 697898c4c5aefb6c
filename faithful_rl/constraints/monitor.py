"""Watches a constraint over many steps for two ways in which it silently does nothing: out of reach, and never applicable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

State = dict[str, Any]
DEFAULT_PATIENCE = 20  # steps


@dataclass(frozen=True, slots=True)
class Report:
    """What the monitor thinks after a step. `message` is new: "" at steps at which nothing has changed."""

    infeasible: bool
    starved: bool
    message: str


class Monitor:
    """Counts steps in a row; says so when `patience` of them have passed, and once for each such stretch.

    Args:
        patience: steps, >= 1.
        ceiling: the score that a perfect policy is given by the judge of this constraint, where its calibration is known.

    Raises:
        ValueError: patience below 1.
    """

    def __init__(self, name: str, patience: int = DEFAULT_PATIENCE, ceiling: float | None = None) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1 step, got {patience}")
        self._name, self._patience = name, patience
        self.ceiling = ceiling
        self._saturated_steps = self._empty_steps = 0

    def observe(self, *, saturated: bool, violation: float | None, threshold: float | None, score: float | None, applicable: int) -> Report:
        """One step; a step without a score says nothing about feasibility."""
        if violation is not None:
            self._saturated_steps = self._saturated_steps + 1 if saturated and violation > 0.0 else 0
        self._empty_steps = 0 if applicable else self._empty_steps + 1
        message = ""
        if violation is not None and self._saturated_steps == self._patience:  # once, when it is reached
            message = self._infeasible(threshold, score)
        elif self._empty_steps == self._patience:
            message = (
                f"constraint {self._name}: no rollout applied in {self._patience} steps, so it constrains nothing. "
                "Look at its mask, and at whether the data has what it needs"
            )
        return Report(self._saturated_steps >= self._patience, self._empty_steps >= self._patience, message)

    def _infeasible(self, threshold: float | None, score: float | None) -> str:
        text = (
            f"constraint {self._name} looks infeasible: its multiplier has stood at its maximum for {self._patience} steps, "
            f"and the score is {score:.3f} against a threshold of {threshold:.3f}."
        )
        if self.ceiling is None:
            return f"{text} Lower the threshold, raise multiplier.maximum, or look whether the judge can score that high (judges calibrate)"
        if threshold is not None and self.ceiling < threshold:
            return (
                f"{text} With this judge a perfect policy scores {self.ceiling:.3f}: the threshold is out of its reach. Lower it below that"
            )
        return f"{text} The judge would give a perfect policy {self.ceiling:.3f}: raise multiplier.maximum, or give it more steps"

    def state_dict(self) -> State:
        return {"saturated_steps": self._saturated_steps, "empty_steps": self._empty_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: a count is missing or no whole number.
        """
        counts = [state.get("saturated_steps"), state.get("empty_steps")]
        if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
            raise ValueError(f"counts of steps in the checkpoint must be whole numbers, found {counts}")
        self._saturated_steps, self._empty_steps = (int(count or 0) for count in counts)
