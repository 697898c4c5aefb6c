"""One constraint of a running problem: its threshold, its multiplier's pace and value, and its watchman; one dual step of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faithful_rl.constraints.constraint import Constraint
from faithful_rl.constraints.monitor import DEFAULT_PATIENCE, Frozen, Monitor, Observation
from faithful_rl.constraints.multiplier import Multiplier, State, build_multiplier
from faithful_rl.constraints.pacing import Pace, PaceSettings
from faithful_rl.constraints.statistics import BoolArray, ColumnError, applicability, constraint_score, signal_columns
from faithful_rl.constraints.threshold import Threshold, ThresholdSettings

PACE_KEYS = ("first_step", "update_every", "window")
REQUIRED = frozenset({"threshold", "mask", "multiplier"})
OPTIONAL = frozenset({"direction", "column", "by_source", "threshold_schedule"})


@dataclass(frozen=True, slots=True)
class ConstraintStep:
    """One constraint in one dual step, for logs and metrics."""

    name: str
    threshold: float | None  # in force in this step, mean over what counts where sources differ; None while the starting rate is measured
    score: float | None  # c_k of Eq. 5; None when no rollout counts
    violation: float | None  # how far the score is on the wrong side of the threshold, > 0 when violated
    applicable: int  # rollouts that count, the divisor of Eq. 5
    coverage: float  # in [0, 1], see statistics.applicability
    multiplier: float  # before the step: the one that this batch's advantages use
    multiplier_next: float
    frozen: Frozen | None
    updated: bool  # the multiplier took a step; False also where its pace says to wait
    saturated: bool  # multiplier_next is at its maximum
    infeasible: bool  # over the last steps at its maximum and violated, each on average
    starved: bool  # frozen for many steps in a row
    message: str  # what the user should be told at this step; "" at nearly all of them


@dataclass(frozen=True, slots=True)
class Measured:
    """A batch as one constraint sees it."""

    score: float | None
    applicable: int
    coverage: float
    attempted: int  # rollouts that were measured or should have been
    shift: float  # mean over what counts of (threshold of its source - threshold); 0 without thresholds by source


class TrackedConstraint:
    """A constraint with everything of it that changes while training runs."""

    def __init__(
        self,
        constraint: Constraint,
        multiplier: Multiplier,
        pace: PaceSettings | None = None,
        threshold: ThresholdSettings | None = None,
        patience: int = DEFAULT_PATIENCE,
    ) -> None:
        self.constraint = constraint
        self.multiplier = multiplier
        self._patience = patience
        self.monitor = self.fresh_monitor()
        self._pace = Pace(pace)
        self._schedule = threshold or ThresholdSettings()
        if constraint.by_source and self._schedule.kind != "constant":
            raise ValueError(f"{constraint.name}: by_source and a threshold_schedule of kind {self._schedule.kind} exclude each other")
        self._threshold = Threshold(constraint.threshold, self._schedule)

    @classmethod
    def from_settings(cls, name: str, settings: Mapping[str, Any], patience: int = DEFAULT_PATIENCE) -> TrackedConstraint:
        """From a recipe's node {threshold, mask, direction, column, by_source, threshold_schedule, multiplier: {kind, start, ...}}.

        Raises:
            ValueError: a missing or unknown key, or a value out of its range; the message begins with the constraint's name.
        """
        if not REQUIRED <= set(settings) <= REQUIRED | OPTIONAL:
            raise ValueError(
                f"constraints.{name}: expected keys {sorted(REQUIRED)} and perhaps {sorted(OPTIONAL)}, found {sorted(settings)}"
            )
        own = dict(settings["multiplier"])
        pace = {key: own.pop(key) for key in PACE_KEYS if key in own}
        try:
            constraint = Constraint(
                name,
                float(settings["threshold"]),
                str(settings["mask"]),
                str(settings.get("direction", "at_least")),
                str(settings.get("column") or ""),
                {str(source): float(value) for source, value in (settings.get("by_source") or {}).items()},
            )
            schedule = ThresholdSettings(**(settings.get("threshold_schedule") or {}))
            return cls(constraint, build_multiplier(**own), PaceSettings(**pace), schedule, patience)
        except (TypeError, ValueError) as error:
            raise ValueError(f"constraints.{name}: {error}") from error

    def fresh_monitor(self) -> Monitor:
        """A watchman that has seen nothing."""
        return Monitor(self.constraint.name, self._patience)

    def measure(self, columns: Mapping[str, npt.ArrayLike], sources: npt.ArrayLike | None) -> Measured:
        """Read the batch; nothing moves.

        Raises:
            ColumnError: a column is missing, has the wrong length, or a scored value is not finite; thresholds by source without sources.
        """
        applies = applicability(columns, self.constraint)
        score = constraint_score(signal_columns(columns, self.constraint.column).values, applies.counts)
        return Measured(score, int(applies.counts.sum()), applies.coverage, applies.attempted, self._shift(applies.counts, sources))

    def step(self, measured: Measured, step: int, coverage_floor: float) -> ConstraintStep:
        """One dual step at the end of training step `step`, counted from 1."""
        before = self.multiplier.value
        base = self._threshold.at(step)
        threshold = None if base is None else base + measured.shift
        violation = None
        if threshold is not None and measured.score is not None:
            violation = self.constraint.sign * (threshold - measured.score)
        frozen = self._frozen(measured, coverage_floor)
        updated = False
        if frozen is None and measured.score is not None:
            self._threshold.observe(measured.score)
            if violation is not None:
                self._pace.observe(violation / self.constraint.unit)
                if self._pace.due(step):
                    self.multiplier.update(self._pace.smoothed())
                    updated = True
        self.multiplier.advance(step)
        report = self.monitor.observe(
            Observation(
                multiplier=self.multiplier.value,
                limit=self.multiplier.limit,
                frozen=frozen,
                applicable=measured.applicable,
                attempted=measured.attempted,
                coverage=measured.coverage,
                score=measured.score,
                threshold=threshold,
                violation=violation,
                min_applicable=self.multiplier.min_applicable,
                coverage_floor=coverage_floor,
            )
        )
        return ConstraintStep(
            name=self.constraint.name,
            threshold=threshold,
            score=measured.score,
            violation=violation,
            applicable=measured.applicable,
            coverage=measured.coverage,
            multiplier=before,
            multiplier_next=self.multiplier.value,
            frozen=frozen,
            updated=updated,
            saturated=self.multiplier.saturated,
            infeasible=report.infeasible,
            starved=report.starved,
            message=report.message,
        )

    def facts(self) -> State:
        """What a saved state belongs to: the demand itself, without what changes."""
        own = self.constraint
        return {
            "threshold": own.threshold,
            "mask": own.mask,
            "direction": own.direction,
            "column": own.column,
            "by_source": dict(own.by_source),
            "threshold_schedule": asdict(self._schedule),
        }

    def state_dict(self) -> State:
        return {
            **self.facts(),
            "multiplier": self.multiplier.state_dict(),
            "pace": self._pace.state_dict(),
            "start": self._threshold.state_dict(),
            "monitor": self.monitor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; all or nothing.

        Raises:
            ValueError: the state belongs to another demand, or a part of it is damaged or out of range.
        """
        for key, mine in self.facts().items():
            if state.get(key) != mine:
                raise ValueError(f"{key} is {mine!r} in the recipe and {state.get(key)!r} in the checkpoint: resume with the same recipe")
        parts: dict[str, Multiplier | Pace | Threshold | Monitor] = {
            "multiplier": self.multiplier, "pace": self._pace, "start": self._threshold, "monitor": self.monitor,
        }  # fmt: skip
        before = {name: part.state_dict() for name, part in parts.items()}
        try:
            for name, part in parts.items():
                part.load_state_dict(state.get(name) or {})
        except ValueError:
            for name, part in parts.items():
                part.load_state_dict(before[name])
            raise

    def _frozen(self, measured: Measured, coverage_floor: float) -> Frozen | None:
        """Judges that failed come first: without them enough rollouts would have counted."""
        enough = self.multiplier.min_applicable
        if measured.attempted >= max(1, enough) and measured.coverage < coverage_floor:
            return Frozen.LOW_COVERAGE
        return Frozen.TOO_FEW_APPLICABLE if measured.score is None or measured.applicable < enough else None

    def _shift(self, counts: BoolArray, sources: npt.ArrayLike | None) -> float:
        own = self.constraint
        if not own.by_source:
            return 0.0
        if sources is None or np.shape(sources) != counts.shape:
            raise ColumnError("data_source", f"constraint {own.name} has thresholds by source, which need one data source for each rollout")
        chosen = np.asarray(sources, dtype=object)[counts]
        shifts = [own.by_source.get(str(source), own.threshold) - own.threshold for source in chosen]
        return float(np.mean(shifts)) if shifts else 0.0
