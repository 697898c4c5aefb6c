"""AUROC, calibration error, temperature and kappa against numbers worked by hand and independent computations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.crm import measures


def test_auroc_by_hand_and_by_counting_pairs() -> None:
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])
    assert measures.auroc(scores, labels) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert measures.auroc(scores, np.ones(4)) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_ordered_pairs(rows: list[tuple[float, bool]]) -> None:
    scores, labels = np.array([score for score, _ in rows]), np.array([float(label) for _, label in rows])
    positive, negative = scores[labels == 1], scores[labels == 0]
    if positive.size and negative.size:
        counted = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
        assert measures.auroc(scores, labels) == pytest.approx(counted)


def test_calibration_error_by_hand() -> None:
    # Two bins of 15: 0.05 and 0.95; in the first half are consistent, in the second all.
    predicted, labels = np.array([0.05, 0.05, 0.95, 0.95]), np.array([0.0, 1.0, 1.0, 1.0])
    assert measures.calibration_error(predicted, labels) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert measures.calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.0


def test_temperature_finds_the_one_that_labels_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, 20_000)
    labels = (rng.random(20_000) < measures.probabilities(logits, 2.5)).astype(float)
    fitted = measures.fit_temperature(logits, labels)
    assert fitted == pytest.approx(2.5, rel=0.05)
    before, after = (measures.calibration_error(measures.probabilities(logits, t), labels) for t in (1.0, fitted))
    assert after < before / 3


def test_the_threshold_is_where_most_are_right_and_near_a_half_among_equals() -> None:
    assert measures.best_threshold(np.array([0.1, 0.2, 0.9]), np.array([0.0, 0.0, 1.0])) == 0.5
    assert measures.best_threshold(np.array([0.1, 0.2, 0.3]), np.array([0.0, 1.0, 1.0])) == 0.2


def test_quality_by_hand() -> None:
    logits = np.array([2.0, 2.0, -2.0, -2.0, 2.0, -2.0, 2.0, -2.0])
    labels = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    found = measures.quality(logits, labels, [f"q{index}" for index in range(8)], 1.0, 0.5)
    assert found.accuracy == pytest.approx(0.75)
    assert found.kappa[0] == pytest.approx(0.5)  # (0.75 - 0.5) / (1 - 0.5)
    assert found.kappa[1] is not None
    assert found.kappa[1] < 0.5 < found.kappa[2]  # type: ignore[operator]
    with pytest.raises(ValueError, match="no pairs"):
        measures.quality(np.array([]), np.array([]), [], 1.0, 0.5)
