"""A number that changes with the training step by rule: weights of HRAS, multipliers by schedule, thresholds that move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("constant", "linear", "cosine")


@dataclass(frozen=True, slots=True)
class Schedule:
    r"""The value at each step, counted from 1.

    $$v(t) = v_0 + (v_1 - v_0)\, f(x), \qquad x = \mathrm{clip}\Big(\frac{t - t_0}{T},\ 0,\ 1\Big), \qquad
      f(x) = x \ \text{(linear)}, \quad f(x) = \tfrac12 (1 - \cos \pi x) \ \text{(cosine)}$$

    `start` $v_0$ holds up to and including step `begin` $t_0$; `end` $v_1$ from step `begin + steps` on. Warm-up is `end > start`, decay
    `end < start`. `constant` is `start` at every step.

    Raises:
        ValueError: an unknown kind, a value that is not finite, a negative `begin`, or a moving kind without `end` and `steps` >= 1;
            a constant one with them.
    """

    kind: str = "constant"
    start: float = 1.0
    end: float | None = None
    begin: int = 0  # steps, >= 0
    steps: int = 0  # steps that the change takes, >= 1 unless constant

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule.kind is {self.kind!r}, expected one of {list(KINDS)}")
        for name, value in (("start", self.start), ("end", self.end)):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"schedule.{name} must be finite, got {value}")
        if self.begin < 0:
            raise ValueError(f"schedule.begin must be at least 0 steps, got {self.begin}")
        if self.kind == "constant":
            if self.end is not None or self.steps or self.begin:
                raise ValueError(
                    "schedule.kind is constant, which has neither end, begin nor steps: leave them out, or choose linear or cosine"
                )
        elif self.end is None or self.steps < 1:
            raise ValueError(f"schedule.kind is {self.kind}: set schedule.end and schedule.steps (>= 1), got {self.end} and {self.steps}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Schedule:
        """From a recipe's node {kind, start, end, begin, steps}; absent keys have their defaults.

        Raises:
            ValueError: an unknown key, or a value out of its range.
        """
        try:
            return cls(**settings)
        except TypeError as error:
            raise ValueError(f"schedule got settings {sorted(settings)}: {error}") from error

    def at(self, step: int) -> float:
        """The value at `step`, counted from 1."""
        if self.kind == "constant" or self.end is None:
            return self.start
        share = min(max((step - self.begin) / self.steps, 0.0), 1.0)
        if share == 0.0 or share == 1.0:
            return self.start if share == 0.0 else self.end  # exact, whatever the arithmetic between
        if self.kind == "cosine":
            share = 0.5 * (1.0 - math.cos(math.pi * share))
        return self.start + (self.end - self.start) * share

    @property
    def last_step(self) -> int:
        """The step from which on the value no longer changes; 0 for a constant."""
        return 0 if self.kind == "constant" else self.begin + self.steps

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value that it takes."""
        ends = (self.start, self.start if self.end is None else self.end)
        return min(ends), max(ends)
