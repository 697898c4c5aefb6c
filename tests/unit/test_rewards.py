"""Accuracy, format, task and spatial grounding of one rollout, by hand."""

import pytest

from faithful_rl.response import parse
from faithful_rl.rewards import accuracy_score, format_score, matched_ciou, spatial_grounding_score, task_score
from faithful_rl.rewards.accuracy import normalise, option_text, read_options
from faithful_rl.types import Box, Reason, Score

OPTIONS = ("left", "right", "above the table", "3.5 m")


@pytest.mark.parametrize(
    "answer",
    ["B", "b", "(B)", "B.", "b)", " B ", "**B**", "[B]", "\u201cB\u201d", "B!", "right", "Right.", "B. right", "(B) Right", "\uff22"],
)
def test_ways_to_name_an_option(answer):
    assert read_options(answer, OPTIONS) == {1}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "   ",
        "...",
        "B or C",
        "B, C",
        "B/C",
        "BC",
        "A. right",
        "B. left",
        "E",
        "Z",
        "option b",
        "the right",
        "not B",
        "\u0412",
        "B" * 5000,
        "right " * 2000,
    ],
)
def test_what_names_no_option(answer):
    assert read_options(answer, OPTIONS) == frozenset()


def test_accuracy_of_multiple_choice():
    assert accuracy_score("(b)", "B", OPTIONS, 1) == Score(1.0)
    assert accuracy_score("right", "B", OPTIONS, 1) == Score(1.0)
    assert accuracy_score("A", "B", OPTIONS, 1) == Score(0.0)
    assert accuracy_score(None, "B", OPTIONS, 1) == Score(0.0)
    assert accuracy_score("", "B", OPTIONS, 1) == Score(0.0)


def test_accuracy_of_open_questions():
    assert accuracy_score("Two.", "two") == Score(1.0)
    assert accuracy_score("3.5", "35") == Score(0.0)
    assert accuracy_score("-3", "3") == Score(0.0)
    assert accuracy_score("(c)", "C") == Score(1.0)
    assert accuracy_score("", "two") == Score(0.0)
    assert accuracy_score("...", "!!!") == Score(0.0)


def test_options_with_equal_text_are_both_named():
    assert read_options("same", ("same", "Same.", "other")) == {0, 1}


@pytest.mark.parametrize(
    ("option", "index", "text"),
    [
        ("(B) left", 1, "left"),
        ("B. left", 1, "left"),
        ("B: left", 1, "left"),
        ("left", 1, "left"),
        ("a circle", 0, "a circle"),
        ("B. left", 0, "b left"),
    ],
)
def test_an_option_is_compared_without_its_own_letter(option, index, text):
    assert option_text(option, index) == text


def test_normalise_keeps_what_punctuation_means():
    assert normalise(" The  ANSWER, is: -3.5! ") == "the answer is -3.5"


@pytest.mark.parametrize(("text", "expected"), [("<think>a</think><answer>B</answer>", 1.0), ("<answer>B</answer>", 0.0), ("", 0.0)])
def test_format(text, expected):
    assert format_score(parse(text)) == Score(expected)


@pytest.mark.parametrize(("accuracy", "form", "expected"), [(1.0, 1.0, 1.0), (1.0, 0.0, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 0.0)])
def test_task_is_half_accuracy_half_format(accuracy, form, expected):
    assert task_score(Score(accuracy), Score(form)) == Score(expected)


def test_task_refuses_an_unscored_rule():
    with pytest.raises(ValueError, match="always scored"):
        task_score(Score(None, Reason.MASKED), Score(1.0))


A, B = Box(0, 0, 10, 10), Box(50, 50, 70, 60)


def test_perfect_boxes_score_one_in_any_order():
    assert spatial_grounding_score([B, A], [A, B]).value == pytest.approx(1.0)


def test_extra_missing_and_repeated_boxes_cost_by_max_of_counts():
    assert spatial_grounding_score([A, B], [A]).value == pytest.approx(1 / 2)
    assert spatial_grounding_score([A], [A, B]).value == pytest.approx(1 / 2)
    assert spatial_grounding_score([A, A, A, A], [A]).value == pytest.approx(1 / 4)


def test_matching_is_the_best_assignment_not_the_greedy_one():
    # p0 fits r0 a little better than r1, p1 fits only r0: greedy by rows would waste r0 on p0.
    p0, p1 = Box(2, 0, 12, 10), Box(-4, 0, 6, 10)
    r0, r1 = Box(1, 0, 11, 10), Box(4, 0, 14, 10)
    assert matched_ciou([p0, p1], [r0, r1]) == pytest.approx((matched_ciou([p0], [r1]) + matched_ciou([p1], [r0])) / 2)


def test_spatial_grounding_of_empty_sides():
    assert spatial_grounding_score([A], []) == Score(None, Reason.NO_REFERENCE)
    assert spatial_grounding_score([], []) == Score(None, Reason.NO_REFERENCE)
    assert spatial_grounding_score([], [A]) == Score(0.0)


def test_a_negative_ciou_is_clipped_in_the_reward_only():
    far = Box(90, 90, 100, 100)
    assert matched_ciou([far], [A]) < 0.0
    assert spatial_grounding_score([far], [A]) == Score(0.0)


def test_ten_thousand_predicted_boxes():
    # one copy matches A exactly, one is forced on B
    assert matched_ciou([A] * 10_000, [A, B]) == pytest.approx((1 + matched_ciou([A], [B])) / 10_000)


@pytest.mark.parametrize(
    ("value", "reason"), [(None, Reason.SCORED), (1.0, Reason.MASKED), (float("nan"), Reason.SCORED), (float("inf"), Reason.SCORED)]
)
def test_a_score_is_a_finite_value_or_a_reason(value, reason):
    with pytest.raises(ValueError, match="Score"):
        Score(value, reason)
