"""Which answer does a response give? Read by rule, strictly: what names no option, or several, is unparsed and never a guess.

The first of these places that a response has is read, and no other:
1. the content of its last complete answer block (`<answer>B</answer>`);
2. the content of its last `\\boxed{...}`;
3. what follows its last "answer is", "Answer:" or "final answer" on the same line;
4. the whole response, when it is one line of at most 200 characters.
The training reward reads answer blocks only; the other places are for other tools' predictions and for models without tags.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from faithful_rl.response import parse
from faithful_rl.rewards.accuracy import letter_index, normalise, option_text, read_options

TAG, BOXED, PHRASE, WHOLE, NOWHERE = "answer_tag", "boxed", "phrase", "whole", "nowhere"
PLACES = (TAG, BOXED, PHRASE, WHOLE, NOWHERE)

_TAIL = 4000  # characters at the end that are searched for a box or a phrase
_LINE = 400  # characters behind a phrase that are read
_WHOLE_CHARACTERS = 200
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}\n]|\{[^{}\n]{0,200}\}){0,400})\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}")
_PHRASE = re.compile(r"\banswer\b(?:\s+(?:to the question|here))?\**\s*(?:is\b|:|=)\s*:?", re.IGNORECASE)
_LEAD = re.compile(
    r"^(?:(?:so|thus|therefore|hence)\b[\s,:]*)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)*"
    r"(?:(?:answer|option|choice)\b\s*(?:is\b|:|=)?\s*:?\s*)+",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^\W{0,4}([A-Za-z])\s?[).:\]]+\**\s*(.*)$", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]\s")


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a response answers.

    `text` is the piece of the response that was read, None where there is none. `choices` are the options that it names: one, or
    several with equal text; empty for an open question and where nothing was read. `start` is where the piece begins in the response.
    """

    text: str | None
    choices: frozenset[int]
    parsed: bool
    place: str
    start: int = 0

    @property
    def choice(self) -> int:
        """The first option named, -1 without one."""
        return min(self.choices, default=-1)


def extract(response: str, options: Sequence[str]) -> Extracted:
    """The answer of a response to a question with these options; none of them for an open question."""
    text, place, start = _find(response)
    if text is None:
        return Extracted(None, frozenset(), False, NOWHERE, len(response))
    if not options:
        said = _first_sentence(text) if place == PHRASE else text
        return Extracted(said.strip(), frozenset(), bool(normalise(said)), place, start)
    choices = read_choice(text, options)
    if not choices and place == PHRASE:
        choices = read_choice(_first_sentence(text), options)
    return Extracted(text.strip(), choices, bool(choices), place, start)


def read_choice(answer: str, options: Sequence[str]) -> frozenset[int]:
    """The options that an answer names: as the training reward reads it, else with a lead ("The answer is B") taken off, else by a
    label with its punctuation ("B. It is on the left"), unless what follows the label is another option's text or label."""
    for candidate in (answer, _LEAD.sub("", answer.strip(), count=1)):
        named = read_options(candidate, options)
        if named:
            return named
    labelled = _LABEL.match(_LEAD.sub("", answer.strip(), count=1))
    if labelled is None:
        return frozenset()
    index = letter_index(labelled[1].casefold())
    if index is None or index >= len(options):
        return frozenset()
    rest = normalise(labelled[2])
    others = {option_text(option, other) for other, option in enumerate(options) if other != index}
    if rest in others or _names_another_label(labelled[2], index, len(options)):
        return frozenset()
    return frozenset({index})


def is_right(found: Extracted, gold_text: str, gold_index: int, options: Sequence[str]) -> bool:
    """Whether the answer equals the truth: the gold option is named, or the open answer is the same text without punctuation and case."""
    if not found.parsed:
        return False
    if options:
        return gold_index in found.choices
    return normalise(found.text or "") == normalise(gold_text)


def _find(response: str) -> tuple[str | None, str, int]:
    """(piece, place, where it begins)."""
    tagged = parse(response).answer
    if tagged is not None:
        return tagged, TAG, max(response.rfind("<answer>"), 0)
    offset = max(0, len(response) - _TAIL)
    tail = response[offset:]
    boxed = list(_BOXED.finditer(tail))
    if boxed:
        return _LATEX_TEXT.sub(r"\1", boxed[-1][1]), BOXED, offset + boxed[-1].start()
    for match in reversed(list(_PHRASE.finditer(tail))):
        line = tail[match.end() : match.end() + _LINE].split("\n", 1)[0]
        if line.strip(" *:."):
            return line.strip(), PHRASE, offset + match.start()
    stripped = response.strip()
    if stripped and "\n" not in stripped and len(stripped) <= _WHOLE_CHARACTERS and "<" not in stripped:
        return stripped, WHOLE, 0
    return None, NOWHERE, len(response)


def _first_sentence(text: str) -> str:
    end = _SENTENCE_END.search(text)
    return text if end is None else text[: end.start()]


def _names_another_label(text: str, index: int, count: int) -> bool:
    labels = {letter_index(found.casefold()) for found in re.findall(r"(?:^|[\s(])([A-Z])(?=[).:,\s]|$)", text)}
    # A capital "A" or "I" inside a sentence is a word.
    labels -= {index, None, 0, 8}
    return any(label is not None and label < count for label in labels)
