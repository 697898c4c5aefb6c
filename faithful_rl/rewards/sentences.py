"""Reasoning as sentences with character offsets, the rule filter for trivial ones, and R_S.

Splitting is `sentencex`'s (rule based, rust, microseconds). Box tags and coordinate lists are hidden from it, so that
`<bbox>[14.5, 14.0, 28.25, 28.]</bbox>` never ends a sentence.

A sentence is worth judging when it can be checked against the image: it cites coordinates, or it uses a visual word and is
neither about the question and its answer, nor a plan, nor a shrug, nor arithmetic. Hedged *claims* ("I think the red circle is
on the left") are kept: otherwise "I think" would be a way around the judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sentencex import get_sentence_boundaries  # type: ignore[import-untyped]

from faithful_rl.response import box_spans
from faithful_rl.rewards.vocabulary import ASSERTIONS, VISUAL_WORDS
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict


class Rule(StrEnum):
    """Why a sentence is kept for the judge (first two) or dropped as trivial, checked in this order."""

    COORDINATES = "coordinates"  # kept: cites a box
    META = "meta"  # speaks of the question, the options or the final answer
    PLANNING = "planning"  # says what will be done; asserts nothing visual
    HEDGING = "hedging"  # says how sure the writer is; asserts nothing visual
    ARITHMETIC = "arithmetic"  # numbers and operators without a visual word
    VISUAL = "visual"  # kept: uses a visual word
    NO_VISUAL_WORD = "no_visual_word"


KEPT = frozenset({Rule.COORDINATES, Rule.VISUAL})


@dataclass(frozen=True, slots=True)
class Sentence:
    """`text == reasoning[start:end]`, without white space at its ends, and the rule that kept or dropped it."""

    text: str
    start: int
    end: int
    rule: Rule

    @property
    def trivial(self) -> bool:
        return self.rule not in KEPT


_COORDINATES = re.compile(r"<bbox>|\[\s*-?[0-9.]+\s*(?:,\s*-?[0-9.]+\s*){3}\]")
_NUMBER_LIST = re.compile(r"\[[0-9.,+\-\s]{1,160}\]")
_META = re.compile(
    r"(?:(?:so|thus|therefore|hence|then|overall|finally|in conclusion|this means(?: that)?|which means(?: that)?)\b[\s,:]*)*"
    r"(?:(?:the|my|our|its?)\s+)?(?:(?:final|correct|right|best)\s+)*"
    r"(?:answer|question|options?|choices?|problem|task|conclusion)\b"
)
# "The answer is clear, since the cup is red" speaks of the answer and makes a claim: what follows the first clause is looked at alone.
_CLAUSE_END = re.compile(r"[,;:\u2013\u2014]|\b(?:since|because|as|given|hence|therefore)\b")
_PLANNING = re.compile(
    r"(?:(?:ok(?:ay)?|first(?:ly)?|second(?:ly)?|next|then|now|to begin(?: with)?|to start|finally|so)\b[\s,:]*)*"
    r"(?:let me|let us|let['\u2019]s|i (?:need|have|want|must|should|will|am going) |i['\u2019]ll |i['\u2019]m going |"
    r"we (?:need|have|must|should|can|will) |we['\u2019]ll |"
    r"to (?:answer|solve|determine|find|decide|figure|see)\b|looking at|my (?:plan|approach|first step)\b)"
)
_HEDGING = re.compile(
    r"\b(?:not (?:entirely |completely |quite )?(?:sure|certain|clear)|unsure|uncertain|"
    r"(?:hard|difficult) to (?:say|tell)|i (?:think|guess|believe|suppose)|maybe|perhaps|"
    r"possibly|probably|hmm+|wait|might be|could be|may be|seems? (?:right|wrong|fine|plausible))\b"
)
_OPERATION = re.compile(
    r"[0-9]\s*[+\-*/\u00d7\u00f7=<>]\s*[0-9]|=\s*-?[0-9]|\b(?:plus|minus|times|divided by|equals|sum|subtract\w*|add(?:s|ed|ing)?)\b"
)
_WORD = re.compile(r"[a-z]+")


def split(reasoning: str) -> tuple[Sentence, ...]:
    """Sentences in order, without overlap; white space between them belongs to none. Empty text has none."""
    sentences = []
    for boundary in get_sentence_boundaries("en", _without_coordinates(reasoning)):
        start, end = boundary["start_index"], boundary["end_index"]
        text = reasoning[start:end]
        start += len(text) - len(text.lstrip())
        text = text.strip()
        if text:
            sentences.append(Sentence(text, start, start + len(text), classify(text)))
    return tuple(sentences)


def classify(sentence: str) -> Rule:
    """The first rule that decides about one sentence; see `Rule` for their order."""
    if _COORDINATES.search(sentence):
        return Rule.COORDINATES
    lowered = sentence.lower().lstrip(" \t\r\n-*\u2022>#\"'(")
    visual, claims = _looks_at(lowered)
    if _META.match(lowered) and not _claims_later(lowered):
        return Rule.META
    if not claims and _PLANNING.match(lowered):
        return Rule.PLANNING
    if not claims and _HEDGING.search(lowered):
        return Rule.HEDGING
    if visual:
        return Rule.VISUAL
    return Rule.ARITHMETIC if _OPERATION.search(lowered) else Rule.NO_VISUAL_WORD


def non_trivial(reasoning: str) -> tuple[Sentence, ...]:
    """The sentences that a grounding judge is asked about."""
    return tuple(sentence for sentence in split(reasoning) if not sentence.trivial)


def semantic_grounding_score(verdicts: Sequence[SentenceVerdict]) -> Score:
    """R_S = correct / (correct + incorrect), in [0, 1]; SKIP counts on neither side.

    No verdict on either side: unscored, NOTHING_TO_JUDGE. Any sentence whose judge failed (UNSCORED): the whole rollout is
    unscored, JUDGE_ERROR, because the sentences that make a judge fail are not a random sample.
    """
    given = [verdict.verdict for verdict in verdicts]
    if Verdict.UNSCORED in given:
        return Score(None, Reason.JUDGE_ERROR)
    correct, incorrect = given.count(Verdict.CORRECT), given.count(Verdict.INCORRECT)
    if correct + incorrect == 0:
        return Score(None, Reason.NOTHING_TO_JUDGE)
    return Score(correct / (correct + incorrect))


def _looks_at(text: str) -> tuple[bool, bool]:
    """Whether lower-case text uses a visual word, and whether it asserts something of what it names."""
    words = _WORD.findall(text)
    visual = any(word in VISUAL_WORDS for word in words)
    return visual, visual and any(word in ASSERTIONS for word in words)


def _claims_later(sentence: str) -> bool:
    """Whether a clause after the one that speaks of question or answer makes a claim of its own."""
    opening = _META.match(sentence)
    clauses = _CLAUSE_END.split(sentence[opening.end() :] if opening else sentence)
    return any(_looks_at(clause)[1] for clause in clauses[1:])


def _without_coordinates(text: str) -> str:
    """Same length, with box tags and number lists replaced by one capitalised word, and what UTF-8 cannot carry by a letter."""
    if "<bbox>" in text:
        pieces, position = [], 0
        for start, end in box_spans(text):
            pieces += [text[position:start], _placeholder(end - start)]
            position = end
        text = "".join([*pieces, text[position:]])
    if "[" in text:
        text = _NUMBER_LIST.sub(lambda match: _placeholder(len(match[0])), text)
    return text if text.isascii() else re.sub(r"[\ud800-\udfff]", "x", text)


def _placeholder(length: int) -> str:
    return "X" + "x" * (length - 1)
