"""Constraints on the policy's reasoning, their batch statistics and their Lagrange multipliers. NumPy only."""

from faithful_rl.constraints.constraint import Constraint
from faithful_rl.constraints.multiplier import DualAscent, FixedMultiplier, Multiplier, build_multiplier, kinds, register
from faithful_rl.constraints.problem import ConstrainedProblem, ConstraintStep, Frozen
from faithful_rl.constraints.statistics import ColumnError, applicability, constraint_score, signal_columns

__all__ = [
    "ColumnError",
    "ConstrainedProblem",
    "Constraint",
    "ConstraintStep",
    "DualAscent",
    "FixedMultiplier",
    "Frozen",
    "Multiplier",
    "applicability",
    "build_multiplier",
    "constraint_score",
    "kinds",
    "register",
    "signal_columns",
]
