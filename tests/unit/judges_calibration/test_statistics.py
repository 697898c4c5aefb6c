"""Kappa and intervals against numbers worked by hand and an independent derivation in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.judges.calibration.statistics import UNDEFINED, cohen_kappa, kappa, over_cases, proportion, rate


def kappa_by_pairs(table: list[list[int]]) -> Fraction | None:
    """Kappa from its meaning, without marginal products: one minus the ratio of observed to chance disagreement, where chance pairs every
    label with every verdict of the set."""
    labels = [row for row, counts in enumerate(table) for column, count in enumerate(counts) for _ in range(count)]
    verdicts = [column for row, counts in enumerate(table) for column, count in enumerate(counts) for _ in range(count)]
    total = len(labels)
    if total == 0:
        return None
    observed = Fraction(sum(one != other for one, other in zip(labels, verdicts, strict=True)), total)
    chance = Fraction(sum(one != other for one in labels for other in verdicts), total * total)
    return None if chance == 0 else 1 - observed / chance


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # observed 35/50 = .7, expected .5 * .6 + .5 * .4 = .5
        ([[45, 15], [25, 15]], 0.6 - 0.54),  # over 1 - .54, below
        ([[10, 0], [0, 10]], 1.0),
        ([[0, 10], [10, 0]], -1.0),
        ([[9, 1], [9, 1]], 0.0),  # verdicts do not look at the label
        # observed 12/20; expected (8*8 + 8*9 + 4*3)/400 = 148/400; (.6 - .37)/.63
        ([[6, 1, 1], [2, 5, 1], [0, 3, 1]], 0.23 / 0.63),
    ],
)
def test_kappa_by_hand(table: list[list[int]], kappa: float) -> None:
    expected = kappa / 0.46 if table[0] == [45, 15] else kappa
    assert float(cohen_kappa(np.array(table))) == pytest.approx(expected, abs=1e-12)


@given(st.integers(2, 4).flatmap(lambda k: st.lists(st.lists(st.integers(0, 6), min_size=k, max_size=k), min_size=k, max_size=k)))
def test_kappa_equals_its_derivation_from_pairs(table: list[list[int]]) -> None:
    exact = kappa_by_pairs(table)
    computed = float(cohen_kappa(np.array(table)))
    if exact is None:
        assert np.isnan(computed)
    else:
        assert computed == pytest.approx(float(exact), abs=1e-12)
        assert -1 - 1e-12 <= computed <= 1 + 1e-12


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3), st.permutations([0, 1, 2]))
def test_kappa_does_not_care_for_names_or_sides(table: list[list[int]], order: list[int]) -> None:
    matrix = np.array(table)
    np.testing.assert_allclose(cohen_kappa(matrix[np.ix_(order, order)]), cohen_kappa(matrix), atol=1e-12)
    np.testing.assert_allclose(cohen_kappa(matrix.T), cohen_kappa(matrix), atol=1e-12)


def test_kappa_of_many_tables_at_once() -> None:
    tables = np.array([[[20, 5], [10, 15]], [[1, 0], [0, 1]], [[3, 0], [0, 0]], [[0, 0], [0, 0]]])
    np.testing.assert_allclose(cohen_kappa(tables), [0.4, 1.0, np.nan, np.nan])


def test_exact_intervals_by_hand() -> None:
    # Clopper-Pearson where all of n succeed: the lower end p has p**n = .025
    assert proportion(10, 10).low == pytest.approx(0.025**0.1)
    assert proportion(10, 10).high == 1.0
    assert proportion(0, 10).high == pytest.approx(1 - 0.025**0.1)
    # Wilson at 1 of 2: centre .5, half width z/(2 (1 + z**2/2)) * sqrt(.5 + z**2/4) * ... = (z/sqrt(8 + 4 z**2)) by symmetry
    z = 1.959963984540054
    half = z / (1 + z * z / 2) * np.sqrt(0.25 / 2 + z * z / 16)
    wilson = proportion(1, 2, "wilson")
    assert (wilson.low, wilson.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert proportion(0, 0) == UNDEFINED


def test_a_rate_is_exact_where_a_case_has_one_verdict() -> None:
    hits, trials = np.array([1.0, 1, 1, 0, 0]), np.array([1.0, 1, 1, 1, 0])
    assert rate(hits, trials) == proportion(3, 4)


def test_a_rate_without_an_error_counts_cases_not_sentences() -> None:
    """Twenty right sentences from four rollouts do not make twenty independent trials."""
    found = rate(np.array([5.0, 5, 5, 5, 0]), np.array([5.0, 5, 5, 5, 0]))
    assert found == proportion(4, 4)
    assert found.low == pytest.approx(0.025**0.25)


def test_the_bootstrap_draws_whole_cases() -> None:
    """Where every sentence of a case shares its fate, more sentences a case must not narrow the interval."""
    hits = np.array([1.0] * 15 + [0.0] * 5)
    single = rate(hits * 2, np.full(20, 2.0))
    many = rate(hits * 50, np.full(20, 50.0))
    assert single == many
    assert single.value == 0.75
    assert single.low is not None
    assert single.high is not None
    assert single.high - single.low > 0.3  # the binomial standard error at 20 trials is .097


def test_the_same_counts_give_the_same_interval() -> None:
    counts = np.random.default_rng(0).integers(0, 3, (40, 2, 2)).astype(float)
    first = over_cases(counts, cohen_kappa)
    assert first == over_cases(counts, cohen_kappa)
    assert first.low is not None
    assert first.low < first.value < first.high


def test_kappa_without_a_disagreement_is_not_certain() -> None:
    """Ten cases of two agreeing verdicts, half of each label: chance disagreement .5; up to 1 - .025**.1 of the cases may disagree."""
    counts = np.array([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]] * 5)
    found = kappa(counts)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - (1 - 0.025**0.1) / 0.5)
    assert kappa(counts[:2]).low == pytest.approx(1 - (1 - 0.025**0.5) / 0.5)
    assert kappa(np.concatenate([counts[:2], np.zeros((3, 2, 2))])) == kappa(counts[:2])  # cases without a verdict are no trials
    one_wrong = np.concatenate([counts, np.array([[[0.0, 1.0], [0.0, 0.0]]])])
    assert kappa(one_wrong) == over_cases(one_wrong, cohen_kappa)


def test_no_interval_is_invented() -> None:
    one_case = np.array([[[3.0, 1.0], [1.0, 3.0]]])
    assert over_cases(one_case, cohen_kappa).low is None
    always_yes = np.array([[[1.0, 0.0], [0.0, 0.0]]] * 9)
    assert over_cases(always_yes, cohen_kappa) == UNDEFINED
    # one case of ten carries the only other label: a third of the resamples have no kappa
    mostly = np.concatenate([always_yes, np.array([[[0.0, 0.0], [0.0, 1.0]]])])
    found = over_cases(mostly, cohen_kappa)
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert over_cases(np.zeros((0, 2, 2)), cohen_kappa) == UNDEFINED


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """100 data sets of 60 cases with two sentences each, true rate .8 (both seeded): 95% intervals, so 88 or more cover it."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        hits = rng.binomial(2, 0.8, 60).astype(float)
        found = rate(hits, np.full(60, 2.0))
        covered += bool(found.low is not None and found.low <= 0.8 <= found.high)
    assert covered >= 88
