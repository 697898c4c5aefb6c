"""When a multiplier takes a step, and on which violation: from a first step on, every n steps, on a mean over the last batches."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PaceSettings:
    """The defaults are the paper's: every step, from the first, on this batch's violation.

    Raises:
        ValueError: a setting below 1.
    """

    first_step: int = 1  # >= 1: training step of the first update
    update_every: int = 1  # steps, >= 1
    window: int = 1  # measured batches whose violations are averaged, >= 1

    def __post_init__(self) -> None:
        for name in ("first_step", "update_every", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"multiplier.{name} must be at least 1, got {getattr(self, name)}")


class Pace:
    """Remembers the last `window` violations that were measured well enough to count."""

    def __init__(self, settings: PaceSettings | None = None) -> None:
        self._settings = settings or PaceSettings()
        self._violations: deque[float] = deque(maxlen=self._settings.window)

    def observe(self, violation: float) -> None:
        """This step's violation, whether or not the step is due."""
        self._violations.append(violation)

    def due(self, step: int) -> bool:
        """Whether the multiplier moves at the end of `step` (counted from 1)."""
        return step >= self._settings.first_step and (step - self._settings.first_step) % self._settings.update_every == 0

    def smoothed(self) -> float:
        """Mean of the remembered violations; `observe` has been called at least once."""
        if len(self._violations) == 1:
            return self._violations[0]  # no arithmetic, so that a window of 1 is Eq. 4 to the last bit
        return math.fsum(self._violations) / len(self._violations)

    def state_dict(self) -> State:
        return {"violations": list(self._violations)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: the violations are not numbers, or more than the window holds.
        """
        found = state.get("violations")
        ok = isinstance(found, list) and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in found)
        if not isinstance(found, list) or not ok or len(found) > self._settings.window:
            raise ValueError(f"violations in the checkpoint must be at most {self._settings.window} finite numbers, found {found!r}")
        self._violations = deque((float(value) for value in found), maxlen=self._settings.window)
