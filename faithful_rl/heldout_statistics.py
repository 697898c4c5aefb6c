"""Held-out numbers with 95% intervals: of one run, of a change within a run, of a method over seeds.

Every quantity is a weighted mean over questions, sum(w v) / sum(w): the weight is 0 where a question does not count (unscored,
or wrong where only right answers count). Intervals within a run are percentile bootstraps over questions by scipy. Over seeds,
questions and seeds are crossed (every seed answers the same questions), so both are resampled, each with replacement and
independently: the two-way ("pigeonhole") bootstrap of Owen (2007). With few seeds its seed part is rough; `seed_t_interval`
stands beside it for differences between methods.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from faithful_rl.metrics import read_jsonl
from faithful_rl.run_directory import heldout_file
from faithful_rl.types import FAILURES, Reason

Array = npt.NDArray[np.float64]
Row = Mapping[str, Any]

CONFIDENCE = 0.95
RESAMPLES = 2000
TINY = 1e-12  # below it the width of an interval is rounding
SEED = 20260408  # of the resampling: the same files give the same intervals


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval [low, high]; `count` questions stand under it. All NaN where nothing was measured."""

    value: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of what a figure is about stands in it: `counted` questions of the `applicable` ones, of `total` questions in all.

    A question without a response counts as applicable: nobody knows what it would have been.
    """

    counted: int
    applicable: int
    total: int

    @property
    def partial(self) -> bool:
        """Whether something that the figure is about was not measured."""
        return self.counted < self.applicable

    @property
    def text(self) -> str:
        """`36 of 38 that apply`, `46 of 48`, `n = 36` where it is about so many only, "" where nothing needs to be said."""
        if self.partial:
            return f"{self.counted:,} of {self.applicable:,}" + (" that apply" if self.applicable < self.total else "")
        return f"n = {self.counted:,}" if self.counted < self.total else ""


def worst(found: Sequence[Coverage]) -> Coverage:
    """Of several seeds the one that lacks most; of equal ones the one with fewest questions."""
    return min(found, key=lambda one: (one.counted / max(one.applicable, 1), one.counted))


def together(found: Sequence[Coverage]) -> Coverage:
    """Of several benchmarks under one figure."""
    return Coverage(sum(one.counted for one in found), sum(one.applicable for one in found), sum(one.total for one in found))


def _never(row: Row) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column of the tables: `better` is 1 where more is better, -1 where less is, 0 where neither; `failed` tells of a row without
    weight whether the quantity applies to it and could not be measured."""

    name: str
    heading: str
    better: int
    value: Callable[[Row], float]
    weight: Callable[[Row], float]
    percent: bool = True
    failed: Callable[[Row], bool] = _never

    def arrays(self, rows: Sequence[Row]) -> tuple[Array, Array]:
        """(values, weights), each (questions,); a value with weight 0 is 0 so that it can never count."""
        weights = np.array([self.weight(row) for row in rows], dtype=float)
        values = np.array([self.value(row) if weight else 0.0 for row, weight in zip(rows, weights, strict=True)], dtype=float)
        return values, weights

    def coverage(self, rows: Sequence[Row]) -> Coverage:
        """The rows that count, of those to which the quantity applies, of all."""
        counted = sum(self.weight(row) > 0 for row in rows)
        return Coverage(counted, counted + sum(not self.weight(row) and self.failed(row) for row in rows), len(rows))


def _scored(signal: str) -> Callable[[Row], float]:
    return lambda row: float(row[f"{signal}_scored"] > 0)


def _failed(signal: str) -> Callable[[Row], bool]:
    """A file that keeps no reason for a missing value says nothing that would excuse it."""
    excused = set(Reason) - FAILURES - {Reason.SCORED}
    return lambda row: row[f"{signal}_scored"] <= 0 and row.get(f"{signal}_reason", Reason.SCORED) not in excused


def _false_sentence(row: Row) -> float:
    return float(row["correct_sentence_count"] < row["judged_sentence_count"])


def _measured(signal: str, heading: str) -> Quantity:
    """A signal as its judge or parser scored it; more is better."""
    return Quantity(signal, heading, 1, lambda row: row[signal], _scored(signal), failed=_failed(signal))


QUANTITIES: tuple[Quantity, ...] = (
    _measured("accuracy", "accuracy"),
    Quantity("inconsistency_rate", "IR", -1, lambda row: 1.0 - row["consistency"], _scored("consistency"), failed=_failed("consistency")),
    _measured("semantic_grounding", "R_S"),
    _measured("spatial_grounding", "R_G"),
    _measured("format", "format"),
    Quantity(
        "right_for_false_reason",
        "right for a false reason",
        -1,
        _false_sentence,
        lambda row: float(row["accuracy"] > 0 and row["judged_sentence_count"] > 0),
        failed=lambda row: bool(row["accuracy"] > 0 and _failed("semantic_grounding")(row)),
    ),
    Quantity("sentence_count", "sentences per trace", 0, lambda row: row["sentence_count"], lambda row: 1.0, percent=False),
    Quantity("response_tokens", "tokens per response", 0, lambda row: row["response_tokens"], lambda row: 1.0, percent=False),
)


def read_heldout(run_dir: Path, moment: str, decoding: str) -> dict[str, Row]:
    """Question id -> line of one held-out evaluation; {} where it was not made.

    Raises:
        ValueError: when a question occurs twice, which would make every interval too narrow.
    """
    path = heldout_file(run_dir, moment, decoding)
    if not path.exists():
        return {}
    rows: dict[str, Row] = {}
    for number, line in read_jsonl(path):
        uid = str(line["uid"])
        if uid in rows:
            raise ValueError(f"{path}:{number} repeats the question {uid}; each question is evaluated once per file")
        rows[uid] = {**line, **(line.get("columns") or {})}
    return rows


def _weighted_mean(values: Array, weights: Array, axis: int = -1) -> Any:
    total = np.sum(weights, axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum(values * weights, axis=axis) / total


def _difference(values: Array, weights: Array, other: Array, other_weights: Array, axis: int = -1) -> Any:
    return _weighted_mean(values, weights, axis) - _weighted_mean(other, other_weights, axis)


def _bootstrap(data: Sequence[Array], statistic: Callable[..., Any]) -> tuple[float, float]:
    with warnings.catch_warnings():
        # Draws in which no question counts have no value; the interval is over those that have one.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=250,
            method="percentile",
            rng=np.random.default_rng(SEED),
        )
    return _percentiles(np.asarray(result.bootstrap_distribution, dtype=float))


def estimate(values: Array, weights: Array) -> Estimate:
    """Weighted mean of one evaluation with its bootstrap interval.

    Where every counted value is 0, or every one is 1, resampling sees no spread; the exact (Clopper-Pearson) interval of a
    share is given instead of one of width zero. A single value that is no share has no interval (NaN).
    """
    counted = weights > 0
    count = int(counted.sum())
    if count == 0:
        return NOTHING
    value = float(_weighted_mean(values, weights))
    if value in (0.0, 1.0) and np.all(values[counted] == value):
        exact = stats.binomtest(round(value * count), count).proportion_ci(CONFIDENCE, method="exact")
        return Estimate(value, float(exact.low), float(exact.high), count)
    if count == 1:
        return Estimate(value, math.nan, math.nan, count)
    if np.ptp(values[counted]) == 0.0:
        return Estimate(value, *(_alike(value, count, (0.0, 1.0)) if 0.0 < value < 1.0 else (value, value)), count)
    return Estimate(value, *_bootstrap((values, weights), _weighted_mean), count)


def _alike(value: float, count: int, ends: tuple[float, float] | None) -> tuple[float, float]:
    """The interval of a mean whose `count` values are all `value`, which resampling takes for certain: at most a share u of all others
    can differ (Clopper-Pearson, 0 of `count`), and those reach the `ends` of the scale at most. NaN where the scale has no ends."""
    if ends is None:
        return math.nan, math.nan
    share = float(stats.binomtest(0, count).proportion_ci(CONFIDENCE, method="exact").high)
    return value - share * (value - ends[0]), value + share * (ends[1] - value)


def mean_change(values: Array, weights: Array, share: bool = True) -> Estimate:
    """Weighted mean of differences, both (units,), with its bootstrap interval over units; `share`: they lie in [-1, 1].

    Where all differences are the same, resampling sees no spread: the exact interval stands instead, or NaN where there is none.
    """
    count = int((weights > 0).sum())
    if count == 0:
        return NOTHING
    value = float(_weighted_mean(values, weights))
    if count == 1:
        return Estimate(value, math.nan, math.nan, count)
    if np.ptp(values[weights > 0]) == 0.0:
        return Estimate(value, *_alike(value, count, (-1.0, 1.0) if share else None), count)
    return Estimate(value, *_bootstrap((values, weights), _weighted_mean), count)


def change(before: Mapping[str, Row], after: Mapping[str, Row], quantity: Quantity) -> Estimate:
    """after - before on the questions that both have, resampled together (paired); NaN where nothing is shared, an interval of NaN for
    a single question, and never one of width zero: questions that all changed alike leave room for others (see `mean_change`)."""
    shared = sorted(before.keys() & after.keys())
    old, old_weights = quantity.arrays([before[uid] for uid in shared])
    new, new_weights = quantity.arrays([after[uid] for uid in shared])
    if not old_weights.any() or not new_weights.any():
        return NOTHING
    value = float(_difference(new, new_weights, old, old_weights))
    if len(shared) == 1:
        return Estimate(value, math.nan, math.nan, 1)
    low, high = _bootstrap((new, new_weights, old, old_weights), _difference)
    if high - low < TINY:
        counted = min(int((weights > 0).sum()) for weights in (old_weights, new_weights))
        low, high = _alike(value, counted, (-1.0, 1.0) if quantity.percent else None)
    return Estimate(value, low, high, len(shared))


@dataclass(frozen=True, slots=True)
class Seeds:
    """One quantity of one method: values and weights (seeds, questions) on the same questions in the same order."""

    values: Array
    weights: Array

    def __post_init__(self) -> None:
        if self.values.shape != self.weights.shape or self.values.ndim != 2:
            raise ValueError(f"values and weights are both (seeds, questions), got {self.values.shape} and {self.weights.shape}")

    def per_seed(self) -> Array:
        """(seeds,) the quantity of each seed."""
        return np.asarray(_weighted_mean(self.values, self.weights), dtype=float)

    def resampled(self, questions: Array, generator: np.random.Generator) -> Array:
        """(resamples,) means over resampled seeds; `questions` (resamples, questions) says how often each question was drawn."""
        counts = generator.multinomial(len(self.values), np.full(len(self.values), 1 / len(self.values)), size=len(questions))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (questions @ (self.values * self.weights).T) / (questions @ self.weights.T)
        return np.asarray((np.where(counts > 0, ratios, 0.0) * counts).sum(axis=1) / len(self.values), dtype=float)


@cache
def _question_draws(questions: int) -> Array:
    """(RESAMPLES, questions) how often each question is drawn; the same draws for every method and quantity."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(questions, np.full(questions, 1 / questions), size=RESAMPLES).astype(float)


def _percentiles(samples: Array) -> tuple[float, float]:
    tail = 50.0 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def over_seeds(seeds: Seeds) -> Estimate:
    """Mean over seeds of the quantity, with the two-way bootstrap interval; one seed's is `estimate`'s."""
    if not seeds.weights.any(axis=1).all():
        return NOTHING
    if len(seeds.values) == 1:
        return estimate(seeds.values[0], seeds.weights[0])
    value = float(seeds.per_seed().mean())
    count = int((seeds.weights > 0).any(axis=0).sum())
    if 0.0 <= value <= 1.0 and np.ptp(seeds.values[seeds.weights > 0]) < TINY:
        # no spread to resample: the exact interval as if all seeds were one
        return Estimate(value, *_alike(value, count, (0.0, 1.0)), count)
    generator = np.random.default_rng([SEED, 1])
    draws = _question_draws(seeds.values.shape[1])
    return Estimate(value, *_percentiles(seeds.resampled(draws, generator)), count)


def difference_over_seeds(method: Seeds, other: Seeds, share: bool = True) -> Estimate:
    """method - other over seeds: the same question draws for both, seeds drawn apart. `share`: values lie in [0, 1], so that even
    where no draw differs there is an interval, over the questions."""
    if not (method.weights.any(axis=1).all() and other.weights.any(axis=1).all()):
        return NOTHING
    generator = np.random.default_rng([SEED, 1])
    draws = _question_draws(method.values.shape[1])
    samples = method.resampled(draws, generator) - other.resampled(draws, generator)
    value = float(method.per_seed().mean() - other.per_seed().mean())
    low, high = _percentiles(samples)
    count = min(int((seeds.weights > 0).any(axis=0).sum()) for seeds in (method, other))
    if high - low < TINY:
        low, high = _alike(value, count, (-1.0, 1.0) if share else None)
    return Estimate(value, low, high, count)


def seed_t_interval(method: Seeds, other: Seeds) -> Estimate:
    """Mean of the differences of equal seeds with a t interval over seeds (questions held as they are); NaN bounds below two seeds,
    and where the differences are all the same: so few equal numbers do not say that the next one is equal too."""
    differences = method.per_seed() - other.per_seed()
    mean = float(differences.mean())
    if len(differences) < 2:
        return Estimate(mean, math.nan, math.nan, len(differences))
    error = float(stats.sem(differences))
    if error < TINY:
        return Estimate(mean, math.nan, math.nan, len(differences))
    low, high = stats.t.interval(CONFIDENCE, len(differences) - 1, loc=mean, scale=error)
    return Estimate(mean, float(low), float(high), len(differences))
