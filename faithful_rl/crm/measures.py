"""How good a consistency model is: accuracy, AUROC, calibration error, temperature, threshold, kappa. Plain numbers in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import mannwhitneyu

from faithful_rl.judges.calibration.statistics import kappa

Array = npt.NDArray[np.float64]

BINS = 15  # of the calibration error, of equal width
TEMPERATURES = (0.05, 20.0)  # searched range
EPSILON = 1e-7  # probabilities stay this far from 0 and 1 in logarithms


def probabilities(logits: Array, temperature: float = 1.0) -> Array:
    """P(consistent) in (0, 1) from logit differences (n,), consistent minus inconsistent."""
    return np.asarray(expit(np.asarray(logits, dtype=np.float64) / temperature))


def auroc(scores: Array, labels: Array) -> float | None:
    """P(a consistent pair scores above an inconsistent one), ties half: U / (n1 n0) of Mann and Whitney. None with one class only."""
    positive, negative = scores[labels >= 0.5], scores[labels < 0.5]
    if not positive.size or not negative.size:
        return None
    return float(mannwhitneyu(positive, negative).statistic / (positive.size * negative.size))


def calibration_error(predicted: Array, labels: Array, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017) of P(consistent), in [0, 1]: |mean prediction - rate of consistent| of `bins` equal
    bins, weighted by their size."""
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, weights=predicted - labels, minlength=bins))
    return float(gap.sum() / max(count.sum(), 1))


def negative_log_likelihood(predicted: Array, labels: Array) -> float:
    """Mean in nats."""
    clipped = np.clip(predicted, EPSILON, 1 - EPSILON)
    return float(-np.mean(labels * np.log(clipped) + (1 - labels) * np.log(1 - clipped)))


def fit_temperature(logits: Array, labels: Array) -> float:
    """The T > 0 that minimises the negative log-likelihood of sigmoid(logit / T) (Guo et al. 2017), within `TEMPERATURES`."""
    low, high = np.log(TEMPERATURES)
    found: Any = minimize_scalar(
        lambda log: negative_log_likelihood(probabilities(logits, float(np.exp(log))), labels), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))


def best_threshold(predicted: Array, labels: Array) -> float:
    """The probability at which "consistent" is said so that most pairs are right; the one nearest 0.5 among equals."""
    candidates = np.linspace(0.05, 0.95, 91)
    right = np.array([np.mean((predicted >= cut) == (labels >= 0.5)) for cut in candidates])
    best = candidates[right == right.max()]
    return float(np.round(best[np.abs(best - 0.5).argmin()], 2))


@dataclass(frozen=True, slots=True)
class Quality:
    """What is reported of a model on labelled pairs. `kappa` with its 95% interval over questions."""

    pairs: int
    accuracy: float
    auroc: float | None
    calibration_error_before: float  # at temperature 1
    calibration_error: float  # at the fitted temperature
    kappa: tuple[float | None, float | None, float | None]

    def as_dict(self) -> dict[str, Any]:
        return {
            "pairs": self.pairs,
            "accuracy": self.accuracy,
            "auroc": self.auroc,
            "calibration_error_before": self.calibration_error_before,
            "calibration_error": self.calibration_error,
            "kappa": list(self.kappa),
        }


def quality(logits: Array, labels: Array, uids: list[str], temperature: float, threshold: float) -> Quality:
    """Measure a model.

    Args:
        logits: (n,) differences, consistent minus inconsistent.
        labels: (n,) in [0, 1]; >= 0.5 counts as consistent for accuracy, AUROC and kappa.
        uids: (n,) question of each pair: kappa's interval resamples questions.

    Raises:
        ValueError: no pairs.
    """
    if not len(labels):
        raise ValueError("there are no pairs to measure on")
    predicted = probabilities(logits, temperature)
    said, truth = predicted >= threshold, labels >= 0.5
    number = {uid: index for index, uid in enumerate(dict.fromkeys(uids))}
    counts = np.zeros((len(number), 2, 2))
    np.add.at(counts, (np.array([number[uid] for uid in uids]), truth.astype(int), said.astype(int)), 1.0)
    agreed = kappa(counts)
    return Quality(
        pairs=len(labels),
        accuracy=float(np.mean(said == truth)),
        auroc=auroc(predicted, labels),
        calibration_error_before=calibration_error(probabilities(logits), labels),
        calibration_error=calibration_error(predicted, labels),
        kappa=(agreed.value, agreed.low, agreed.high),
    )
