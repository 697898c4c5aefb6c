"""Agreement and rates with 95% intervals.

Resampling is scipy's and draws whole cases, because the sentences of one rollout are not independent.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 20260408  # of the resampling: the same verdicts give the same intervals
_BATCH = 200  # resamples held in memory at once: 200 x cases x 9 numbers
_MAX_UNDEFINED = 0.05  # share of resamples without a value (all verdicts alike) above which no interval is given


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval [low, high]; None where nothing was measured or the value is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_list(self) -> list[float | None]:
        return [self.value, self.low, self.high]


UNDEFINED = Estimate(None)


def cohen_kappa(matrix: Array) -> Array:
    """Cohen's kappa (1960), (observed - expected) / (1 - expected) agreement, of one table of counts or of many.

    Args:
        matrix: (..., K, K), label by verdict, in the same order on both axes.

    Returns:
        (...) in [-1, 1]; NaN without counts, and where label and verdict are one and the same category throughout (0 / 0).
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    total = matrix.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(matrix, axis1=-2, axis2=-1) / total
        expected = (matrix.sum(axis=-1) * matrix.sum(axis=-2)).sum(axis=-1) / total**2
        return np.asarray((observed - expected) / (1.0 - expected), dtype=np.float64)


def over_cases(counts: Array, statistic: Callable[[Array], Any]) -> Estimate:
    """A statistic of summed counts with its percentile bootstrap interval over cases.

    Args:
        counts: (cases, ...) counts of each case.
        statistic: maps summed counts (resamples, ...) or (...) to values (resamples,) or a scalar; NaN where undefined.
    """
    cases = counts.shape[0]
    value = float(statistic(counts.sum(axis=0))) if cases else math.nan
    if not math.isfinite(value):
        return UNDEFINED
    if cases < 2:
        return Estimate(value)

    def of_drawn(drawn: npt.NDArray[np.int64], axis: int = -1) -> Any:
        return statistic(counts[drawn].sum(axis=drawn.ndim - 1))

    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        # Draws in which every verdict is alike have no kappa; the interval is over those that have one, counted below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (np.arange(cases),), of_drawn, n_resamples=RESAMPLES, batch=_BATCH, vectorized=True, confidence_level=CONFIDENCE,
            method="percentile", rng=np.random.default_rng(SEED),
        )  # fmt: skip
    drawn = np.asarray(result.bootstrap_distribution)
    if not np.isfinite(drawn).mean() > 1 - _MAX_UNDEFINED:
        return Estimate(value)
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))


def kappa(counts: Array) -> Estimate:
    """Cohen's kappa of (cases, K, K) counts with its bootstrap interval over cases.

    Without a disagreement the bootstrap would claim certainty. Kappa is 1 - disagreement / chance disagreement: there the lower end
    takes the exact upper end of the disagreement, with cases as trials, and chance as observed.
    """
    found = over_cases(counts, cohen_kappa)
    table = counts.sum(axis=0)
    total = float(table.sum())
    if found.value is None or float(np.trace(table)) < total:
        return found
    chance = 1.0 - float((table.sum(axis=0) * table.sum(axis=1)).sum()) / total**2
    most = proportion(0, int((counts.sum(axis=(1, 2)) > 0).sum())).high or 0.0
    return Estimate(1.0, max(1.0 - most / chance, -1.0), 1.0)


def rate(hits: Array, trials: Array) -> Estimate:
    """sum(hits) / sum(trials) over cases, both (cases,).

    With at most one trial a case the interval is the exact one of Clopper and Pearson. With several it is the bootstrap over cases,
    except where every trial or none is a hit: a bootstrap would claim certainty there, so the exact interval is taken with
    cases as trials.
    """
    hit, tried = float(hits.sum()), float(trials.sum())
    if tried == 0:
        return UNDEFINED
    if hit in (0.0, tried):
        asked = int((trials > 0).sum())
        return proportion(asked if hit else 0, asked)
    if trials.max() <= 1:
        return proportion(int(hit), int(tried))
    return over_cases(np.stack([hits, trials], axis=1), lambda summed: summed[..., 0] / summed[..., 1])


def proportion(hits: int, trials: int, method: Literal["exact", "wilson"] = "exact") -> Estimate:
    """hits / trials with scipy's binomial interval: `exact` (Clopper-Pearson) or `wilson`. Undefined without trials."""
    if trials == 0:
        return UNDEFINED
    interval: Any = stats.binomtest(hits, trials).proportion_ci(confidence_level=CONFIDENCE, method=method)
    return Estimate(hits / trials, float(interval.low), float(interval.high))
