"""Thresholds that move with the training step, or that depend on where the policy started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("constant", "linear", "relative")
State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    r"""How the threshold comes to its final value tau.

    - constant: tau at every step.
    - linear: from `start` to tau, $\tau(t) = \tau_0 + (\tau - \tau_0)\,\mathrm{clip}((t - t_0) / T, 0, 1)$.
    - relative: closes a share $\rho$ of the gap between the rate at which the policy started and tau,
      $\tau_{\mathrm{eff}} = c_0 + \rho\,(\tau - c_0)$, with $c_0$ the mean of the first `measure` measured batch scores. $\rho = 0$ asks
      that the rate does not get worse than at the start; tau = 1 and $\rho = 0.5$ that its failures are halved. The multiplier waits
      until $c_0$ is known.

    Raises:
        ValueError: an unknown kind, a value out of its range, or a setting that its kind does not have.
    """

    kind: str = "constant"
    start: float | None = None  # linear: the threshold up to step `begin`
    begin: int = 0  # linear: steps, >= 0
    steps: int = 0  # linear: steps that the change takes, >= 1
    share: float | None = None  # relative: rho, in [0, 1]
    measure: int = 0  # relative: batches, >= 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"threshold_schedule.kind is {self.kind!r}, expected one of {list(KINDS)}")
        linear, relative = (self.start, self.begin, self.steps) != (None, 0, 0), (self.share, self.measure) != (None, 0)
        if (linear and self.kind != "linear") or (relative and self.kind != "relative"):
            extra = (
                "start, begin and steps belong to linear" if linear and self.kind != "linear" else "share and measure belong to relative"
            )
            raise ValueError(f"threshold_schedule.kind is {self.kind}, but {extra}: leave them out, or change the kind")
        if self.kind == "linear" and (self.start is None or not math.isfinite(self.start) or self.begin < 0 or self.steps < 1):
            raise ValueError(
                "threshold_schedule of kind linear needs a finite start, begin >= 0 and steps >= 1, "
                f"got {self.start}, {self.begin} and {self.steps}"
            )
        if self.kind == "relative" and (self.share is None or not 0.0 <= self.share <= 1.0 or self.measure < 1):
            raise ValueError(
                f"threshold_schedule of kind relative needs share in [0, 1] and measure >= 1, got {self.share} and {self.measure}"
            )

    @property
    def last_step(self) -> int:
        """The step from which on the threshold no longer changes by rule; 0 unless linear."""
        return self.begin + self.steps if self.kind == "linear" else 0


class Threshold:
    """The threshold in force at each step, and what has been seen of the starting rate."""

    def __init__(self, final: float, settings: ThresholdSettings | None = None) -> None:
        self._final = float(final)
        self._settings = settings or ThresholdSettings()
        self._first_scores: list[float] = []

    def at(self, step: int) -> float | None:
        """tau in force at `step` (counted from 1); None while the starting rate is still being measured."""
        chosen = self._settings
        if chosen.kind == "linear" and chosen.start is not None:
            passed = min(max((step - chosen.begin) / chosen.steps, 0.0), 1.0)
            return self._final if passed == 1.0 else chosen.start + (self._final - chosen.start) * passed
        if chosen.kind == "relative" and chosen.share is not None:
            if len(self._first_scores) < chosen.measure:
                return None
            start = math.fsum(self._first_scores) / len(self._first_scores)
            return start + chosen.share * (self._final - start)
        return self._final

    def observe(self, score: float) -> None:
        """A trustworthy batch score, after the step's threshold was asked for."""
        if self._settings.kind == "relative" and len(self._first_scores) < self._settings.measure:
            self._first_scores.append(score)

    def state_dict(self) -> State:
        return {"first_scores": list(self._first_scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: the starting scores are not numbers, or more than this threshold measures.
        """
        scores = state.get("first_scores")
        room = self._settings.measure if self._settings.kind == "relative" else 0
        if not isinstance(scores, list) or len(scores) > room or not all(_finite(score) for score in scores):
            raise ValueError(f"starting scores in the checkpoint must be at most {room} finite numbers, found {scores!r}")
        self._first_scores = [float(score) for score in scores]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
