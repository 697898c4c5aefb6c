"""Splitting any text: offsets are true, nothing but white space is lost, boxes stay whole."""

from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.response import box_spans
from faithful_rl.rewards import semantic_grounding_score, split
from faithful_rl.types import SentenceVerdict, Verdict

PIECES = [
    "The cup is red. ",
    "So the answer is A. ",
    "<bbox>[1.5, 2., 3, 4]</bbox>",
    "<bbox>",
    "[1., 2., 3., 4.]",
    "e.g. ",
    "? ",
    "\n\n",
    "é\U0001f600 ",
]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=25).map("".join)


@given(texts)
def test_offsets_are_true_ordered_and_lose_only_white_space(text):
    sentences = split(text)
    position = 0
    for sentence in sentences:
        assert text[sentence.start : sentence.end] == sentence.text
        assert sentence.text == sentence.text.strip() != ""
        assert text[position : sentence.start].strip() == ""
        position = sentence.end
    assert text[position:].strip() == ""


@given(texts)
def test_no_sentence_ends_inside_a_box(text):
    ends = {sentence.end for sentence in split(text)}
    for start, end in box_spans(text):
        assert not any(start < cut < end for cut in ends)


@given(st.lists(st.sampled_from(list(Verdict)), max_size=12))
def test_semantic_grounding_is_a_share_or_unscored(given_verdicts):
    score = semantic_grounding_score([SentenceVerdict("s", 0, 1, verdict) for verdict in given_verdicts])
    judged = [verdict for verdict in given_verdicts if verdict in (Verdict.CORRECT, Verdict.INCORRECT)]
    assert score.scored == (bool(judged) and Verdict.UNSCORED not in given_verdicts)
    if score.value is not None:
        assert score.value == judged.count(Verdict.CORRECT) / len(judged)
