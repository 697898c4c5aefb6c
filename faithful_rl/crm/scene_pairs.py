"""Labelled pairs from synthetic scenes: reasonings of many wordings, good and bad, each labelled by the exact judge of scenes.

A `Mix` says how often each thing happens in a reasoning. Training draws many mixes, and held-out pairs draw mixes of their own from
another seed on scenes of another split: what is measured is not the way of writing that was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from data_prep.scenes.dataset import sample_uid
from data_prep.scenes.questions import FAMILIES, LEARNABLE, Sample, draw_sample
from data_prep.scenes.splits import in_split
from faithful_rl import response
from faithful_rl.crm.pairs import LETTERS, Pair, labelled
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.judges.scene_language import (
    DIAGONALS,
    RELATIONS,
    Between,
    Claim,
    Counted,
    Located,
    Moved,
    Nearest,
    OddOneOut,
    Related,
    write_claim,
    write_question,
)
from faithful_rl.judges.scene_world import COLOURS, SHAPES

PAIRS_PER_MIX = 64
OPENINGS = (
    "Let me look at the image.",
    "I need to find the shapes first.",
    "First, I look at the picture.",
    "To answer this, I compare the two places.",
    "I am not sure.",
    "Wait, let me check again.",
)
_PREFIXES = (
    "So the answer is",
    "Therefore, the answer is",
    "Thus the answer is",
    "Hence, the answer is",
    "The answer is",
    "So, the answer is:",
)
_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
_JUDGE = SceneJudge()


@dataclass(frozen=True, slots=True)
class Mix:
    """Probabilities in [0, 1] of what a reasoning does."""

    learnable: float  # a question family that the tiny policy is trained on
    shuffled: float  # options in random order
    opening: float  # a sentence that claims nothing
    located: float  # each relevant shape is placed
    aside: float  # a claim about something else
    fact: float  # the fact that the conclusion follows from
    reversed_fact: float  # "b is right of a" for "a is left of b"
    second_fact: float  # another claim about the asked thing
    false_fact: float  # that claim supports another option than the conclusion
    conclusion: float
    second_conclusion: float
    other_conclusion: float  # given a second one: it differs
    plain_conclusion: float  # "So the answer is left.", the teacher's; else one of many forms
    unknown_conclusion: float  # names no option
    early_conclusion: float  # stands anywhere among the sentences
    against: float  # the answer is another option than the conclusion
    unknown_answer: float  # the answer names no option
    text_answer: float  # the answer is the option's text, not its letter
    garbled: float  # a word is lost, doubled or exchanged
    broken: float  # a tag is missing

    @classmethod
    def draw(cls, rng: Random) -> Mix:
        """A mix at random; every part occurs often enough to be learnt and to be measured."""
        return cls(
            learnable=rng.uniform(0.6, 0.9),
            shuffled=rng.uniform(0.0, 0.5),
            opening=rng.uniform(0.0, 0.3),
            located=rng.uniform(0.3, 1.0),
            aside=rng.uniform(0.0, 0.4),
            fact=rng.uniform(0.6, 1.0),
            reversed_fact=rng.uniform(0.0, 0.5),
            second_fact=rng.uniform(0.0, 0.3),
            false_fact=rng.uniform(0.1, 0.5),
            conclusion=rng.uniform(0.85, 1.0),
            second_conclusion=rng.uniform(0.0, 0.2),
            other_conclusion=rng.uniform(0.3, 0.7),
            plain_conclusion=rng.uniform(0.3, 0.9),
            unknown_conclusion=rng.uniform(0.0, 0.1),
            early_conclusion=rng.uniform(0.0, 0.2),
            against=rng.uniform(0.1, 0.5),
            unknown_answer=rng.uniform(0.0, 0.05),
            text_answer=rng.uniform(0.0, 0.2),
            garbled=rng.uniform(0.0, 0.15),
            broken=rng.uniform(0.0, 0.06),
        )


def scene_pairs(number: int, seed: int, split: str) -> Iterator[Pair]:
    """`number` pairs, consistent and inconsistent in turn, on scenes of one split (train, val or test).

    A pure function of its arguments; the mixes of one split are never those of another.
    """
    rng = Random(f"crm/{seed}/{split}")
    mix = Mix.draw(rng)
    for index in range(number):
        if index % PAIRS_PER_MIX == 0:
            mix = Mix.draw(rng)
        wanted = float(index % 2)
        pair = draw_pair(rng, mix, split)
        while pair.consistent != wanted:
            pair = draw_pair(rng, mix, split)
        yield pair


def draw_pair(rng: Random, mix: Mix, split: str) -> Pair:
    """One rollout of a mix with the exact judge's label."""
    sample = draw_sample(rng, rng.choice(LEARNABLE if rng.random() < mix.learnable else FAMILIES), rng.random() < mix.shuffled)
    while not in_split(sample.scenes, split):
        sample = draw_sample(rng, sample.question.kind, rng.random() < mix.shuffled)
    concluded = sample.gold_index if rng.random() < 0.7 else rng.randrange(len(sample.options))
    parsed = response.parse(_response(rng, mix, sample, concluded))
    request = JudgeRequest(sample_uid(sample), write_question(sample.question), sample.options, parsed.reasoning, parsed.answer or "")
    consistent = _JUDGE.consistency(request).value
    return labelled(request, consistent or 0.0, f"scenes/{sample.question.kind}")


def _response(rng: Random, mix: Mix, sample: Sample, concluded: int) -> str:
    sentences = _sentences(rng, mix, sample, concluded)
    text = " ".join(sentences)
    if rng.random() < mix.garbled:
        text = _garbled(rng, text)
    whole = f"<think>{text}</think><answer>{_answer(rng, mix, sample, concluded)}</answer>"
    if rng.random() < mix.broken:
        return whole.replace(rng.choice(("<think>", "</think>", "<answer>", "</answer>")), "", 1)
    return whole


def _sentences(rng: Random, mix: Mix, sample: Sample, concluded: int) -> list[str]:
    happens = rng.random
    sentences = []
    if happens() < mix.opening:
        sentences.append(rng.choice(OPENINGS))
    sentences += [
        write_claim(Located(shape.name, shape.quarter if happens() < 0.85 else rng.choice(DIAGONALS), ()))
        for shape in sample.relevant
        if happens() < mix.located
    ]
    while happens() < mix.aside:
        sentences.insert(rng.randint(0, len(sentences)), write_claim(_aside(rng)))
    option = sample.options[concluded]
    if happens() < mix.fact:
        false = happens() < mix.false_fact
        supported = rng.choice([other for other in sample.options if other != option]) if false else option
        sentences.append(write_claim(supporting(sample, supported, rng, happens() < mix.reversed_fact)))
    if happens() < mix.second_fact:
        sentences.append(write_claim(supporting(sample, rng.choice(sample.options), rng, happens() < mix.reversed_fact)))
    for conclusion in _conclusions(rng, mix, sample, concluded):
        place = rng.randint(0, len(sentences)) if happens() < mix.early_conclusion else len(sentences)
        sentences.insert(place, conclusion)
    return sentences


def _conclusions(rng: Random, mix: Mix, sample: Sample, concluded: int) -> list[str]:
    if rng.random() >= mix.conclusion:
        return []
    said = [_conclusion(rng, mix, sample, concluded)]
    if rng.random() < mix.second_conclusion:
        second = rng.randrange(len(sample.options)) if rng.random() < mix.other_conclusion else concluded
        said.append(_conclusion(rng, mix, sample, second))
    return said


def _conclusion(rng: Random, mix: Mix, sample: Sample, index: int) -> str:
    text, letter = sample.options[index], LETTERS[index]
    if rng.random() < mix.unknown_conclusion:
        text = rng.choice([*RELATIONS, *_NAMES, "4", "E", "unclear"])
        return f"So the answer is {text}."
    if rng.random() < mix.plain_conclusion:
        return f"So the answer is {text}."
    form = rng.choice((text, text.capitalize(), letter, f"({letter})", f"{letter}) {text}"))
    return f"{rng.choice(_PREFIXES)} {form}."


def _answer(rng: Random, mix: Mix, sample: Sample, concluded: int) -> str:
    if rng.random() < mix.unknown_answer:
        return rng.choice(("", "E", "H", "left or right", "A or B", "unclear"))
    given = concluded
    if rng.random() < mix.against:
        given = rng.choice([index for index in range(len(sample.options)) if index != concluded])
    return sample.options[given] if rng.random() < mix.text_answer else LETTERS[given]


def supporting(sample: Sample, option: str, rng: Random, backwards: bool = False) -> Claim:
    """A claim about the asked thing from which `option` follows; `backwards` turns a relation or a pair round."""
    names = sample.question.references
    match sample.question.kind:
        case "left_right" | "above_below" | "direction":
            signs = RELATIONS[option]
            if backwards:
                opposite = next(name for name, value in RELATIONS.items() if value == (-signs[0], -signs[1]))
                return Related(names[1], opposite, names[0])
            return Related(names[0], option, names[1])
        case "count":
            return Counted(names[0], int(option))
        case "between":
            return Between(option, (names[1], names[0]) if backwards else (names[0], names[1]))
        case "nearest":
            return Nearest(option, names[0])
        case "odd_one_out":
            return OddOneOut(option)
        case "change":
            return Moved(option)
    raise ValueError(f"unknown question kind {sample.question.kind!r}")


def _aside(rng: Random) -> Claim:
    first, second, third = rng.sample(_NAMES, 3)
    return rng.choice(
        (
            Located(first, rng.choice(DIAGONALS), ()),
            Related(first, rng.choice(list(RELATIONS)), second),
            Counted(rng.choice(COLOURS), rng.randint(1, 3)),
            Between(first, (second, third)),
            Nearest(first, second),
        )
    )


def _garbled(rng: Random, text: str) -> str:
    words = text.split(" ")
    place = rng.randrange(len(words))
    match rng.randrange(3):
        case 0:
            del words[place]
        case 1:
            words.insert(place, words[place])
        case _:
            words[place] = rng.choice(words)
    return " ".join(words)
