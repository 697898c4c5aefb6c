"""The small language of synthetic scenes: questions and sentences, written and read by the same module.

Writers and readers share one file so that what the generator and the teacher write and what the judge understands
cannot drift apart. Readers accept exactly these forms; anything else is None, so that nobody guesses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from faithful_rl.judges.scene_world import COLOURS, SHAPES
from faithful_rl.response import parse_box
from faithful_rl.types import Box

# Relation -> sign of (x, y) of the subject minus the reference; y grows downwards.
RELATIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
    "upper left": (-1, -1),
    "upper right": (1, -1),
    "lower left": (-1, 1),
    "lower right": (1, 1),
}
DIAGONALS = ("upper left", "upper right", "lower left", "lower right")
LETTERS = "ABCDEFGH"


@dataclass(frozen=True, slots=True)
class Located:
    """`subject` is in a quarter of the image (None: not said), bounded by each of `boxes` (None: not a box)."""

    subject: str
    quarter: str | None
    boxes: tuple[Box | None, ...]


@dataclass(frozen=True, slots=True)
class Related:
    """`subject` stands in `relation` (a key of RELATIONS) to `reference`."""

    subject: str
    relation: str
    reference: str


@dataclass(frozen=True, slots=True)
class Counted:
    """The image holds exactly `number` shapes of `colour`."""

    colour: str
    number: int


@dataclass(frozen=True, slots=True)
class Between:
    """`subject` is between the two `references`, in one row or column with them."""

    subject: str
    references: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Nearest:
    """`subject` is nearer to `reference` than any other shape."""

    subject: str
    reference: str


@dataclass(frozen=True, slots=True)
class OddOneOut:
    """`subject` alone differs in colour, or alone differs in shape, from all others."""

    subject: str


@dataclass(frozen=True, slots=True)
class Moved:
    """`subject` is at another place in the second image."""

    subject: str


Claim = Located | Related | Counted | Between | Nearest | OddOneOut | Moved


@dataclass(frozen=True, slots=True)
class Question:
    """A question read back from its text; `references` are the names it mentions, in order."""

    kind: str
    references: tuple[str, ...]


_NAME = f"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
_COLOUR = "|".join(COLOURS)
_BOXES = r"((?: ?<bbox>(?:(?!</?bbox>).)*</bbox>)*)"
_IN_IMAGE = r"(?:In the (first|second) image,? )?"
_LOCATED = re.compile(rf"{_IN_IMAGE}[Tt]he ({_NAME}) is (?:in the ({'|'.join(DIAGONALS)})|at)(?: at)?{_BOXES}\.?", re.DOTALL)
_DIAGONAL = "|".join(DIAGONALS)
_RELATED = re.compile(rf"{_IN_IMAGE}[Tt]he ({_NAME}) is (?:(left|right) of|(above|below)|to the ({_DIAGONAL}) of) the ({_NAME})\.?")
_COUNTED = re.compile(rf"{_IN_IMAGE}[Tt]here (?:is|are) ([0-9]{{1,3}}) ({_COLOUR}) shapes?\.?")
_BETWEEN = re.compile(rf"{_IN_IMAGE}[Tt]he ({_NAME}) is between the ({_NAME}) and the ({_NAME})\.?")
_NEAREST = re.compile(rf"{_IN_IMAGE}[Tt]he ({_NAME}) is nearest to the ({_NAME})\.?")
_ODD = re.compile(rf"{_IN_IMAGE}[Tt]he ({_NAME}) is the odd one out\.?")
_MOVED = re.compile(rf"[Tt]he ({_NAME}) moved\.?")
_CONCLUSION = re.compile(r"\s*(?:So|so|Therefore,?|Thus,?|Hence,?)?,? ?[Tt]he answer is:? (.*?)[.!]?\s*", re.DOTALL)
_BOX_CONTENT = re.compile(r"<bbox>(.*?)</bbox>", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Ha-h])[).]?")

_QUESTIONS = (
    ("left_right", re.compile(rf"Is the ({_NAME}) left or right of the ({_NAME})\?")),
    ("above_below", re.compile(rf"Is the ({_NAME}) above or below the ({_NAME})\?")),
    ("direction", re.compile(rf"Where is the ({_NAME}) from the ({_NAME})\?")),
    ("count", re.compile(rf"How many ({_COLOUR}) shapes are there\?")),
    ("between", re.compile(rf"Which shape is between the ({_NAME}) and the ({_NAME})\?")),
    ("nearest", re.compile(rf"Which shape is nearest to the ({_NAME})\?")),
    ("odd_one_out", re.compile(r"Which shape is the odd one out\?")),
    ("change", re.compile(r"Which shape moved from the first to the second image\?")),
)


def write_box(box: Box) -> str:
    """`<bbox>[x1,y1,x2,y2]</bbox>` in whole pixels."""
    return "<bbox>[" + ",".join(f"{value:.0f}" for value in box.as_list()) + "]</bbox>"


def write_claim(claim: Claim) -> str:
    """The sentence, with its full stop, that `read_sentence` reads back as `claim` (boxes in whole pixels)."""
    match claim:
        case Located(subject, quarter, boxes):
            place = "at" if quarter is None else f"in the {quarter}"
            return f"The {subject} is {place}" + "".join(" " + write_box(box) for box in boxes if box is not None) + "."
        case Related(subject, relation, reference):
            phrases = {"above": "above", "below": "below", "left": "left of", "right": "right of"}
            return f"The {subject} is {phrases.get(relation, f'to the {relation} of')} the {reference}."
        case Counted(colour, number):
            return f"There is 1 {colour} shape." if number == 1 else f"There are {number} {colour} shapes."
        case Between(subject, (first, second)):
            return f"The {subject} is between the {first} and the {second}."
        case Nearest(subject, reference):
            return f"The {subject} is nearest to the {reference}."
        case OddOneOut(subject):
            return f"The {subject} is the odd one out."
        case Moved(subject):
            return f"The {subject} moved."


def write_conclusion(option: str) -> str:
    return f"So the answer is {option}."


def write_question(question: Question) -> str:
    """The text that `read_question` reads back as `question`."""
    names = question.references
    match question.kind:
        case "left_right":
            return f"Is the {names[0]} left or right of the {names[1]}?"
        case "above_below":
            return f"Is the {names[0]} above or below the {names[1]}?"
        case "direction":
            return f"Where is the {names[0]} from the {names[1]}?"
        case "count":
            return f"How many {names[0]} shapes are there?"
        case "between":
            return f"Which shape is between the {names[0]} and the {names[1]}?"
        case "nearest":
            return f"Which shape is nearest to the {names[0]}?"
        case "odd_one_out":
            return "Which shape is the odd one out?"
        case "change":
            return "Which shape moved from the first to the second image?"
    raise ValueError(f"unknown question kind {question.kind!r}, expected one of {[kind for kind, _ in _QUESTIONS]}")


def read_question(text: str) -> Question | None:
    text = text.strip()
    for kind, pattern in _QUESTIONS:
        if match := pattern.fullmatch(text):
            return Question(kind, match.groups())
    return None


def read_sentence(text: str) -> tuple[int | None, Claim] | None:
    """The claim of one sentence and the image it names (0 or 1, None when it names none), or None for any other text."""
    text = " ".join(text.split())
    claim: Claim
    if match := _LOCATED.fullmatch(text):
        boxes = _read_boxes(match[4])
        if match[3] is None and not boxes:
            return None
        claim = Located(match[2], match[3], boxes)
    elif match := _RELATED.fullmatch(text):
        claim = Related(match[2], match[3] or match[4] or match[5], match[6])
    elif match := _COUNTED.fullmatch(text):
        claim = Counted(match[3], int(match[2]))
    elif match := _BETWEEN.fullmatch(text):
        claim = Between(match[2], (match[3], match[4]))
    elif match := _NEAREST.fullmatch(text):
        claim = Nearest(match[2], match[3])
    elif match := _ODD.fullmatch(text):
        claim = OddOneOut(match[2])
    elif match := _MOVED.fullmatch(text):
        return None, Moved(match[1])
    else:
        return None
    return (None if match[1] is None else ("first", "second").index(match[1])), claim


def read_conclusion(sentence: str) -> str | None:
    """What follows "(So) the answer is" in a sentence, or None when the sentence is no conclusion."""
    match = _CONCLUSION.fullmatch(sentence)
    return match[1].strip() if match else None


def option_index(text: str, options: Sequence[str]) -> int | None:
    """Which option a text names, by its wording or its letter ("left", "A", "(A)", "A) left"); None for none of them."""
    text = " ".join(text.split()).strip(" .!").casefold()
    wordings = [option.strip().casefold() for option in options]
    if text in wordings:
        return wordings.index(text)
    letter, _, rest = text.partition(" ")
    match = _LETTER.fullmatch(letter)
    if match is None:
        return None
    index = LETTERS.index(match[1].upper())
    if index >= len(options) or (rest and rest != wordings[index]):
        return None
    return index


def contradicts(claim: Claim, question: Question, option: str) -> bool:
    """Whether a claim of the reasoning rules out `option` as the answer to `question`. Claims about other things never do."""
    match claim:
        case Related(subject, relation, reference) if question.kind in ("left_right", "above_below", "direction") and option in RELATIONS:
            if {subject, reference} != set(question.references):
                return False
            sign = 1 if subject == question.references[0] else -1
            return any(sign * said * asked < 0 for said, asked in zip(RELATIONS[relation], RELATIONS[option], strict=True))
        case Counted(colour, number) if question.kind == "count":
            return colour == question.references[0] and str(number) != option
        case Between(subject, references) if question.kind == "between":
            return set(references) == set(question.references) and subject != option
        case Nearest(subject, reference) if question.kind == "nearest":
            return reference == question.references[0] and subject != option
        case OddOneOut(subject) if question.kind == "odd_one_out":
            return subject != option
        case Moved(subject) if question.kind == "change":
            return subject != option
    return False


def _read_boxes(text: str) -> tuple[Box | None, ...]:
    return tuple(parse_box(content) for content in _BOX_CONTENT.findall(text))
