"""The toy response model: how a policy answers to multipliers, in a few numbers per constraint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faithful_rl.constraints import NO_MASK, Constraint
from faithful_rl.rewards.ranges import column_ranges

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ToySettings:
    """The policy and its batches. The defaults erode a signal from 0.75 to about 0.5 in 80 steps when nothing holds it.

    Raises:
        ValueError: a number out of its range.
    """

    rate: float = 0.05  # how far one step moves, > 0
    drift: float = 0.3  # what learning the task alone does to every constrained signal, in steps of a multiplier of 1, >= 0
    lag: float = 0.8  # share of the last step's push that goes on, in [0, 1): an optimiser's momentum, and groups that answer late
    start: float = 0.75  # what a constrained share begins at, in (0, 1)
    accuracy: float = 0.5  # share of right answers at the first step, in (0, 1)
    applicable: float = 0.5  # share of rollouts that a mask other than accuracy lets in, in [0, 1]
    rollouts: int = 80  # of one step, >= 1
    ceiling: float = 1.0  # score that the judge gives a perfect policy, in (0, 1]
    failures: float = 0.0  # share of rollouts whose judge fails, in [0, 1)

    def __post_init__(self) -> None:
        for name, low, high, open_ends in (
            ("rate", 0.0, math.inf, True), ("drift", 0.0, math.inf, False), ("lag", 0.0, 1.0, False), ("start", 0.0, 1.0, True),
            ("accuracy", 0.0, 1.0, True), ("applicable", 0.0, 1.0, False), ("rollouts", 1, math.inf, False),
            ("ceiling", 0.0, 1.0, False), ("failures", 0.0, 1.0, False),
        ):  # fmt: skip
            value = getattr(self, name)
            inside = math.isfinite(value) and (low < value < high if open_ends else low <= value <= high)
            if not inside or (name in ("lag", "failures") and value == 1.0) or (name == "ceiling" and value == 0.0):
                raise ValueError(
                    f"model.{name} must lie in {'(' if open_ends else '['}{low:g}, {high:g}{')' if open_ends else ']'}, got {value}"
                )


class ToyPolicy:
    r"""A logit $z_k$ for each constrained signal and one for accuracy, moved by the gradient that Eq. 6 would give after whitening.

    $$v_k \leftarrow \ell v_k + (1 - \ell)\,\frac{\lambda_k - d}{\sqrt{1 + \sum_j \lambda_j^2}}, \qquad
      z_k \leftarrow z_k + r\, v_k, \qquad R_k \sim \mathrm{Bernoulli}(\mathrm{ceiling} \cdot \mathrm{sigmoid}(z_k))$$

    r is `rate`, d `drift`, $\ell$ `lag`. Nothing moves a signal at $\lambda_k = d$: the multiplier that a reachable constraint ends at. A
    constraint in which less is better drifts up, one in which more is better down. A column that is not a share (tokens, sentences) is
    log-normal with a spread of 0.25 around its level, which begins 1.2 thresholds on the wrong side.
    """

    def __init__(self, constraints: Sequence[Constraint], settings: ToySettings, seed: int) -> None:
        self._settings = settings
        self._constraints = tuple(constraints)
        self._random = np.random.default_rng(seed)
        self._accuracy = _logit(settings.accuracy)
        self._velocity = {constraint.name: 0.0 for constraint in constraints}
        self._level = {constraint.name: self._start(constraint) for constraint in constraints}

    def rates(self) -> dict[str, float]:
        """What each constraint's column is expected to measure now, and `accuracy`."""
        found = {constraint.name: self._expected(constraint) for constraint in self._constraints}
        return {**found, "accuracy": _sigmoid(self._accuracy)}

    def rollouts(self) -> dict[str, FloatArray]:
        """Reward columns of one step, as the trainer reads them."""
        count = self._settings.rollouts
        columns: dict[str, FloatArray] = {"accuracy": (self._random.random(count) < _sigmoid(self._accuracy)).astype(np.float64)}
        for constraint in self._constraints:
            if constraint.mask not in (NO_MASK, *columns):
                columns[constraint.mask] = (self._random.random(count) < self._settings.applicable).astype(np.float64)
        for constraint in self._constraints:
            if _is_share(constraint):
                values = (self._random.random(count) < self._expected(constraint)).astype(np.float64)
                scored = (self._random.random(count) >= self._settings.failures).astype(np.float64)
                columns[f"{constraint.column}_scored"] = scored
                columns[f"{constraint.column}_reason"] = np.where(scored == 1.0, 0.0, 4.0)
            else:
                values = self._expected(constraint) * np.exp(self._random.normal(0.0, 0.25, count))
            columns[constraint.column] = values
        return columns

    def sources(self) -> npt.NDArray[np.object_] | None:
        """(rollouts,) data source of each rollout, spread evenly over those that have thresholds of their own and one other; None where no
        constraint asks. All sources have the same rates."""
        named = sorted({source for constraint in self._constraints for source in constraint.by_source})
        if not named:
            return None
        return np.array([[*named, "other"][number % (len(named) + 1)] for number in range(self._settings.rollouts)], dtype=object)

    def learn(self, multipliers: Mapping[str, float]) -> None:
        """One step with the multipliers that its advantages used."""
        own = self._settings
        norm = math.sqrt(1.0 + sum(value * value for value in multipliers.values()))
        self._accuracy += own.rate * 0.5 / norm
        for constraint in self._constraints:
            name = constraint.name
            push = (multipliers[name] - own.drift) / norm
            self._velocity[name] = own.lag * self._velocity[name] + (1.0 - own.lag) * push
            self._level[name] += own.rate * constraint.sign * self._velocity[name] * (1.0 if _is_share(constraint) else 0.2)

    def _start(self, constraint: Constraint) -> float:
        if _is_share(constraint):
            return _logit(self._settings.start if constraint.sign > 0 else 1.0 - self._settings.start)
        return math.log(max(constraint.threshold, 1e-9) * (1.2 if constraint.sign < 0 else 1.0 / 1.2))

    def _expected(self, constraint: Constraint) -> float:
        level = self._level[constraint.name]
        return self._settings.ceiling * _sigmoid(level) if _is_share(constraint) else math.exp(level)


def _is_share(constraint: Constraint) -> bool:
    return column_ranges().get(constraint.column, (0.0, 1.0))[1] <= 1.0


def _logit(share: float) -> float:
    return math.log(share / (1.0 - share))


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))
