"""Constraints on the policy's reasoning, their batch statistics and their Lagrange multipliers. NumPy only."""

from faithful_rl.constraints.constraint import AT_LEAST, AT_MOST, DIRECTIONS, NO_MASK, Constraint
from faithful_rl.constraints.controllers import PidMultiplier, PiMultiplier, ScheduledMultiplier
from faithful_rl.constraints.monitor import Frozen
from faithful_rl.constraints.multiplier import DualAscent, FixedMultiplier, Multiplier, build_multiplier, kinds, register
from faithful_rl.constraints.problem import ConstrainedProblem
from faithful_rl.constraints.schedule import Schedule
from faithful_rl.constraints.statistics import ColumnError, applicability, constraint_score, signal_columns
from faithful_rl.constraints.tracked import ConstraintStep

__all__ = [
    "AT_LEAST",
    "AT_MOST",
    "DIRECTIONS",
    "NO_MASK",
    "ColumnError",
    "ConstrainedProblem",
    "Constraint",
    "ConstraintStep",
    "DualAscent",
    "FixedMultiplier",
    "Frozen",
    "Multiplier",
    "PiMultiplier",
    "PidMultiplier",
    "Schedule",
    "ScheduledMultiplier",
    "applicability",
    "build_multiplier",
    "constraint_score",
    "kinds",
    "register",
    "signal_columns",
]
