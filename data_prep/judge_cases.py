"""Labelled cases for judges: scenes with known truth, reasoning with known corruptions, so every label holds by construction.

python -m data_prep.judge_cases out=FILE.parquet

No label is taken from the exact scene judge; a test compares the two. A consistency label is left out where a reader without the
image could see a contradiction between true and corrupted sentences (a place against a box): then it is open to debate. The
same code gives the same cases; the file inside the package is `faithful_rl/judges/calibration/cases.parquet`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from data_prep.scenes.dataset import sample_uid
from data_prep.scenes.questions import FAMILIES, Sample, draw_sample
from data_prep.scenes.splits import in_split
from data_prep.scenes.world import CELL, GRID, SIDE, Shape, encode_png, render, scene_image
from faithful_rl.judges.calibration.cases import NO, YES, LabelledCase, SentenceLabel, write_cases
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene_language import (
    DIAGONALS,
    LETTERS,
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
    write_conclusion,
    write_question,
)
from faithful_rl.judges.scene_world import COLOURS, SHAPES, write_scene
from faithful_rl.types import Box, Verdict

SEED = "judge cases/1"  # another seed is another labelled set
CLEAN = "clean"
RELATION_KINDS = ("left_right", "above_below", "direction")
_PLANS = ("Let me look at the image first.", "I need to find the shapes.", "First, let me look at every shape.")
_VAGUE = ("hard to tell", "one of them", "not clear from this", "either {0} or {1}", "{0}, or maybe {1}")


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence of the reasoning; `verdict` is None where the trivial filter drops it."""

    text: str
    verdict: Verdict | None = Verdict.CORRECT
    kind: str = CLEAN


@dataclass(frozen=True, slots=True)
class Draft:
    """A case in the making: places, the fact, further lines, conclusions, the answer and the consistency label."""

    sample: Sample
    places: tuple[Line, ...]
    fact: tuple[Line, ...]
    conclusions: tuple[str, ...]
    answer: str
    consistency: str | None = YES
    further: tuple[Line, ...] = ()


Corruption = Callable[[Random, Draft], Draft | None]  # None: the draft's scene does not allow it


def judge_cases() -> tuple[LabelledCase, ...]:
    """The labelled set, in order of kind: a pure function of this code."""
    rng = Random(SEED)
    seen: set[str] = set()
    cases = []
    for kind, (count, families, corrupt) in KINDS.items():
        made = 0
        tries = 0
        while made < count:
            family = families[tries % len(families)]
            tries += 1
            sample = draw_sample(rng, family, shuffle_options=rng.random() < 0.5)
            if sample_uid(sample) in seen or not in_split(sample.scenes, "val"):
                continue
            draft = corrupt(rng, _true_draft(rng, sample))
            if draft is None:
                continue
            seen.add(sample_uid(sample))
            cases.append(_case(rng, f"{kind}-{made:03d}", kind, draft))
            made += 1
    return tuple(cases)


def _case(rng: Random, identity: str, kind: str, draft: Draft) -> LabelledCase:
    plan = (Line(rng.choice(_PLANS), None),) if rng.random() < 0.25 else ()
    conclusions = tuple(Line(text, None) for text in draft.conclusions)
    lines = (*plan, *draft.places, *draft.fact, *draft.further, *conclusions)
    sample = draft.sample
    request = JudgeRequest(
        uid=identity,
        question=write_question(sample.question),
        options=sample.options,
        reasoning=" ".join(line.text for line in lines),
        answer=draft.answer,
        images=tuple(encode_png(render(scene)) for scene in sample.scenes),
        scene_json=write_scene(map(scene_image, sample.scenes)),
        dataset="scenes",
    )
    labels = tuple(SentenceLabel(line.text, line.verdict.name, line.kind) for line in lines if line.verdict is not None)
    return LabelledCase(identity, kind, request, draft.consistency, labels)


def _true_draft(rng: Random, sample: Sample) -> Draft:
    """Every relevant shape placed with its box, the fact, the conclusion, the answer (letter or wording): all true."""
    option, letter = sample.options[sample.gold_index], sample.letter
    answer = rng.choice((letter, letter, f"({letter})", option))
    places = tuple(Line(_placed(sample, shape)) for shape in sample.relevant)
    return Draft(sample, places, (Line(write_claim(sample.fact)),), (write_conclusion(option),), answer)


def _placed(sample: Sample, shape: Shape, quarter: str = "", box: Box | None = None, name: str = "", image: int = 0) -> str:
    text = write_claim(Located(name or shape.name, quarter or shape.quarter, (box or shape.box,)))
    return text if len(sample.scenes) == 1 else f"In the {('first', 'second')[image]} image, the{text.removeprefix('The')}"


def _with_place(rng: Random, draft: Draft, kind: str, rewrite: Callable[[Shape], str | None], consistency: str | None) -> Draft | None:
    """One place sentence written anew, falsely."""
    index = rng.randrange(len(draft.places))
    text = rewrite(draft.sample.relevant[index])
    if text is None:
        return None
    places = list(draft.places)
    places[index] = Line(text, Verdict.INCORRECT, kind)
    return replace(draft, places=tuple(places), consistency=consistency)


def _wrong_name(part: int) -> Corruption:
    """Another colour (part 0) or another shape (part 1), such that no shape of the scene and no question has that name."""

    def corrupt(rng: Random, draft: Draft) -> Draft | None:
        taken = {shape.name for scene in draft.sample.scenes for shape in scene} | set(draft.sample.options)

        def rewrite(shape: Shape) -> str | None:
            names = [f"{word} {shape.shape}" for word in COLOURS] if part == 0 else [f"{shape.colour} {word}" for word in SHAPES]
            free = [name for name in names if name not in taken]
            return _placed(draft.sample, shape, name=rng.choice(free)) if free else None

        # "the green circle is here, the red circle is left": nothing contradicts; a count or an odd one out might
        label = YES if draft.sample.question.kind in RELATION_KINDS else None
        return _with_place(rng, draft, ("wrong_colour", "wrong_shape")[part], rewrite, label)

    return corrupt


def _wrong_side(rng: Random, draft: Draft) -> Draft | None:
    def rewrite(shape: Shape) -> str:
        return _placed(draft.sample, shape, quarter=rng.choice([other for other in DIAGONALS if other != shape.quarter]))

    return _with_place(rng, draft, "wrong_side", rewrite, None)


def _box_displaced(rng: Random, draft: Draft) -> Draft | None:
    def rewrite(shape: Shape) -> str:
        cells = [cell for cell in range(GRID * GRID) if divmod(cell, GRID) != (shape.row, shape.column)]
        row, column = divmod(rng.choice(cells), GRID)
        return _placed(draft.sample, shape, box=replace(shape, row=row, column=column).box)  # in another cell: no overlap

    return _with_place(rng, draft, "box_displaced", rewrite, None)


def _box_oversized(rng: Random, draft: Draft) -> Draft | None:
    def rewrite(shape: Shape) -> str:
        x1, y1 = (CELL * 2 * (value // 2) for value in (shape.column, shape.row))
        whole, quarter = Box(0, 0, SIDE, SIDE), Box(x1, y1, x1 + 2 * CELL, y1 + 2 * CELL)
        return _placed(draft.sample, shape, box=rng.choice((whole, quarter)))  # IoU at most 24^2 / 56^2 = 0.18

    return _with_place(rng, draft, "box_oversized", rewrite, None)


def _bystanders(sample: Sample) -> list[Shape]:
    return [shape for shape in sample.scenes[0] if shape not in sample.relevant]


def _wrong_relation(rng: Random, draft: Draft) -> Draft | None:
    """A false relation of a shape that nothing else in the reasoning mentions."""
    bystanders = _bystanders(draft.sample)
    if not bystanders:
        return None
    subject, reference = rng.choice(bystanders), rng.choice(draft.sample.relevant)
    offset = (subject.column - reference.column, subject.row - reference.row)
    false = [name for name, signs in RELATIONS.items() if any(sign * way <= 0 for sign, way in zip(signs, offset, strict=True) if sign)]
    line = Line(write_claim(Related(subject.name, rng.choice(false), reference.name)), Verdict.INCORRECT, "wrong_relation")
    return replace(draft, further=(line,))


def _wrong_count(rng: Random, draft: Draft) -> Draft | None:
    """More shapes of a colour than there are; never of the colour that the question asks about."""
    colour = rng.choice([colour for colour in COLOURS if colour not in draft.sample.question.references])
    counted = sum(shape.colour == colour for shape in draft.sample.scenes[0])
    line = Line(write_claim(Counted(colour, counted + rng.randint(1, 2))), Verdict.INCORRECT, "wrong_count")
    return replace(draft, further=(line,))


def _absent_object(rng: Random, draft: Draft) -> Draft | None:
    """A shape that is not there, with a box on an empty cell."""
    scene = draft.sample.scenes[0]
    asked = draft.sample.question.references
    free = [(colour, shape) for colour in COLOURS for shape in SHAPES if colour not in asked and all(
        (colour, shape) != (other.colour, other.shape) for other in scene
    )]  # fmt: skip
    empty = [cell for cell in range(GRID * GRID) if all(divmod(cell, GRID) != (shape.row, shape.column) for shape in scene)]
    ghost = Shape(*rng.choice(free), *divmod(rng.choice(empty), GRID), 16)
    return replace(draft, further=(Line(_placed(draft.sample, ghost), Verdict.INCORRECT, "absent_object"),))


def _repeated(rng: Random, draft: Draft) -> Draft | None:
    """A sentence said before, word for word."""
    line = rng.choice((*draft.places, *draft.fact))
    return replace(draft, further=(Line(line.text, Verdict.SKIP, "repeated_claim"),))


def _restated(rng: Random, draft: Draft) -> Draft | None:
    """The fact seen from the other side ("b is right of a" after "a is left of b"), or a place without its box."""
    fact = draft.sample.fact
    if isinstance(fact, Related) and rng.random() < 0.6:
        x, y = RELATIONS[fact.relation]
        inverse = next(name for name, signs in RELATIONS.items() if signs == (-x, -y))
        text = write_claim(Related(fact.reference, inverse, fact.subject))
    else:
        shape = rng.choice(draft.sample.relevant)
        text = write_claim(Located(shape.name, shape.quarter, ()))
    return replace(draft, further=(Line(text, Verdict.SKIP, "restated_claim"),))


def _second_image(false: bool) -> Corruption:
    """Sentences about the second image; a false one says of it what is true of the first only."""

    def corrupt(rng: Random, draft: Draft) -> Draft | None:
        before, after = draft.sample.scenes
        kind = "wrong_image" if false else CLEAN
        shape = before[0] if false else rng.choice(after)  # the first shape is the one that moved
        line = Line(_placed(draft.sample, shape, image=1), Verdict.INCORRECT if false else Verdict.CORRECT, kind)
        return replace(draft, places=(*draft.places, line), consistency=None if false else YES)

    return corrupt


def _other_option(rng: Random, sample: Sample) -> int:
    return rng.choice([index for index in range(len(sample.options)) if index != sample.gold_index])


def _false_fact(sample: Sample, option: int) -> Line:
    """The claim from which a wrong option would follow; exactly one option of a question is right, so it is false."""
    text = sample.options[option]
    claim: Claim
    match sample.fact:
        case Related(subject, _, reference):
            claim = Related(subject, text, reference)
        case Counted(colour, _):
            claim = Counted(colour, int(text))
        case Between(_, references):
            claim = Between(text, references)
        case Nearest(_, reference):
            claim = Nearest(text, reference)
        case OddOneOut():
            claim = OddOneOut(text)
        case Moved():
            claim = Moved(text)
    return Line(write_claim(claim), Verdict.INCORRECT, "false_fact")


def _wrong_but_consistent(rng: Random, draft: Draft) -> Draft | None:
    """A false fact, its conclusion and its answer. Without the places, which would contradict the fact."""
    option = _other_option(rng, draft.sample)
    conclusion = write_conclusion(draft.sample.options[option])
    return replace(draft, places=(), fact=(_false_fact(draft.sample, option),), conclusions=(conclusion,), answer=LETTERS[option])


def _contradicts_answer(false_reasoning: bool) -> Corruption:
    """Reasoning for one option, answer another: true reasoning and wrong answer, or (as a policy learns to) the other way round."""

    def corrupt(rng: Random, draft: Draft) -> Draft | None:
        option = _other_option(rng, draft.sample)
        if not false_reasoning:
            return replace(draft, answer=LETTERS[option], consistency=NO)
        conclusion = write_conclusion(draft.sample.options[option])
        return replace(draft, fact=(_false_fact(draft.sample, option),), conclusions=(conclusion,), consistency=NO)

    return corrupt


def _fact_contradicts_conclusion(rng: Random, draft: Draft) -> Draft | None:
    return replace(draft, fact=(_false_fact(draft.sample, _other_option(rng, draft.sample)),), consistency=NO)


def _inconclusive(vague: bool) -> Corruption:
    """One place and no fact, so that nothing entails the answer; then a conclusion that names no single option, or none at all."""

    def corrupt(rng: Random, draft: Draft) -> Draft | None:
        conclusions = (write_conclusion(rng.choice(_VAGUE).format(*draft.sample.options)),) if vague else ()
        return replace(draft, places=draft.places[:1], fact=(), conclusions=conclusions, consistency=NO)

    return corrupt


def _two_conclusions(rng: Random, draft: Draft) -> Draft | None:
    second = write_conclusion(draft.sample.options[_other_option(rng, draft.sample)])
    return replace(draft, conclusions=(*draft.conclusions, second), consistency=NO)


def _answer_outside_options(rng: Random, draft: Draft) -> Draft | None:
    return replace(draft, answer=rng.choice((LETTERS[len(draft.sample.options)], "none of these", "")), consistency=NO)


_SIMPLE = (*RELATION_KINDS, "count")  # where a bystander's sentence cannot bear on the conclusion
_FIRST_PLACE_TELLS_NOTHING = (*RELATION_KINDS, "between", "nearest")  # it places a shape that the question names
KINDS: dict[str, tuple[int, tuple[str, ...], Corruption]] = {
    "clean": (56, FAMILIES, lambda rng, draft: draft),
    "wrong_colour": (28, FAMILIES, _wrong_name(0)),
    "wrong_shape": (28, FAMILIES, _wrong_name(1)),
    "wrong_side": (28, FAMILIES, _wrong_side),
    "wrong_relation": (28, _SIMPLE, _wrong_relation),
    "wrong_count": (28, _SIMPLE, _wrong_count),
    "absent_object": (28, _SIMPLE, _absent_object),
    "box_displaced": (28, FAMILIES, _box_displaced),
    "box_oversized": (20, FAMILIES, _box_oversized),
    "repeated_claim": (28, FAMILIES, _repeated),
    "restated_claim": (24, (*_SIMPLE, "between", "nearest"), _restated),
    "two_images": (24, ("change",), _second_image(false=False)),
    "wrong_image": (24, ("change",), _second_image(false=True)),
    "wrong_but_consistent": (40, FAMILIES, _wrong_but_consistent),
    "contradicts_answer": (40, FAMILIES, _contradicts_answer(false_reasoning=False)),
    "false_reasoning_right_answer": (32, FAMILIES, _contradicts_answer(false_reasoning=True)),
    "fact_contradicts_conclusion": (32, FAMILIES, _fact_contradicts_conclusion),
    "vague_conclusion": (28, _FIRST_PLACE_TELLS_NOTHING, _inconclusive(vague=True)),
    "no_conclusion": (28, _FIRST_PLACE_TELLS_NOTHING, _inconclusive(vague=False)),
    "two_conclusions": (20, FAMILIES, _two_conclusions),
    "answer_outside_options": (8, FAMILIES, _answer_outside_options),
}


def main(arguments: list[str] | None = None) -> int:
    """Write the labelled set; returns the exit code: 0 done, 2 usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or not arguments[0].startswith("out=") or not arguments[0].endswith(".parquet"):
        print(f"expected out=FILE.parquet, found {arguments}\n{__doc__}", file=sys.stderr)
        return 2
    path = Path(arguments[0].removeprefix("out="))
    cases = judge_cases()
    write_cases(cases, path)
    print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
