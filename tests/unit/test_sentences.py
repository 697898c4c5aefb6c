"""Splitting with offsets, the filter's rule for each sentence, and R_S."""

import pytest

from faithful_rl.rewards import Rule, non_trivial, semantic_grounding_score, split
from faithful_rl.rewards.sentences import classify
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict


def test_sentences_carry_their_offsets():
    text = "  The cup is red. The plate, e.g. the big one, is blue!\nSo the answer is A. "
    sentences = split(text)
    assert [s.text for s in sentences] == ["The cup is red.", "The plate, e.g. the big one, is blue!", "So the answer is A."]
    assert all(text[s.start : s.end] == s.text for s in sentences)


def test_boxes_and_decimals_do_not_end_a_sentence():
    text = "It is at <bbox>[14.5, 14. , 28.25, 28.]</bbox>. It is 3.5 wide. The dog is at [1.0, 2., 3., 4.]. Fine."
    assert [s.text for s in split(text)] == [
        "It is at <bbox>[14.5, 14. , 28.25, 28.]</bbox>.",
        "It is 3.5 wide.",
        "The dog is at [1.0, 2., 3., 4.].",
        "Fine.",
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_no_text_no_sentences(text):
    assert split(text) == ()


def test_offsets_count_characters_not_bytes():
    text = "Die Größe é \U0001f600 ist rot. Second one \ud800 is blue."
    assert [text[s.start : s.end] == s.text for s in split(text)] == [True, True]


@pytest.mark.parametrize(
    ("sentence", "rule"),
    [
        ("The cup is at <bbox>[1,2,3,4]</bbox>.", Rule.COORDINATES),
        ("Let me check [10, 20, 30, 40] first.", Rule.COORDINATES),
        ("So the answer is left.", Rule.META),
        ("Therefore, the correct option is B.", Rule.META),
        ("The question asks which circle is bigger.", Rule.META),
        ("Thus, the answer is B, left.", Rule.META),
        ("The answer is clear, since the red circle is above the square.", Rule.VISUAL),  # what it adds to the answer is a claim
        ("Question solved, the cup is red.", Rule.VISUAL),
        ("So the conclusion: the cup is red.", Rule.VISUAL),
        ("Let me look at the red circle.", Rule.PLANNING),
        ("First, I need to find the blue square.", Rule.PLANNING),
        ("To answer this, compare them.", Rule.PLANNING),
        ("Hmm, I'm not sure.", Rule.HEDGING),
        ("It could be either.", Rule.HEDGING),
        ("2 + 1 = 3.", Rule.ARITHMETIC),
        ("That equals 4.", Rule.ARITHMETIC),
        ("The red circle is left of the blue square.", Rule.VISUAL),
        ("I think the red circle is on the left.", Rule.VISUAL),  # a hedged claim is still a claim
        ("Let me note that the red circle is above the square.", Rule.VISUAL),  # so is a planned one
        ("A man holds a dog.", Rule.VISUAL),
        ("It is on the left.", Rule.VISUAL),
        ("It is on the right.", Rule.VISUAL),
        ("The right answer is B.", Rule.META),
        ("This follows.", Rule.NO_VISUAL_WORD),
    ],
)
def test_each_rule(sentence, rule):
    assert classify(sentence) == rule


def test_only_kept_sentences_are_for_the_judge():
    text = "Let me look. The cup is red. So the answer is A."
    assert [s.text for s in non_trivial(text)] == ["The cup is red."]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["so ", "[1,", "[1 ", "[ ", "1 ", "the ", "final ", "<bbox>", "i think ", "'", "\n", "Hello. "])
def test_hostile_repetition_is_split_in_linear_time(piece):
    assert split(piece * 50_000) is not None


def verdicts(*given: Verdict) -> list[SentenceVerdict]:
    return [SentenceVerdict("s", 0, 1, verdict) for verdict in given]


def test_semantic_grounding_leaves_skips_out():
    given = verdicts(Verdict.CORRECT, Verdict.SKIP, Verdict.INCORRECT, Verdict.CORRECT)
    assert semantic_grounding_score(given) == Score(2 / 3)


@pytest.mark.parametrize("given", [[], [Verdict.SKIP, Verdict.SKIP]])
def test_semantic_grounding_with_nothing_to_judge_is_unscored(given):
    assert semantic_grounding_score(verdicts(*given)) == Score(None, Reason.NOTHING_TO_JUDGE)


def test_one_failed_sentence_leaves_the_rollout_unscored():
    assert semantic_grounding_score(verdicts(Verdict.CORRECT, Verdict.UNSCORED)) == Score(None, Reason.JUDGE_ERROR)
