"""Which answer a response gives, by rule: what is read, what is unparsed, and that nothing is ever guessed."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.evaluation.answers import extract, is_right
from faithful_rl.rewards.accuracy import accuracy_score, option_text

OPTIONS = ("left", "right", "behind", "a chair")


@pytest.mark.parametrize(
    ("response", "choice", "place"),
    [
        ("<think>x</think><answer>B</answer>", 1, "answer_tag"),
        ("<answer>(b)</answer>", 1, "answer_tag"),
        ("<answer>B. right</answer>", 1, "answer_tag"),
        ("<answer>The answer is B.</answer>", 1, "answer_tag"),
        ("<answer>Option (C)</answer>", 2, "answer_tag"),
        ("<answer>**D**</answer>", 3, "answer_tag"),
        ("<answer>a chair</answer>", 3, "answer_tag"),
        ("<answer>B. It is on that side of the picture</answer>", 1, "answer_tag"),
        ("<answer>A</answer> no, <answer>B</answer>", 1, "answer_tag"),
        ("I see it.\n\\boxed{B}", 1, "boxed"),
        ("so \\boxed{\\text{behind}} it is", 2, "boxed"),
        ("\\boxed{A} or rather \\boxed{C}", 2, "boxed"),
        ("Some words.\nFinal answer: right", 1, "phrase"),
        ("The answer is (C). That was easy.", 2, "phrase"),
        ("**Answer:** B", 1, "phrase"),
        ("The answer is left. No wait, the answer is right.", 1, "phrase"),
        ("right", 1, "whole"),
        ("B", 1, "whole"),
        ("(D) a chair", 3, "whole"),
    ],
)
def test_what_is_read(response: str, choice: int, place: str) -> None:
    found = extract(response, OPTIONS)
    assert (found.choice, found.parsed, found.place) == (choice, True, place)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   ",
        "<answer></answer>",
        "<answer>A or B</answer>",
        "<answer>A, B</answer>",
        "<answer>A. right</answer>",  # label and text disagree
        "<answer>B. Not (C).</answer>",
        "<answer>E</answer>",  # beyond the options
        "<answer>neither</answer>",
        "<answer>E</answer> The answer is B",  # the answer block is the answer
        "<think>It may be A. Or B.",  # cut
        "I think it is on the left side of the room, near the door",
        "A good question. There is a chair.\nAnd a table.",  # the article is no letter
        "The answer is unclear",
    ],
)
def test_what_is_unparsed(response: str) -> None:
    found = extract(response, OPTIONS)
    assert (found.choice, found.parsed, found.choices) == (-1, False, frozenset())
    assert not is_right(found, "left", 0, OPTIONS)


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("<answer>3</answer>", "3", True),
        ("<answer>3.</answer>", "3", True),
        ("<answer>yes</answer>", "Yes", True),
        ("The answer is three. I counted.", "Three", True),
        ("<answer>-3</answer>", "3", False),
        ("<answer>3.5</answer>", "3", False),
        ("<answer>3 cars</answer>", "3", False),
        ("", "3", False),
    ],
)
def test_open_answers(response: str, gold: str, right: bool) -> None:
    found = extract(response, ())
    assert found.choice == -1
    assert is_right(found, gold, -1, ()) is right


def test_options_of_equal_text_are_named_together() -> None:
    found = extract("<answer>yes</answer>", ("yes", "no", "yes"))
    assert found.choices == {0, 2}
    assert is_right(found, "yes", 2, ("yes", "no", "yes"))


@given(st.text(max_size=300), st.lists(st.sampled_from(["left", "right", "1", "A", "the B"]), max_size=5))
def test_never_raises_and_never_names_what_is_not_there(response: str, options: list[str]) -> None:
    found = extract(response, options)
    assert all(0 <= choice < len(options) for choice in found.choices)
    assert found.parsed or not found.choices
    assert 0 <= found.start <= len(response)


@given(st.sampled_from(["left", "right", "B", "(a)", "c.", "D) a chair", "nothing", "A or B", ""]), st.integers(0, 3))
def test_an_answer_block_counts_as_in_training(answer: str, gold: int) -> None:
    """What the training reward calls right, the evaluation does too."""
    found = extract(f"<think>x</think><answer>{answer}</answer>", OPTIONS)
    if accuracy_score(answer, string.ascii_uppercase[gold], OPTIONS, gold).value:
        assert is_right(found, OPTIONS[gold], gold, OPTIONS)


def test_runaway_responses_cost_little() -> None:
    for text in ("<answer>" * 20000, "\\boxed{" * 20000, "answer is " * 20000, "A. " * 20000):
        extract(text, OPTIONS)
    assert option_text("(A) left", 0) == "left"
