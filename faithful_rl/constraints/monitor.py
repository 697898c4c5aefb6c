"""Watches a constraint over many steps for two ways in which it silently does nothing: out of reach, and a multiplier that stands still."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

State = dict[str, Any]
DEFAULT_PATIENCE = 20  # steps
# Shares of a multiplier's upper bound. A lucky batch takes it off the bound for a step, so the mean counts; and one that looked infeasible
# has to come well down before it is told again.
AT_BOUND, CLEARED = 0.95, 0.8


class Frozen(StrEnum):
    """Why a multiplier was left alone in a step."""

    TOO_FEW_APPLICABLE = "too_few_applicable"  # fewer rollouts count than min_applicable, or none does
    LOW_COVERAGE = "low_coverage"  # too many judge failures: what is left may be a biased sample


@dataclass(frozen=True, slots=True)
class Observation:
    """One constraint in one step, as its watchman sees it."""

    multiplier: float  # after the step
    limit: float | None  # to which violations can drive it; None where no violation moves it
    frozen: Frozen | None
    applicable: int  # rollouts that count
    attempted: int  # rollouts that the mask lets in and a judge was asked about, measured or failed
    coverage: float  # in [0, 1]: applicable / attempted
    score: float | None = None
    threshold: float | None = None
    violation: float | None = None
    min_applicable: int = 0
    coverage_floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What the monitor thinks after a step. `message` is new: "" at steps at which nothing has changed."""

    infeasible: bool
    starved: bool
    message: str


class Monitor:
    """The two watchmen of one constraint.

    Args:
        patience: steps, >= 1.
        ceiling: the score that a perfect policy is given by the judge of this constraint, where its calibration is known.

    Raises:
        ValueError: patience below 1.
    """

    def __init__(self, name: str, patience: int = DEFAULT_PATIENCE, ceiling: float | None = None) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1 step, got {patience}")
        self.ceiling = ceiling
        self._reach, self._standstill = _Reach(name, patience), _Standstill(name, patience)

    def observe(self, seen: Observation) -> Report:
        """One step. A frozen step says nothing about feasibility, so at most one of the two has something to tell."""
        message = self._reach.observe(seen, self.ceiling) or self._standstill.observe(seen)
        return Report(self._reach.infeasible, self._standstill.starved, message)

    def state_dict(self) -> State:
        return {"reach": self._reach.state_dict(), "standstill": self._standstill.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; all or nothing.

        Raises:
            ValueError: a part is missing or damaged.
        """
        before = self._reach.state_dict()
        self._reach.load_state_dict(state.get("reach") or {})
        try:
            self._standstill.load_state_dict(state.get("standstill") or {})
        except ValueError:
            self._reach.load_state_dict(before)
            raise


class _Reach:
    """Infeasible: over the last `patience` measured steps the multiplier stood at its bound on average, and the constraint was violated on
    average. Told once, and again only after the multiplier has come down to `CLEARED` of its bound on average."""

    def __init__(self, name: str, patience: int) -> None:
        self._name, self._patience = name, patience
        self._window: deque[tuple[float, float, float, float]] = deque(maxlen=patience)  # share of the bound, violation, score, threshold
        self._told = False

    @property
    def infeasible(self) -> bool:
        return len(self._window) == self._patience and self._mean(0) >= AT_BOUND and self._mean(1) > 0.0

    def observe(self, seen: Observation, ceiling: float | None) -> str:
        if seen.limit is None or seen.frozen is not None or seen.violation is None or seen.score is None or seen.threshold is None:
            return ""
        self._window.append((seen.multiplier / seen.limit, seen.violation, seen.score, seen.threshold))
        if self.infeasible and not self._told:
            self._told = True
            return self._message(seen.limit, ceiling)
        if len(self._window) == self._patience and self._mean(0) < CLEARED:
            self._told = False
        return ""

    def _mean(self, column: int) -> float:
        return math.fsum(row[column] for row in self._window) / len(self._window)

    def _message(self, limit: float, ceiling: float | None) -> str:
        threshold = self._mean(3)
        text = (
            f"constraint {self._name} looks infeasible: over the last {self._patience} measured steps its multiplier stood at its maximum "
            f"(mean {limit * self._mean(0):.2f} of {limit:g}), and the mean score is {self._mean(2):.3f} against a threshold of "
            f"{threshold:.3f}."
        )
        if ceiling is None:
            return f"{text} Lower the threshold, raise multiplier.maximum, or look whether the judge can score that high (judges calibrate)"
        if ceiling < threshold:
            return f"{text} With this judge a perfect policy scores {ceiling:.3f}: the threshold is out of its reach. Lower it below that"
        return f"{text} The judge would give a perfect policy {ceiling:.3f}: raise multiplier.maximum, or give it more steps"

    def state_dict(self) -> State:
        return {"window": [list(row) for row in self._window], "told": self._told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        window, told = state.get("window"), state.get("told")
        whole = isinstance(window, list) and all(isinstance(row, list) and len(row) == 4 and all(map(_is_number, row)) for row in window)
        if not isinstance(told, bool) or not isinstance(window, list) or not whole:
            raise ValueError(f"watched steps in the checkpoint must be rows of four finite numbers and a flag, found {window!r}, {told!r}")
        # patience is no part of what a state belongs to: a shorter one keeps the last rows
        self._window = deque(((float(a), float(b), float(c), float(d)) for a, b, c, d in window), maxlen=self._patience)
        self._told = told


class _Standstill:
    """Starved: the multiplier was frozen in `patience` steps running; where no violation moves it, nothing counted in so many. Told once,
    and again only after `patience` steps running in which something counted."""

    REASONS = ("nothing", "too_few", "coverage")

    def __init__(self, name: str, patience: int) -> None:
        self._name, self._patience = name, patience
        self._told, self._moving = False, 0
        self._forget()

    def _forget(self) -> None:
        self._steps = dict.fromkeys(self.REASONS, 0)  # of the present stretch, by reason
        self._applicable, self._coverage = 0, 0.0  # sums over it

    @property
    def starved(self) -> bool:
        return sum(self._steps.values()) >= self._patience

    def observe(self, seen: Observation) -> str:
        reason = _reason(seen)
        if not reason:
            self._forget()
            self._moving += 1
            self._told = self._told and self._moving < self._patience
            return ""
        self._moving = 0
        self._steps[reason] += 1
        self._applicable += seen.applicable
        self._coverage += seen.coverage
        if not self.starved or self._told:
            return ""
        self._told = True
        return self._message(seen)

    def _message(self, seen: Observation) -> str:
        steps = sum(self._steps.values())
        reason = max(self.REASONS, key=self._steps.__getitem__)
        if reason == "nothing":
            return (
                f"constraint {self._name}: no rollout applied in {steps} steps, so it constrains nothing. "
                "Look at its mask, and at whether the data has what it needs"
            )
        stands = "its multiplier has stood still" if seen.limit is not None else "it has constrained nothing"
        if reason == "coverage":
            coverage = self._coverage / steps
            return (
                f"constraint {self._name}: {stands} for {steps} steps, because {100 * (1 - coverage):.0f}% of its measurements failed "
                f"(coverage {coverage:.2f} on average, faithful_rl.coverage_floor is {seen.coverage_floor:g}). Look at the judges: their "
                "log, time-outs and answers that cannot be read"
            )
        return (
            f"constraint {self._name}: {stands} for {steps} steps, because too few rollouts applied: {self._applicable / steps:.1f} on "
            f"average, multiplier.min_applicable is {seen.min_applicable}. Take larger batches or another mask, or lower it"
        )

    def state_dict(self) -> State:
        return {
            "steps": dict(self._steps), "applicable": self._applicable, "coverage": self._coverage,
            "told": self._told, "moving": self._moving,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        steps, told, coverage = state.get("steps"), state.get("told"), state.get("coverage")
        steps = steps if isinstance(steps, Mapping) else {}
        counts = [*(steps.get(reason) for reason in self.REASONS), state.get("applicable"), state.get("moving")]
        if not all(_is_count(count) for count in counts) or not isinstance(told, bool) or not _is_number(coverage):
            raise ValueError(f"counts of steps in the checkpoint must be whole numbers, found {counts}, {coverage!r} and {told!r}")
        self._steps = {reason: int(steps[reason]) for reason in self.REASONS}
        self._applicable, self._moving = int(state["applicable"]), int(state["moving"])
        self._coverage, self._told = float(state["coverage"]), told


def _reason(seen: Observation) -> str:
    """Why a constraint did nothing in this step; "" where it did. A multiplier that no violation moves works on whatever counts."""
    if seen.frozen is None or (seen.limit is None and seen.applicable):
        return ""
    if not seen.attempted:
        return "nothing"
    return "coverage" if seen.frozen is Frozen.LOW_COVERAGE else "too_few"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
