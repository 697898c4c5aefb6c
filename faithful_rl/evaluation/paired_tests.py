"""Tests of paired differences and what they could have found: McNemar's exact test, sign flips, and the smallest difference in sight.

`mcnemar` and the power of a t test are statsmodels', the permutation of signs and the distributions scipy's. Units are questions, or
groups of trials that are not independent (an MMVP pair, the orders of one SAT row).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from faithful_rl.evaluation.figures import by_group
from faithful_rl.heldout_statistics import CONFIDENCE, SEED, TINY, Array, Estimate, mean_change
from faithful_rl.judges.options import require

POWER = 0.8
ALPHA = 0.05
FLIPS = 9999  # draws of signs, where there are more ways than so many; fewer are tried all
# So many units must differ, all in one direction, before an exact test says anything: 2 * 0.5 ** 6 is below 0.05, 2 * 0.5 ** 5 is not.
FEWEST = math.ceil(math.log2(2 / ALPHA))


def mcnemar(before: Any, after: Any) -> dict[str, Any]:
    """McNemar's exact test on two boolean arrays (questions,): `only_a` and `only_b` are the questions where one side alone is true."""
    tests = require("statsmodels.stats.contingency_tables", "paired tests")
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    table = [[int((before & after).sum()), int((before & ~after).sum())], [int((~before & after).sum()), int((~before & ~after).sum())]]
    return {"test": "McNemar exact", "only_a": table[0][1], "only_b": table[1][0], "p": float(tests.mcnemar(table, exact=True).pvalue)}


def sign_flips(differences: Array) -> float:
    """Two-sided p value of differences (units,) under the hypothesis that each could as well have had the other sign; exact for at most
    13 that are not zero. On differences of -1, 0 and 1 it is McNemar's test."""
    moved = differences[np.abs(differences) > TINY]
    if not len(moved):
        return 1.0
    result = stats.permutation_test(
        (moved,), np.sum, permutation_type="samples", vectorized=True, n_resamples=FLIPS, batch=500, rng=np.random.default_rng(SEED)
    )
    return float(np.minimum(result.pvalue, 1.0))


def pooled(differences: Array, groups: Sequence[str]) -> tuple[Array, Array]:
    """(mean difference, number of trials) of each group, both (groups,)."""
    return by_group(differences, np.ones_like(differences), groups)


def paired_difference(differences: Array, groups: Sequence[str], share: bool) -> Estimate:
    """Mean of differences (trials,) with its bootstrap interval over groups; `share`: they lie in [-1, 1]. `count` are the trials."""
    found = mean_change(*pooled(differences, groups), share)
    return Estimate(found.value, found.low, found.high, len(differences))


def smallest_share(units: int) -> float | None:
    """The smallest share of units that must truly change, all in one direction, for an exact test on so many to notice it with power 0.8
    at level 0.05. None below `FEWEST` units, which can show nothing at all.

    The chance that `FEWEST` or more of n units change is a binomial one; the share at which it is 0.8 is a quantile of the beta
    distribution.
    """
    return float(stats.beta.ppf(POWER, FEWEST, units - FEWEST + 1)) if units >= FEWEST else None


def detectable_difference(differences: Array, share: bool = True) -> float | None:
    """The smallest true difference that a paired test on as many units finds with power 0.8 at level 0.05, in the metric's unit.

    From the spread that was observed, and never below what an exact test could notice if no unit went the other way (`share`:
    differences lie in [-1, 1]). None where there are too few units to find anything, or neither says anything.
    """
    units = len(differences)
    exact = smallest_share(units) if share else 0.0
    spread = float(np.std(differences, ddof=1)) if units > 2 else 0.0
    if exact is None:
        return None
    if spread < TINY:
        return exact or None
    power = require("statsmodels.stats.power", "power of paired tests")
    effect = power.TTestPower().solve_power(nobs=units, alpha=ALPHA, power=POWER, alternative="two-sided")
    return max(float(np.squeeze(effect)) * spread, exact)


def detectable_from_interval(found: Estimate, share: bool = True) -> float | None:
    """The same from the width of a difference's interval, for comparisons that no single test stands behind (several seeds)."""
    exact = smallest_share(found.count) if share else 0.0
    if exact is None:
        return None
    if not math.isfinite(found.low):
        return exact or None
    outside = (1 - CONFIDENCE) / 2
    error = (found.high - found.low) / (2 * float(stats.norm.isf(outside)))
    return max(error * float(stats.norm.isf(ALPHA / 2) + stats.norm.ppf(POWER)), exact)
