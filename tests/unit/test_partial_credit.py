"""Credit for times and numbers that are nearly right, by the formulas of arXiv 2601.00215 worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.rewards.accuracy import accuracy_score
from faithful_rl.rewards.partial_credit import clock_credit, credit_score, number_credit, read_clock, read_number


@pytest.mark.parametrize(
    ("said", "truth", "credit"),
    [
        ((3, 5), (3, 5), 1.0),
        ((4, 5), (3, 5), 0.5 * (1 - 1 / 5) + 0.5),
        ((5, 5), (3, 5), 0.5 * (1 - 2 / 5) + 0.5),
        ((6, 5), (3, 5), 0.5),  # three hours off: the hour earns nothing
        ((3, 15), (3, 5), 0.5 + 0.5 * (1 - 10 / 20)),
        ((3, 16), (3, 5), 0.5),  # eleven minutes off
        ((11, 58), (0, 2), 0.5 * (1 - 1 / 5) + 0.5 * (1 - 4 / 20)),  # both circles turn over
        ((9, 30), (3, 5), 0.0),
    ],
)
def test_clock_by_hand(said: tuple[int, int], truth: tuple[int, int], credit: float) -> None:
    assert clock_credit(said, truth) == pytest.approx(credit)
    assert clock_credit(truth, said) == pytest.approx(credit)


@pytest.mark.parametrize(
    ("said", "truth", "credit"), [(7, 7, 1.0), (8, 7, 0.5), (2, 7, 1 / 6), (1.9, 7, 0.0), (7.5, 7, 1 / 1.5), (-3, 0, 0.25)]
)
def test_number_by_hand(said: float, truth: float, credit: float) -> None:
    assert number_credit(said, truth) == pytest.approx(credit)


@pytest.mark.parametrize(
    ("text", "clock"),
    [("3:05", (3, 5)), ("03:05.", (3, 5)), ("12:00", (0, 0)), ("15:45", (3, 45)), ("3:05 pm", (3, 5)), ("3:5", None), ("3:65", None),
     ("25:00", None), ("3.05", None), ("five", None), ("3:05 or 4:05", None)],
)  # fmt: skip
def test_what_is_a_time(text: str, clock: tuple[int, int] | None) -> None:
    assert read_clock(text) == clock


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7.0), ("-2.5", -2.5), ("+3.", 3.0), ("1,200", 1200.0), ("1,20", None), (".5", 0.5), ("7 steps", None), ("seven", None),
     ("1e9", None), ("nan", None), ("9" * 100, None), ("٣", None)],
)  # fmt: skip
def test_what_is_a_number(text: str, number: float | None) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize(
    ("answer", "truth", "options", "gold", "credit"),
    [
        ("8", "7", (), -1, 0.5),
        ("the answer is 8", "7", (), -1, 0.0),  # no number as a whole
        ("4:05", "3:05", (), -1, 0.9),
        ("C", "B", ("5", "7", "8", "20"), 1, 0.5),  # a letter stands for its option
        ("(A)", "B", ("5", "7", "8", "20"), 1, 1 / 3),
        ("D", "B", ("5", "7", "8", "20"), 1, 0.0),
        ("B", "B", ("5", "7", "8", "20"), 1, 1.0),
        ("8", "B", ("A) 5", "B) 7", "C) 8", "D) 20"), 1, 0.5),
        ("A", "B", ("left", "right"), 1, 0.0),  # neither time nor number: right or wrong
        ("left", "left", (), -1, 1.0),
        ("8", "3:05", (), -1, 0.0),
        (None, "7", (), -1, 0.0),
        ("", "7", (), -1, 0.0),
    ],
)
def test_an_answer_earns_by_what_the_truth_is(answer: str | None, truth: str, options: tuple[str, ...], gold: int, credit: float) -> None:
    assert credit_score(answer, truth, options, gold).value == pytest.approx(credit)


@given(st.integers(0, 11), st.integers(0, 59), st.integers(0, 11), st.integers(0, 59))
def test_clock_credit_is_symmetric_bounded_and_full_only_when_right(h1: int, m1: int, h2: int, m2: int) -> None:
    credit = clock_credit((h1, m1), (h2, m2))
    assert credit == clock_credit((h2, m2), (h1, m1))
    assert 0.0 <= credit <= 1.0
    assert (credit == 1.0) == ((h1, m1) == (h2, m2))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 4))
def test_number_credit_falls_with_distance(truth: float, said: float, step: float) -> None:
    assert 0.0 <= number_credit(said, truth) <= 1.0
    assert number_credit(truth + step + 0.5, truth) <= number_credit(truth + step, truth)


@given(st.text(max_size=60), st.sampled_from(("7", "3:05", "left")), st.lists(st.text(min_size=1, max_size=8), max_size=5), st.data())
def test_credit_never_falls_below_accuracy_and_never_raises(answer: str, truth: str, options: list[str], data: st.DataObject) -> None:
    gold = data.draw(st.integers(0, len(options) - 1)) if options else -1
    credit = credit_score(answer, truth, tuple(options), gold).value
    exact = accuracy_score(answer, truth, tuple(options), gold).value
    assert credit is not None
    assert exact is not None
    assert 0.0 <= exact <= credit <= 1.0
