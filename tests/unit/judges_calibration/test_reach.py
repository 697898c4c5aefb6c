"""The score of a perfect policy: hand-worked, and against the expectation by full enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.judges.calibration.reach import measured, reach, share_needed

BINARY = np.array([[90.0, 10.0], [20.0, 80.0]])  # sensitivity .9, specificity .8
SENTENCES = np.array([[60.0, 10.0, 30.0], [10.0, 30.0, 10.0], [4.0, 6.0, 10.0]])


def cases(table: np.ndarray) -> np.ndarray:
    """One verdict a case, so that the summed counts are the table."""
    rows = []
    for label, counts in enumerate(table):
        for verdict, count in enumerate(counts):
            one = np.zeros_like(table)
            one[label, verdict] = 1.0
            rows += [one] * int(count)
    return np.array(rows)


def test_consistency_by_hand() -> None:
    assert measured(1.0, BINARY) == pytest.approx(0.9)
    assert measured(0.0, BINARY) == pytest.approx(0.2)
    assert measured(0.5, BINARY) == pytest.approx(0.55)
    assert share_needed(0.75, BINARY) == pytest.approx(0.55 / 0.7)
    assert share_needed(0.95, BINARY) == pytest.approx(0.75 / 0.7)  # above 1: out of reach


def test_sentences_by_hand() -> None:
    assert measured(1.0, SENTENCES) == pytest.approx(60 / 70)
    assert measured(0.0, SENTENCES) == pytest.approx(10 / 40)
    # half of the sentences true: (.5 * .6 + .5 * .2) / (.5 * .7 + .5 * .8)
    assert measured(0.5, SENTENCES) == pytest.approx(0.4 / 0.75)
    found = reach("semantic_grounding", 0.95, cases(SENTENCES))
    assert found.ceiling.value == pytest.approx(60 / 70)
    assert found.floor.value == pytest.approx(0.25)
    # true and repeated sentences together: 64 correct, 16 incorrect
    assert found.ceiling_with_repeats is not None
    assert found.ceiling_with_repeats.value == pytest.approx(64 / 80)


def expected_score(correct: float, incorrect: float, sentences: int) -> float:
    """Mean of correct / (correct + incorrect) over every outcome of a rollout with a judged sentence, by enumeration."""
    total = weight = 0.0
    for said in product((0, 1, 2), repeat=sentences):
        probability = np.prod([(correct, incorrect, 1 - correct - incorrect)[word] for word in said])
        right, judged = said.count(0), sentences - said.count(2)
        if judged:
            total += probability * right / judged
            weight += probability
    return float(total / weight)


@given(st.floats(0.05, 0.9), st.floats(0.0, 1.0), st.integers(1, 5))
def test_skip_and_the_number_of_sentences_drop_out_of_r_s(correct: float, rest: float, sentences: int) -> None:
    incorrect = (1 - correct) * rest
    table = np.array([[correct, incorrect, 1 - correct - incorrect], [0.1, 0.8, 0.1], [0, 0, 1.0]])
    assert expected_score(correct, incorrect, sentences) == pytest.approx(measured(1.0, table), abs=1e-9)


# rows put in order, so that a larger part of the positive label's verdicts is positive
better_than_chance = (
    st.lists(st.integers(1, 50), min_size=6, max_size=6)
    .map(lambda flat: sorted(np.array(flat, dtype=float).reshape(2, 3), key=lambda row: -row[0] / row[1]))
    .map(np.array)
    .filter(lambda table: measured(1.0, table) > measured(0.0, table))
)


@given(better_than_chance, st.floats(0.0, 1.0))
def test_the_share_needed_gives_the_threshold(table: np.ndarray, share: float) -> None:
    assert share_needed(measured(share, table), table) == pytest.approx(share, abs=1e-6)


@given(better_than_chance)
def test_the_ceiling_is_the_highest_score_of_a_judge_better_than_chance(table: np.ndarray) -> None:
    scores = [measured(share, table) for share in np.linspace(0, 1, 11)]
    assert scores == sorted(scores)


def test_the_formula_against_simulated_rollouts() -> None:
    """20,000 rollouts with 1 to 6 sentences, 70% of them true; standard error of the mean about .002."""
    rng = np.random.default_rng(3)
    shares = SENTENCES[:2] / SENTENCES[:2].sum(axis=1, keepdims=True)
    scores = []
    for _ in range(20_000):
        truth = rng.random(rng.integers(1, 7)) < 0.7
        said = np.array([rng.choice(3, p=shares[0 if true else 1]) for true in truth])
        judged = (said != 2).sum()
        if judged:
            scores.append((said == 0).sum() / judged)
    assert np.mean(scores) == pytest.approx(measured(0.7, SENTENCES[:2]), abs=0.01)


@pytest.mark.parametrize(
    ("table", "threshold", "state", "message"),
    [
        ([[90, 10], [20, 80]], 0.96, "out of reach",
         "consistency: with this judge a perfect policy scores 0.900 [0.824, 0.951]; the threshold 0.96 is out of its reach. "
         "Lower the threshold or take a better judge."),
        ([[90, 10], [20, 80]], 0.95, "uncertain",
         "consistency: with this judge a perfect policy scores 0.900 [0.824, 0.951]; the threshold 0.95 is probably out of its reach: "
         "label more cases, or take a better judge."),
        ([[97, 3], [5, 95]], 0.95, "uncertain",
         "consistency: with this judge a perfect policy scores 0.970 [0.915, 0.994]; whether the threshold 0.95 is in its reach takes "
         "more labelled cases to tell."),
        ([[300, 0], [0, 50]], 0.95, "in reach",
         "consistency: with this judge a perfect policy scores 1.000 [0.988, 1.000]; the threshold 0.95 is in its reach."),
        ([[98, 2], [97, 3]], 0.5, "out of reach",
         "consistency: with this judge a perfect policy scores 0.980 [0.930, 0.998] and one that is never faithful 0.970: "
         "the threshold 0.5 constrains nothing."),
        ([[90, 10], [95, 5]], 0.5, "out of reach",
         "consistency: with this judge a perfect policy scores 0.900 [0.824, 0.951] and one that is never faithful 0.950: "
         "its verdicts do not rise with the truth."),
        ([[0, 0], [5, 95]], 0.95, "unknown",
         "consistency: no faithful case was judged, so it is not known whether the threshold 0.95 can be reached."),
    ],
)  # fmt: skip
def test_what_is_said_of_a_threshold(table: list[list[int]], threshold: float, state: str, message: str) -> None:
    found = reach("consistency", threshold, cases(np.array(table, dtype=float)))
    assert (found.state, found.message, found.warns) == (state, message, state != "in reach")


def test_a_set_without_false_cases_still_has_a_ceiling() -> None:
    found = reach("consistency", 0.9, cases(np.array([[300.0, 0], [0, 0]])))
    assert (found.state, found.share_needed, found.floor.value) == ("in reach", None, None)
