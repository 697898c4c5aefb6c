"""Multipliers beyond dual ascent: PI and PID control of the violation, and a multiplier that follows a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from faithful_rl.constraints.multiplier import (
    BoundedMultiplier,
    State,
    check_violation,
    checked_number,
    checked_step_size,
    register,
    without_neutral,
)
from faithful_rl.constraints.schedule import Schedule


class PidMultiplier(BoundedMultiplier):
    r"""PID control of the multiplier, damped, with anti-windup.

    With the violation $e_t$ (tau - c, positive where violated):

    $$I_t = \mathrm{clip}(I_{t-1} + \eta\, e_t,\ 0,\ \lambda_{\max}), \qquad \xi_t = \nu\,\xi_{t-1} + (1 - \nu)\, e_t,\ \xi_{-1} = 0$$
    $$\lambda_{t+1} = \mathrm{clip}\big(I_t + \kappa_p\,\xi_t + \kappa_d \max(0,\ \xi_t - \xi_{t-1}),\ 0,\ \lambda_{\max}\big)$$

    The integral is dual ascent (Eq. 4) by itself. The proportional part leaves with the violation, which damps the overshoot of the
    integral; the derivative answers a violation that gets worse (Stooke, Achiam and Abbeel 2020, who also take its positive part only);
    $\nu$ smooths both, as in the nuPI controller (Sohrabi and others 2024). Clipping the integral itself is the anti-windup: however long
    a constraint was violated, the multiplier starts to fall at the first batch that holds it.

    Args:
        start: first value and integral, in [0, maximum].
        step_size: eta, the integral's gain for each update, > 0.
        proportional: kappa_p, >= 0.
        derivative: kappa_d, >= 0. The first update has no derivative.
        damping: nu, in [0, 1).
        maximum: lambda_max, > 0.
        min_applicable: rollouts, >= 0.

    Raises:
        ValueError: a setting out of its range.
    """

    kind: ClassVar[str] = "pid"

    def __init__(
        self,
        start: float = 1.0,
        step_size: float = 0.05,
        proportional: float = 0.0,
        derivative: float = 0.0,
        damping: float = 0.0,
        maximum: float = 5.0,
        min_applicable: int = 8,
    ) -> None:
        super().__init__(start, maximum, min_applicable)
        for name, gain in (("proportional", proportional), ("derivative", derivative)):
            if not (math.isfinite(gain) and gain >= 0.0):
                raise ValueError(f"multiplier.{name} must be finite and at least 0, got {gain}")
        if not 0.0 <= damping < 1.0:
            raise ValueError(f"multiplier.damping must lie in [0, 1), got {damping}")
        self._step_size = checked_step_size(step_size)
        self._proportional, self._derivative, self._damping = float(proportional), float(derivative), float(damping)
        self._integral = self._value
        self._smoothed: float | None = None  # xi; None before the first update

    def update(self, violation: float) -> None:
        check_violation(violation)
        before = self._smoothed
        smoothed = self._damping * (before or 0.0) + (1.0 - self._damping) * violation
        rise = 0.0 if before is None else max(0.0, smoothed - before)
        self._integral = self.bounded(self._integral + self._step_size * violation)
        self._smoothed = smoothed
        self._value = self.bounded(self._integral + self._proportional * smoothed + self._derivative * rise)

    def state_dict(self) -> State:
        return {**super().state_dict(), "integral": self._integral, "smoothed": self._smoothed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        integral = checked_number(state, "integral", 0.0, self._maximum, "multiplier.maximum") if state.get("kind") == self.kind else 0.0
        smoothed = None if state.get("smoothed") is None else checked_number(state, "smoothed", -math.inf, math.inf)
        super().load_state_dict(state)
        self._integral, self._smoothed = integral, smoothed


class PiMultiplier(PidMultiplier):
    """`PidMultiplier` without the derivative."""

    kind: ClassVar[str] = "pi"


class ScheduledMultiplier(BoundedMultiplier):
    """lambda_k follows a schedule of the training step, whatever is measured: warm-up or decay of a weight.

    Raises:
        ValueError: a schedule that leaves [0, maximum].
    """

    kind: ClassVar[str] = "schedule"

    def __init__(self, schedule: Schedule, maximum: float = 5.0, min_applicable: int = 0) -> None:
        low, high = schedule.bounds()
        if low < 0.0 or high > maximum:
            raise ValueError(f"multiplier.schedule takes values from {low:g} to {high:g}, expected [0, {maximum}] (multiplier.maximum)")
        super().__init__(schedule.at(1), maximum, min_applicable)
        self._schedule = schedule

    @property
    def limit(self) -> float | None:
        return None

    def update(self, violation: float) -> None:
        check_violation(violation)

    def advance(self, step: int) -> None:
        self._value = self._schedule.at(step + 1)


def _build_pid(**settings: Any) -> PidMultiplier:
    return PidMultiplier(**without_neutral("pid", settings, keep=("proportional", "derivative", "damping")))


def _build_pi(**settings: Any) -> PiMultiplier:
    return PiMultiplier(**without_neutral("pi", settings, keep=("proportional", "damping")))


def _build_scheduled(**settings: Any) -> ScheduledMultiplier:
    own = without_neutral("schedule", settings, keep=("schedule",), ignore=("step_size", "start"))
    if own.get("schedule") is None:
        raise ValueError("multiplier.kind is 'schedule': set multiplier.schedule, for example {kind: linear, start: 0, end: 1, steps: 20}")
    return ScheduledMultiplier(**{**own, "schedule": Schedule.from_settings(own["schedule"])})


register(PidMultiplier.kind, _build_pid)
register(PiMultiplier.kind, _build_pi)
register(ScheduledMultiplier.kind, _build_scheduled)
