"""Which rollouts of a batch count for a constraint, and its batch score (Eq. 5). Columns are those of `faithful_rl.rewards.COLUMNS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faithful_rl.constraints.constraint import NO_MASK, Constraint
from faithful_rl.types import Reason

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Unscored for a good reason: the signal does not exist for this rollout, nobody tried to measure and failed.
_NOT_A_FAILURE = (float(Reason.NO_REFERENCE), float(Reason.NOTHING_TO_JUDGE))


class ColumnError(ValueError):
    """A reward column is missing, has the wrong length, or holds a value that must not enter training. `column` names it."""

    def __init__(self, column: str, problem: str) -> None:
        self.column = column
        super().__init__(f"reward column {column!r}: {problem}")


@dataclass(frozen=True, slots=True)
class SignalColumns:
    """One signal over a batch of B rollouts: float64 `values`, and which of them were measured (`scored`). Unscored values are 0."""

    values: FloatArray
    scored: BoolArray


@dataclass(frozen=True, slots=True)
class Applicability:
    """Where a constraint's mask says yes (`masked_in`), where it counts (`counts` = m_k: masked in and scored), and the share of
    attempted measurements that succeeded (`coverage`, in [0, 1]; 1 when nothing was attempted). `attempted` is how many there were,
    measured or failed."""

    masked_in: BoolArray
    counts: BoolArray
    coverage: float
    attempted: int


def signal_columns(columns: Mapping[str, npt.ArrayLike], name: str) -> SignalColumns:
    """Read `<name>` and `<name>_scored`. A column that comes without `_scored` and `_reason`, such as a count, is known for every rollout.

    A value whose `_scored` is 0 is never looked at, so that a NaN there poisons nothing.

    Raises:
        ColumnError: a column is missing or of another length, `_scored` is not 0/1, or a scored value is not finite.
    """
    values = column(columns, name)
    scored = np.ones(values.size) if _is_plain(columns, name) else column(columns, f"{name}_scored", rows=values.size)
    if not np.all((scored == 0.0) | (scored == 1.0)):
        raise ColumnError(f"{name}_scored", "expected only 0 and 1")
    is_scored: BoolArray = scored == 1.0
    broken = is_scored & ~np.isfinite(values)
    if broken.any():
        first = int(np.flatnonzero(broken)[0])
        raise ColumnError(name, f"{int(broken.sum())} scored values are not finite, the first is {values[first]} at rollout {first}")
    return SignalColumns(np.where(is_scored, values, 0.0), is_scored)


def applicability(columns: Mapping[str, npt.ArrayLike], constraint: Constraint) -> Applicability:
    """Masks and coverage of one constraint over a batch.

    Coverage is scored / (scored + failed) among the rollouts that the mask lets in. Failed is every unscored one except where
    there was no reference or nothing to judge; a rollout that should have been judged and was not asked counts as failed.

    Raises:
        ColumnError: see `signal_columns`; also a mask column with NaN.
    """
    scored = signal_columns(columns, constraint.column).scored
    masked_in = mask_column(columns, constraint, rows=scored.size)
    counts = masked_in & scored
    if _is_plain(columns, constraint.column):
        return Applicability(masked_in, counts, 1.0, int(counts.sum()))
    reason = column(columns, f"{constraint.column}_reason", rows=scored.size)
    failed = masked_in & ~scored & ~np.isin(reason, _NOT_A_FAILURE)
    attempted = int(counts.sum()) + int(failed.sum())
    return Applicability(masked_in, counts, int(counts.sum()) / attempted if attempted else 1.0, attempted)


def mask_column(columns: Mapping[str, npt.ArrayLike], constraint: Constraint, rows: int) -> BoolArray:
    """(B,) bool: where the constraint's mask column is above 0; everywhere without a mask.

    Raises:
        ColumnError: the column is missing, of another length, or not finite.
    """
    if constraint.mask == NO_MASK:
        return np.ones(rows, dtype=np.bool_)
    mask = column(columns, constraint.mask, rows=rows)
    if not np.isfinite(mask).all():
        raise ColumnError(constraint.mask, f"the mask of constraint {constraint.name} is not finite everywhere")
    result: BoolArray = mask > 0.0
    return result


def _is_plain(columns: Mapping[str, npt.ArrayLike], name: str) -> bool:
    return f"{name}_scored" not in columns and f"{name}_reason" not in columns


def constraint_score(values: npt.ArrayLike, counts: npt.ArrayLike) -> float | None:
    r"""Eq. 5, the batch score of one constraint; None when no rollout counts.

    $$c_k = \frac{\sum_i m_{k,i} R_{k,i}}{\sum_i m_{k,i}}$$

    Args:
        values: (B,) R_k; ignored where it does not count.
        counts: (B,) m_k, 0/1 or bool.
    """
    mask: BoolArray = np.asarray(counts, dtype=bool)
    chosen: FloatArray = np.asarray(values, dtype=np.float64)[mask]
    return float(chosen.mean()) if chosen.size else None


def column(columns: Mapping[str, npt.ArrayLike], name: str, rows: int | None = None) -> FloatArray:
    """A column as (B,) float64.

    Raises:
        ColumnError: missing, not numeric, not one-dimensional, or not of `rows` entries.
    """
    if name not in columns:
        raise ColumnError(name, f"missing; the batch has {sorted(columns)}")
    try:
        values: FloatArray = np.asarray(columns[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ColumnError(name, f"not numeric: {error}") from error
    if values.ndim != 1 or (rows is not None and values.size != rows):
        raise ColumnError(name, f"expected shape {'(rollouts,)' if rows is None else (rows,)}, found {values.shape}")
    return values
