"""The constrained problem: constraints and their multipliers by name, and the dual step after each batch (Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from faithful_rl.constraints.constraint import Constraint
from faithful_rl.constraints.monitor import DEFAULT_PATIENCE
from faithful_rl.constraints.multiplier import Multiplier, State
from faithful_rl.constraints.tracked import ConstraintStep, TrackedConstraint

STATE_VERSION = 3
WITHOUT_WATCH = 2  # the version before: its watchman kept other counts, everything else is the same
DEFAULT_COVERAGE_FLOOR = 0.9


class ConstrainedProblem:
    """max E[R_task] subject to E[R_k] >= tau_k or <= tau_k, with one multiplier for each constraint.

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
        self._begin([TrackedConstraint(constraint, multipliers[constraint.name]) for constraint in constraints], coverage_floor)

    @classmethod
    def from_settings(
        cls,
        constraints: Mapping[str, Mapping[str, Any]],
        coverage_floor: float = DEFAULT_COVERAGE_FLOOR,
        patience: int = DEFAULT_PATIENCE,
    ) -> ConstrainedProblem:
        """Build from a recipe's `constraints` node, see `TrackedConstraint.from_settings`.

        Args:
            patience: steps, >= 1, after which a constraint out of reach or a multiplier that stands still is reported.

        Raises:
            ValueError: a missing or unknown key, or a value out of its range; the message begins with the constraint's name.
        """
        problem = cls([], {}, coverage_floor)
        problem._begin([TrackedConstraint.from_settings(name, own, patience) for name, own in constraints.items()], coverage_floor)
        return problem

    def _begin(self, tracked: Sequence[TrackedConstraint], coverage_floor: float) -> None:
        if not 0.0 <= coverage_floor <= 1.0:
            raise ValueError(f"coverage_floor must lie in [0, 1], got {coverage_floor}")
        self._tracked = {one.constraint.name: one for one in tracked}
        self._coverage_floor = float(coverage_floor)
        self._steps = 0

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        return tuple(one.constraint for one in self._tracked.values())

    @property
    def multipliers(self) -> dict[str, float]:
        """lambda_k by name, as they are now (a copy)."""
        return {name: one.multiplier.value for name, one in self._tracked.items()}

    @property
    def needs_sources(self) -> bool:
        """Whether a constraint has thresholds by data source."""
        return any(constraint.by_source for constraint in self.constraints)

    def set_ceilings(self, ceilings: Mapping[str, float]) -> None:
        """Scores that a perfect policy would be given, by constraint, for the report of one that looks infeasible."""
        for name, one in self._tracked.items():
            one.monitor.ceiling = ceilings.get(name)

    def dual_step(
        self, columns: Mapping[str, npt.ArrayLike], step: int | None = None, sources: npt.ArrayLike | None = None
    ) -> dict[str, ConstraintStep]:
        """Score the batch (Eq. 5) and move each multiplier (Eq. 4). Call it after the batch's advantages are computed.

        All columns are read before any multiplier moves: after an error every multiplier is what it was.

        Args:
            columns: (B,) reward columns of the real rollouts, padding rows left out.
            step: training step that ends with this batch, counted from 1, for what follows a schedule; without it, dual steps are counted.
            sources: (B,) data source of each rollout, text; needed where `needs_sources`.

        Raises:
            ColumnError: a column is missing, has the wrong length, or a scored value is not finite; sources are missing.
        """
        measured = {name: one.measure(columns, sources) for name, one in self._tracked.items()}
        self._steps = self._steps + 1 if step is None else step
        return {name: one.step(measured[name], self._steps, self._coverage_floor) for name, one in self._tracked.items()}

    def state_dict(self) -> State:
        """Multipliers with what they belong to, JSON-able and exact."""
        return {
            "version": STATE_VERSION,
            "steps": self._steps,
            "constraints": {name: one.state_dict() for name, one in self._tracked.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state of the same problem; all or nothing.

        Raises:
            ValueError: another version, other names, thresholds, masks or kinds, or a multiplier out of range.

        A state of version 2 is taken too: its multipliers continue to the last bit, and the watch over the constraint begins anew.
        """
        if state.get("version") not in (WITHOUT_WATCH, STATE_VERSION):
            raise ValueError(
                f"multiplier state has version {state.get('version')!r}, this code reads versions {WITHOUT_WATCH} and {STATE_VERSION}: "
                "continue the run with the version of faithful_rl that began it, or begin a new one"
            )
        saved, names = state.get("constraints"), sorted(self._tracked)
        if not isinstance(saved, Mapping) or sorted(saved) != names:
            found = sorted(saved) if isinstance(saved, Mapping) else saved
            raise ValueError(
                f"the checkpoint holds multipliers of {found}, the recipe has constraints {names}: resume with the same recipe"
            )
        steps = state.get("steps")
        if not isinstance(steps, int) or steps < 0:
            raise ValueError(f"steps in the checkpoint's multiplier state must be a whole number, found {steps!r}")
        before = {name: one.state_dict() for name, one in self._tracked.items()}
        for name, one in self._tracked.items():
            try:
                old = {"monitor": one.fresh_monitor().state_dict()} if state["version"] == WITHOUT_WATCH else {}
                one.load_state_dict({**saved[name], **old})
            except ValueError as error:
                for other, tracked in self._tracked.items():
                    tracked.load_state_dict(before[other])
                raise ValueError(f"constraints.{name}: {error}") from error
        self._steps = steps
