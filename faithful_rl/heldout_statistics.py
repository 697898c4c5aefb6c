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

Array = npt.NDArray[np.float64]
Row = Mapping[str, Any]

CONFIDENCE = 0.95
RESAMPLES = 2000
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
class Quantity:
    """A column of the tables: `better` is 1 where more is better, -1 where less is, 0 where neither."""

    name: str
    heading: str
    better: int
    value: Callable[[Row], float]
    weight: Callable[[Row], float]
    percent: bool = True

    def arrays(self, rows: Sequence[Row]) -> tuple[Array, Array]:
        """(values, weights), each (questions,); a value with weight 0 is 0 so that it can never count."""
        weights = np.array([self.weight(row) for row in rows], dtype=float)
        values = np.array([self.value(row) if weight else 0.0 for row, weight in zip(rows, weights, strict=True)], dtype=float)
        return values, weights


def _scored(signal: str) -> Callable[[Row], float]:
    return lambda row: float(row[f"{signal}_scored"] > 0)


def _false_sentence(row: Row) -> float:
    return float(row["correct_sentence_count"] < row["judged_sentence_count"])


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("accuracy", "accuracy", 1, lambda row: row["accuracy"], _scored("accuracy")),
    Quantity("inconsistency_rate", "IR", -1, lambda row: 1.0 - row["consistency"], _scored("consistency")),
    Quantity("semantic_grounding", "R_S", 1, lambda row: row["semantic_grounding"], _scored("semantic_grounding")),
    Quantity("spatial_grounding", "R_G", 1, lambda row: row["spatial_grounding"], _scored("spatial_grounding")),
    Quantity("format", "format", 1, lambda row: row["format"], _scored("format")),
    Quantity(
        "right_for_false_reason",
        "right for a false reason",
        -1,
        _false_sentence,
        lambda row: float(row["accuracy"] > 0 and row["judged_sentence_count"] > 0),
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
        return Estimate(value, value, value, count)
    return Estimate(value, *_bootstrap((values, weights), _weighted_mean), count)


def change(before: Mapping[str, Row], after: Mapping[str, Row], quantity: Quantity) -> Estimate:
    """after - before on the questions that both have, resampled together (paired); NaN where nothing is shared, an interval of NaN for
    a single question."""
    shared = sorted(before.keys() & after.keys())
    old, old_weights = quantity.arrays([before[uid] for uid in shared])
    new, new_weights = quantity.arrays([after[uid] for uid in shared])
    if not old_weights.any() or not new_weights.any():
        return NOTHING
    value = float(_difference(new, new_weights, old, old_weights))
    if len(shared) == 1:
        return Estimate(value, math.nan, math.nan, 1)
    if np.ptp(old) == np.ptp(new) == np.ptp(old_weights) == np.ptp(new_weights) == 0.0:
        return Estimate(value, value, value, len(shared))
    return Estimate(value, *_bootstrap((new, new_weights, old, old_weights), _difference), len(shared))


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
    if not value and not np.any(seeds.values):  # no spread to resample: the exact interval as if all seeds were one
        high = stats.binomtest(0, count).proportion_ci(CONFIDENCE, method="exact").high
        return Estimate(value, 0.0, float(high), count)
    generator = np.random.default_rng([SEED, 1])
    draws = _question_draws(seeds.values.shape[1])
    return Estimate(value, *_percentiles(seeds.resampled(draws, generator)), count)


def difference_over_seeds(method: Seeds, other: Seeds) -> Estimate:
    """method - other over seeds: the same question draws for both, seeds drawn apart."""
    if not (method.weights.any(axis=1).all() and other.weights.any(axis=1).all()):
        return NOTHING
    generator = np.random.default_rng([SEED, 1])
    draws = _question_draws(method.values.shape[1])
    samples = method.resampled(draws, generator) - other.resampled(draws, generator)
    value = float(method.per_seed().mean() - other.per_seed().mean())
    return Estimate(value, *_percentiles(samples), method.values.shape[1])


def seed_t_interval(method: Seeds, other: Seeds) -> Estimate:
    """Mean of the differences of equal seeds with a t interval over seeds (questions held as they are); NaN bounds below two seeds."""
    differences = method.per_seed() - other.per_seed()
    mean = float(differences.mean())
    if len(differences) < 2:
        return Estimate(mean, math.nan, math.nan, len(differences))
    error = float(stats.sem(differences))
    if error == 0.0:
        return Estimate(mean, mean, mean, len(differences))
    low, high = stats.t.interval(CONFIDENCE, len(differences) - 1, loc=mean, scale=error)
    return Estimate(mean, float(low), float(high), len(differences))
