"""R_acc: does the answer block name the right option? Equality after stripping punctuation and case."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence

from faithful_rl.types import Score

_ASCII_PUNCTUATION = frozenset(string.punctuation)
MAX_OPTIONS = len(string.ascii_lowercase)
# A longer answer is not an answer; the bound keeps the cost of a runaway response constant.
_MAX_ANSWER_CHARACTERS = 2000


def normalise(text: str) -> str:
    """Text for comparison: NFKC (full-width letters become ASCII), case folded, white space collapsed, punctuation stripped
    from both ends of every word. Punctuation inside a word (`3.5`) and a sign before a digit (`-3`) carry meaning and stay.
    Letters of other scripts that merely look Latin stay what they are, so they match nothing."""
    words = (_stripped(word) for word in unicodedata.normalize("NFKC", text).casefold().split())
    return " ".join(word for word in words if word)


def read_options(answer: str, options: Sequence[str]) -> frozenset[int]:
    """Indices of the options that `answer` names; empty when it names none or hedges between several.

    Read, in this order: a single letter (`B`, `(b)`, `B.`); the text of an option; a letter followed by the text of that same
    option (`B. left`). `B or C` is none of these. Options with equal text are named together.
    """
    said = normalise(answer[:_MAX_ANSWER_CHARACTERS])
    if not said or len(answer) > _MAX_ANSWER_CHARACTERS:
        return frozenset()
    texts = [option_text(option, index) for index, option in enumerate(options)]
    letter = letter_index(said)
    if letter is not None:
        return frozenset({letter}) if letter < len(texts) else frozenset()
    named = frozenset(index for index, text in enumerate(texts) if text == said)
    if named:
        return named
    head, _, rest = said.partition(" ")
    letter = letter_index(head)
    if letter is not None and letter < len(texts) and texts[letter] == rest:
        return frozenset({letter})
    return frozenset()


def option_text(option: str, index: int) -> str:
    """An option's normalised text without its own letter: `(B) left`, `B. left` and `left` are all `left` at index 1."""
    text = normalise(option)
    head, _, rest = text.partition(" ")
    if not rest or letter_index(head) != index:
        return text
    # "a circle" at index 0 begins with a word; "A. circle" and "(A) circle" begin with a label, which shows by its punctuation.
    return text if option.split()[0].isalnum() else rest


def letter_index(word: str) -> int | None:
    """0 for `a`, 1 for `b`, ...; None for anything but one normalised ASCII letter."""
    return string.ascii_lowercase.index(word) if len(word) == 1 and word in string.ascii_lowercase else None


def accuracy_score(answer: str | None, ground_truth: str, options: Sequence[str] = (), gold_index: int = -1) -> Score:
    """R_acc in {0, 1}. Never unscored: a missing, empty or unreadable answer is wrong.

    Args:
        answer: content of the answer block, or None.
        ground_truth: gold letter or text; used when the question has no options.
        options: texts of the options in the order of their letters; empty for an open question.
        gold_index: position of the right option, -1 for an open question.
    """
    if answer is None:
        return Score(0.0)
    if options:
        return Score(float(gold_index in read_options(answer, options)))
    said = normalise(answer[:_MAX_ANSWER_CHARACTERS])
    return Score(float(bool(said) and said == normalise(ground_truth)))


def _stripped(word: str) -> str:
    start, end = 0, len(word)
    while end > start and _is_punctuation(word[end - 1]):
        end -= 1
    while start < end and _is_punctuation(word[start]):
        if word[start] in "+-" and start + 1 < end and word[start + 1].isdigit():
            break
        start += 1
    return word[start:end]


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")
