"""Traces that the warm start learns from: clean ones, captions, and those of a teacher whose reasoning is not to be trusted.

The imperfect teacher is what makes reinforcement learning interesting: its reasoning is often false where shapes are near
each other, and then its answer is mostly right all the same. A policy that learnt from it can gain reward by answering
against its own reasoning.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from data_prep.scenes.questions import Sample
from data_prep.scenes.world import SIDE, Scene, Shape
from faithful_rl.judges.scene_language import DIAGONALS, LETTERS, RELATIONS, Claim, Counted, Located, Related, write_claim, write_conclusion
from faithful_rl.types import Box


@dataclass(frozen=True, slots=True)
class Imperfection:
    """Probabilities in [0, 1] of the teacher's faults."""

    near_fact: float = 0.45  # the relation or count is false; shapes one cell apart, or a count above 1
    far_fact: float = 0.06  # the same for all others
    corrected_answer: float = 0.65  # given a false fact: the answer is right all the same, against the reasoning
    location: float = 0.12  # a sentence places a shape in another quarter
    box: float = 0.25  # a box is shifted
    format: float = 0.04  # a tag is missing or something follows the answer


def clean_trace(sample: Sample) -> str:
    """Each relevant shape placed with its box, the fact, the conclusion, the answer: all true."""
    sentences = [write_claim(_located(shape)) for shape in sample.relevant]
    sentences += [write_claim(sample.fact), write_conclusion(sample.options[sample.gold_index])]
    return _response(sentences, sample.letter)


def caption(scene: Scene) -> str:
    """Every shape placed with its box, in reading order: the response to "Describe the image."."""
    return " ".join(write_claim(_located(shape)) for shape in reading_order(scene))


def imperfect_trace(sample: Sample, rng: Random, rates: Imperfection) -> str:
    """A trace with the faults of `rates`, for the learnable question families.

    Raises ValueError for a sample whose fact is neither a relation nor a count.
    """
    sentences = [write_claim(_faulty_location(shape, rng, rates)) for shape in sample.relevant]
    fact, concluded = sample.fact, sample.gold_index
    if rng.random() < (rates.near_fact if _is_near(sample) else rates.far_fact):
        fact, concluded = _false_fact(sample, rng)
    answer = sample.gold_index if rng.random() < rates.corrected_answer else concluded
    sentences += [write_claim(fact), write_conclusion(sample.options[concluded])]
    response = _response(sentences, LETTERS[answer])
    return _broken(response, rng) if rng.random() < rates.format else response


def reading_order(shapes: Scene) -> Scene:
    return tuple(sorted(shapes, key=lambda shape: (shape.row, shape.column)))


def _located(shape: Shape) -> Located:
    return Located(shape.name, shape.quarter, (shape.box,))


def _response(sentences: list[str], letter: str) -> str:
    return f"<think>{' '.join(sentences)}</think><answer>{letter}</answer>"


def _faulty_location(shape: Shape, rng: Random, rates: Imperfection) -> Located:
    quarter, box = shape.quarter, shape.box
    if rng.random() < rates.location:
        quarter = rng.choice([other for other in DIAGONALS if other != quarter])
    if rng.random() < rates.box:
        dx, dy = (rng.choice((-8, -6, -4, 4, 6, 8)) for _ in range(2))
        box = Box(*(min(max(value + shift, 0), SIDE) for value, shift in zip(box.as_list(), (dx, dy, dx, dy), strict=True)))
    return Located(shape.name, quarter, (box,))


def _is_near(sample: Sample) -> bool:
    match sample.fact:
        case Counted(number=number):
            return number > 1
        case Related(relation=relation):
            first, second = sample.relevant
            signs = RELATIONS[relation]
            return 1 in (abs(first.column - second.column) * abs(signs[0]), abs(first.row - second.row) * abs(signs[1]))
    raise ValueError(f"the imperfect teacher knows relations and counts, not {sample.fact!r}")


def _false_fact(sample: Sample, rng: Random) -> tuple[Claim, int]:
    """A false fact of the same kind and the option that follows from it: the nearer axis flipped, or one more or fewer."""
    match sample.fact:
        case Counted(colour, number):
            wrong = {1: 2, 3: 2}.get(number) or rng.choice((1, 3))
            return Counted(colour, wrong), sample.options.index(str(wrong))
        case Related(subject, relation, reference):
            first, second = sample.relevant
            x, y = RELATIONS[relation]
            flip_x = y == 0 or (x != 0 and abs(first.column - second.column) <= abs(first.row - second.row))
            signs = (-x, y) if flip_x else (x, -y)
            wrong_relation = next(name for name, value in RELATIONS.items() if value == signs)
            return Related(subject, wrong_relation, reference), sample.options.index(wrong_relation)
    raise ValueError(f"the imperfect teacher knows relations and counts, not {sample.fact!r}")


def _broken(response: str, rng: Random) -> str:
    match rng.randrange(4):
        case 0:
            return response.replace("</think>", "")
        case 1:
            return response.replace("<answer>", "").replace("</answer>", "")
        case 2:
            return response.removeprefix("<think>")
        case _:
            return response + response[response.index("<answer>") :]
