"""Intervals: against hand-worked numbers, scipy and normal theory; and the refusal of what would make them wrong."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from synthetic_run import put_lines

from faithful_rl.heldout_statistics import (
    QUANTITIES,
    Coverage,
    Seeds,
    change,
    difference_over_seeds,
    estimate,
    over_seeds,
    read_heldout,
    seed_t_interval,
    worst,
)

BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}


def row(accuracy: float = 1.0, consistency: float | None = 1.0, correct: float = 2.0, judged: float = 2.0) -> dict[str, float]:
    found = {
        "accuracy": accuracy,
        "accuracy_scored": 1.0,
        "format": 1.0,
        "format_scored": 1.0,
        "sentence_count": 3.0,
        "response_tokens": 50.0,
    }
    found |= {"consistency": consistency or 0.0, "consistency_scored": float(consistency is not None)}
    found |= {"correct_sentence_count": correct, "judged_sentence_count": judged}
    found |= {"semantic_grounding": correct / judged if judged else 0.0, "semantic_grounding_scored": float(judged > 0)}
    return found | {"spatial_grounding": 0.5, "spatial_grounding_scored": 1.0}


# six questions: right, wrong; consistent, not, unscored; with and without false sentences
ROWS = [row(), row(0.0), row(consistency=0.0), row(consistency=None), row(correct=1.0), row(0.0, 0.0, 0.0), row(judged=0.0, correct=0.0)]


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("accuracy", 5 / 7, 7),
        ("inconsistency_rate", 2 / 6, 6),  # one of seven is unscored and left out, not counted as consistent or inconsistent
        ("semantic_grounding", (1 + 1 + 1 + 1 + 0.5 + 0) / 6, 6),
        ("right_for_false_reason", 1 / 4, 4),  # right answers with a judged sentence: rows 0, 2, 3, 4
        ("sentence_count", 3.0, 7),
    ],
)
def test_quantities_by_hand(name: str, value: float, count: int) -> None:
    found = estimate(*BY_NAME[name].arrays(ROWS))
    assert found.value == pytest.approx(value)
    assert found.count == count
    assert found.low <= found.value <= found.high


def test_a_share_agrees_with_normal_theory() -> None:
    values = np.repeat([1.0, 0.0], [300, 700])
    found = estimate(values, np.ones(1000))
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)


def test_no_spread_gives_the_exact_interval_and_not_a_point() -> None:
    found = estimate(np.zeros(100), np.ones(100))
    # Clopper-Pearson, 0 of 100: 1 - 0.025 ** (1 / 100)
    assert (found.low, found.high) == pytest.approx((0.0, 1 - 0.025**0.01))


def test_nothing_measured_is_nan() -> None:
    assert math.isnan(estimate(np.zeros(3), np.zeros(3)).value)
    # one value of a mean says nothing about the next, so it has no interval and is no difference
    assert math.isnan(estimate(np.array([0.4]), np.ones(1)).low)
    lone = change({"q": ROWS[0]}, {"q": ROWS[0]}, BY_NAME["accuracy"])
    assert (lone.count, math.isnan(lone.low), lone.excludes_zero) == (1, True, False)


def test_a_change_is_paired_by_question() -> None:
    draw_from = np.random.default_rng(0)
    before = {f"q{index}": row(float(draw_from.random() < 0.5)) for index in range(400)}
    after = {uid: row(1.0 if index < 20 else old["accuracy"]) for index, (uid, old) in enumerate(before.items())}
    found = change(before, after, BY_NAME["accuracy"])
    gained = sum(after[uid]["accuracy"] - before[uid]["accuracy"] for uid in before) / 400
    assert found.value == pytest.approx(gained)
    assert found.high - found.low < 0.04  # unpaired it would be about 0.14
    assert change(before, {}, BY_NAME["accuracy"]).count == 0


def test_seeds_and_questions_both_widen_the_interval() -> None:
    draw_from = np.random.default_rng(1)
    weights = np.ones((3, 400))
    one = (draw_from.random((1, 400)) < 0.5).astype(float)
    same = Seeds(np.repeat(one, 3, axis=0), weights)
    apart = Seeds(
        np.concatenate([one, np.clip(one + (draw_from.random((1, 400)) < 0.2), 0, 1), one * (draw_from.random((1, 400)) < 0.8)]), weights
    )
    narrow, wide, lone = over_seeds(same), over_seeds(apart), estimate(one[0], np.ones(400))
    assert narrow.value == pytest.approx(one.mean())
    # equal seeds carry no more than the questions of one: three runs are not three times the questions
    assert (narrow.low, narrow.high) == pytest.approx((lone.low, lone.high), abs=0.012)
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


def test_differences_between_methods() -> None:
    ours = Seeds(np.array([[1.0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]), np.ones((3, 4)))
    theirs = Seeds(np.array([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]), np.ones((3, 4)))
    # per seed: .75 - .25, .5 - .25, 1 - 0
    found = seed_t_interval(ours, theirs)
    differences = [0.5, 0.25, 1.0]
    assert found.value == pytest.approx(np.mean(differences))
    reference = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert difference_over_seeds(ours, theirs).value == pytest.approx(np.mean(differences))
    assert difference_over_seeds(ours, ours).value == 0.0


def test_what_never_changed_is_not_certain() -> None:
    """Resampling 100 equal differences sees no spread; 0 of 100 leaves room for 1 - 0.025 ** (1 / 100) = 3.6%."""
    rows = {f"q{index}": row(float(index % 2)) for index in range(100)}
    room = 1 - 0.025**0.01
    found = change(rows, rows, BY_NAME["accuracy"])
    assert (found.value, found.low, found.high) == (0.0, pytest.approx(-room), pytest.approx(room))
    lost = change(dict.fromkeys(rows, row(1.0)), dict.fromkeys(rows, row(0.0)), BY_NAME["accuracy"])
    assert (lost.value, lost.low, lost.high) == (-1.0, -1.0, pytest.approx(-1.0 + 2 * room))
    longer = change(rows, rows, BY_NAME["response_tokens"])  # a length has no ends to bound it
    assert (longer.value, math.isnan(longer.low)) == (0.0, True)


def test_seeds_that_agree_are_not_certain() -> None:
    room = 1 - 0.025 ** (1 / 40)
    right = Seeds(np.ones((2, 40)), np.ones((2, 40)))
    assert (over_seeds(right).low, over_seeds(right).high) == (pytest.approx(1 - room), 1.0)
    found = difference_over_seeds(right, right)
    assert (found.value, found.low, found.high, found.count) == (0.0, pytest.approx(-room), pytest.approx(room), 40)
    assert math.isnan(seed_t_interval(right, right).low)


def test_coverage_tells_a_failure_from_what_does_not_apply() -> None:
    """Reasons: 2 no reference, 3 nothing to judge, 4 the judge failed; a file without reasons excuses nothing."""
    unscored = {"semantic_grounding_scored": 0.0, "judged_sentence_count": 0.0}
    rows = [
        row(),
        row(0.0),
        {**row(), **unscored, "semantic_grounding_reason": 3.0},
        {**row(), **unscored, "semantic_grounding_reason": 4.0},
    ]
    found = BY_NAME["semantic_grounding"].coverage(rows)
    assert (found.counted, found.applicable, found.total, found.text, found.partial) == (2, 3, 4, "2 of 3 that apply", True)
    assert BY_NAME["right_for_false_reason"].coverage(rows).text == "1 of 2 that apply"
    assert BY_NAME["inconsistency_rate"].coverage([row(consistency=None), row()]).text == "1 of 2"
    assert BY_NAME["accuracy"].coverage(rows).text == ""
    excused = Coverage(2, 2, 4)
    assert (excused.text, excused.partial) == ("n = 2", False)
    assert worst([excused, found, Coverage(4, 4, 4)]) == found


def test_a_repeated_question_is_refused(tmp_path: Path) -> None:
    put_lines(tmp_path / "heldout" / "before_T1.jsonl", [{"uid": "q1", **row()}, {"uid": "q1", **row()}])
    with pytest.raises(ValueError, match=r"before_T1\.jsonl:2 repeats the question q1"):
        read_heldout(tmp_path, "before", "T1")
    assert read_heldout(tmp_path, "after", "T1") == {}
