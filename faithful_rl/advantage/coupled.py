r"""Coupled rewards: several signals made into one number for each rollout before anything is normalised (the paper's Table 3).

What a factor that was not measured does, never a zero:

- Beside a factor that is exactly 0 it does not matter: the product is 0 whatever it would have been. So a wrong answer needs no judge.
- A term whose signal does not exist for the row (`Reason.NO_REFERENCE`, for example R_G without ground-truth boxes) is left out, and the
  weights of the other terms are scaled up to the same sum. All rollouts of a group share the row, so they are compared on the same terms.
- In every other case (a failed judge, nothing to judge) the reward is not known: the rollout is unscored, takes no part in its group's
  statistics and gets the advantage 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faithful_rl.constraints.statistics import ColumnError, FloatArray, SignalColumns, column, signal_columns
from faithful_rl.types import Reason

COUPLED = "coupled"  # name of the coupled reward among signals and metrics


@dataclass(frozen=True, slots=True)
class Term:
    """`weight` times the product of the signals in `factors`."""

    weight: float  # > 0
    factors: tuple[str, ...]


ADDITIVE = (Term(1 / 3, ("accuracy",)), Term(1 / 3, ("accuracy", "consistency")), Term(1 / 3, ("format", "spatial_grounding")))
MULTIPLICATIVE = (Term(0.5, ("accuracy", "consistency")), Term(0.5, ("format", "spatial_grounding")))
TERMS = {"additive": ADDITIVE, "multiplicative": MULTIPLICATIVE}


def coupled_reward(columns: Mapping[str, npt.ArrayLike], terms: Sequence[Term]) -> SignalColumns:
    r"""One reward for each of B rollouts: in [0, sum of the weights] where its signals lie in [0, 1].

    $$R = \frac{\sum_j w_j}{\sum_{j \in J} w_j} \sum_{j \in J} w_j \prod_{k \in F_j} R_k$$

    J are the terms that exist for the row. With `ADDITIVE`
    $R = \tfrac13 R_{acc} + \tfrac13 R_{acc} R_C + \tfrac13 R_{fmt} R_G$, with `MULTIPLICATIVE`
    $R = \tfrac12 R_{acc} R_C + \tfrac12 R_{fmt} R_G$.

    Raises:
        ColumnError: a column is missing or of another length, or a scored value is not finite.
    """
    rows = column(columns, terms[0].factors[0]).size
    total, weight, known = np.zeros(rows), np.zeros(rows), np.ones(rows, dtype=np.bool_)
    for term in terms:
        product, zero, missing, absent = np.ones(rows), *(np.zeros(rows, dtype=np.bool_) for _ in range(3))
        for name in term.factors:
            signal = signal_columns(columns, name)
            if signal.values.size != rows:
                raise ColumnError(name, f"expected shape {(rows,)}, found {signal.values.shape}")
            product *= np.where(signal.scored, signal.values, 1.0)
            zero |= signal.scored & (signal.values == 0.0)
            missing |= ~signal.scored
            absent |= ~signal.scored & (_reasons(columns, name, rows) == float(Reason.NO_REFERENCE))
        known &= absent | zero | ~missing
        total += np.where(absent, 0.0, term.weight * np.where(zero, 0.0, product))
        weight += np.where(absent, 0.0, term.weight)
    known &= weight > 0.0
    whole = sum(term.weight for term in terms)
    return SignalColumns(np.where(known, total * whole / np.where(known, weight, 1.0), 0.0), known)


def _reasons(columns: Mapping[str, npt.ArrayLike], name: str, rows: int) -> FloatArray:
    return column(columns, f"{name}_reason", rows=rows)
