"""The constrained problem: constraints and their multipliers by name, and the dual step after each batch (Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy.typing as npt

from faithful_rl.constraints.constraint import Constraint
from faithful_rl.constraints.multiplier import Multiplier, State, build_multiplier
from faithful_rl.constraints.statistics import applicability, constraint_score, signal_columns

STATE_VERSION = 1
DEFAULT_COVERAGE_FLOOR = 0.9


class Frozen(StrEnum):
    """Why a multiplier was left alone in a step."""

    TOO_FEW_APPLICABLE = "too_few_applicable"  # fewer rollouts count than min_applicable, or none does
    LOW_COVERAGE = "low_coverage"  # too many judge failures: what is left may be a biased sample


@dataclass(frozen=True, slots=True)
class ConstraintStep:
    """One constraint in one dual step, for logs and metrics."""

    name: str
    threshold: float
    score: float | None  # c_k of Eq. 5; None when no rollout counts
    violation: float | None  # threshold - score, > 0 when violated
    applicable: int  # rollouts that count, the divisor of Eq. 5
    coverage: float  # in [0, 1], see statistics.applicability
    multiplier: float  # before the step: the one that this batch's advantages use
    multiplier_next: float
    frozen: Frozen | None
    saturated: bool  # multiplier_next is at its maximum


class ConstrainedProblem:
    """max E[R_task] subject to E[R_k] >= tau_k, with one multiplier for each constraint.

    No constraint at all is the task-only problem (plain GRPO).

    Args:
        constraints: in any order, unique names.
        multipliers: one for each constraint, by name.
        coverage_floor: in [0, 1]; a constraint whose coverage is below it is frozen for the step.

    Raises:
        ValueError: duplicate names, names of constraints and multipliers that differ, or a floor out of range.
    """

    def __init__(
        self,
        constraints: Sequence[Constraint],
        multipliers: Mapping[str, Multiplier],
        coverage_floor: float = DEFAULT_COVERAGE_FLOOR,
    ) -> None:
        names = [constraint.name for constraint in constraints]
        if len(set(names)) != len(names):
            raise ValueError(f"constraint names must be unique, got {names}")
        if set(names) != set(multipliers):
            raise ValueError(f"every constraint needs one multiplier: constraints are {sorted(names)}, multipliers {sorted(multipliers)}")
        if not 0.0 <= coverage_floor <= 1.0:
            raise ValueError(f"coverage_floor must lie in [0, 1], got {coverage_floor}")
        self._constraints = tuple(constraints)
        self._multipliers = dict(multipliers)
        self._coverage_floor = float(coverage_floor)

    @classmethod
    def from_settings(
        cls, constraints: Mapping[str, Mapping[str, Any]], coverage_floor: float = DEFAULT_COVERAGE_FLOOR
    ) -> ConstrainedProblem:
        """Build from a recipe's `constraints` node: {name: {threshold, mask, multiplier: {kind, start, ...}}}.

        Raises:
            ValueError: a missing or unknown key, or a value out of its range; the message begins with the constraint's name.
        """
        built: list[Constraint] = []
        multipliers: dict[str, Multiplier] = {}
        for name, settings in constraints.items():
            if set(settings) != {"threshold", "mask", "multiplier"}:
                raise ValueError(f"constraints.{name}: expected keys threshold, mask, multiplier, found {sorted(settings)}")
            try:
                built.append(Constraint(name, float(settings["threshold"]), str(settings["mask"])))
                multipliers[name] = build_multiplier(**settings["multiplier"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"constraints.{name}: {error}") from error
        return cls(built, multipliers, coverage_floor)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        return self._constraints

    @property
    def multipliers(self) -> dict[str, float]:
        """lambda_k by name, as they are now (a copy)."""
        return {name: multiplier.value for name, multiplier in self._multipliers.items()}

    def dual_step(self, columns: Mapping[str, npt.ArrayLike]) -> dict[str, ConstraintStep]:
        """Score the batch (Eq. 5) and move each multiplier (Eq. 4). Call it after the batch's advantages are computed.

        All columns are read before any multiplier moves: after an error every multiplier is what it was.

        Args:
            columns: (B,) reward columns of the real rollouts, padding rows left out.

        Raises:
            ColumnError: a column is missing, has the wrong length, or a scored value is not finite.
        """
        measured = {constraint.name: self._measure(columns, constraint) for constraint in self._constraints}
        return {constraint.name: self._step(constraint, *measured[constraint.name]) for constraint in self._constraints}

    def state_dict(self) -> State:
        """Multipliers with what they belong to, JSON-able and exact."""
        return {
            "version": STATE_VERSION,
            "constraints": {
                constraint.name: {
                    "threshold": constraint.threshold,
                    "mask": constraint.mask,
                    "multiplier": self._multipliers[constraint.name].state_dict(),
                }
                for constraint in self._constraints
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state of the same problem; all or nothing.

        Raises:
            ValueError: another version, other names, thresholds, masks or kinds, or a multiplier out of range.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"multiplier state has version {state.get('version')!r}, this code reads version {STATE_VERSION}")
        saved = state.get("constraints")
        names = sorted(constraint.name for constraint in self._constraints)
        if not isinstance(saved, Mapping) or sorted(saved) != names:
            found = sorted(saved) if isinstance(saved, Mapping) else saved
            raise ValueError(
                f"the checkpoint holds multipliers of {found}, the recipe has constraints {names}: resume with the same recipe"
            )
        for constraint in self._constraints:
            for key, mine in (("threshold", constraint.threshold), ("mask", constraint.mask)):
                theirs = saved[constraint.name].get(key)
                if theirs != mine:
                    raise ValueError(
                        f"constraints.{constraint.name}.{key} is {mine!r} in the recipe and {theirs!r} in the checkpoint: "
                        "resume with the same recipe"
                    )
        before = {name: multiplier.state_dict() for name, multiplier in self._multipliers.items()}
        try:
            for name, multiplier in self._multipliers.items():
                multiplier.load_state_dict(saved[name].get("multiplier") or {})
        except ValueError as error:
            for other, multiplier in self._multipliers.items():
                multiplier.load_state_dict(before[other])
            raise ValueError(f"constraints.{name}: {error}") from error

    @staticmethod
    def _measure(columns: Mapping[str, npt.ArrayLike], constraint: Constraint) -> tuple[float | None, int, float]:
        applies = applicability(columns, constraint)
        score = constraint_score(signal_columns(columns, constraint.name).values, applies.counts)
        return score, int(applies.counts.sum()), applies.coverage

    def _step(self, constraint: Constraint, score: float | None, applicable: int, coverage: float) -> ConstraintStep:
        multiplier = self._multipliers[constraint.name]
        before = multiplier.value
        violation = None if score is None else constraint.threshold - score
        frozen: Frozen | None = None
        if violation is None or applicable < multiplier.min_applicable:
            frozen = Frozen.TOO_FEW_APPLICABLE
        elif coverage < self._coverage_floor:
            frozen = Frozen.LOW_COVERAGE
        else:
            multiplier.update(violation)
        return ConstraintStep(
            name=constraint.name,
            threshold=constraint.threshold,
            score=score,
            violation=violation,
            applicable=applicable,
            coverage=coverage,
            multiplier=before,
            multiplier_next=multiplier.value,
            frozen=frozen,
            saturated=multiplier.saturated,
        )
