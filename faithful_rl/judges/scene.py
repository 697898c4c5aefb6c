"""The exact judge of synthetic scenes: both verdicts computed from the known scene, never guessed.

Pure and fast (tens of microseconds a rollout). It understands exactly the sentences of `faithful_rl.judges.scene_language`;
every other sentence is SKIP.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene_language import (
    RELATIONS,
    Between,
    Claim,
    Counted,
    Located,
    Moved,
    Nearest,
    OddOneOut,
    Related,
    contradicts,
    option_index,
    read_conclusion,
    read_question,
    read_sentence,
)
from faithful_rl.judges.scene_world import SceneImage, SceneObject, read_scene
from faithful_rl.rewards.sentences import Sentence, non_trivial, split
from faithful_rl.types import Box, Reason, Score, SentenceVerdict, Verdict

MIN_IOU = 0.5  # a cited box "reasonably bounds" its object from here on, in [0, 1]


class SceneJudge:
    """Consistency and grounding of one rollout about a synthetic scene. Stateless; never raises for what a policy wrote."""

    def consistency(self, request: JudgeRequest) -> Score:
        """R_C: 1.0 when the reasoning's one conclusion names the option that the answer names, else 0.0.

        Inconsistent are also: no conclusion ("So the answer is ..."), one that names no option, two that differ, a conclusion
        that a sentence of the same reasoning about the asked thing rules out, and an answer that names no option. The image
        plays no part. A request without options is unscored, JUDGE_ERROR.
        """
        if not request.options:
            return Score(None, Reason.JUDGE_ERROR)
        texts = [sentence.text for sentence in split(request.reasoning)]
        conclusions = [text for text in map(read_conclusion, texts) if text is not None]
        concluded = {option_index(text, request.options) for text in conclusions}
        if len(concluded) != 1:
            return Score(0.0)
        option = concluded.pop()
        if option is None or option != option_index(request.answer, request.options):
            return Score(0.0)
        question = read_question(request.question)
        if question is not None:
            claims = [read for read in map(read_sentence, texts) if read is not None]
            if any(contradicts(claim, question, request.options[option]) for _, claim in claims):
                return Score(0.0)
        return Score(1.0)

    def grounding(self, request: JudgeRequest) -> list[SentenceVerdict]:
        """One verdict per non-trivial sentence of the reasoning, in order.

        CORRECT: all that the sentence says is true, and each box it cites overlaps its object with IoU >= 0.5.
        INCORRECT: something it says is false. SKIP: not a sentence of the scene language, true but nothing new beside earlier
        correct sentences, or true of one image and false of the other without naming either. A row whose scene cannot be read
        gives UNSCORED for every sentence.
        """
        sentences = non_trivial(request.reasoning)
        try:
            images = read_scene(request.scene_json)
        except ValueError as error:
            return [_verdict(sentence, Verdict.UNSCORED, str(error)) for sentence in sentences]
        known: set[Hashable] = set()
        return [_judge(sentence, images, known) for sentence in sentences]


def _judge(sentence: Sentence, images: Sequence[SceneImage], known: set[Hashable]) -> SentenceVerdict:
    read = read_sentence(sentence.text)
    if read is None:
        return _verdict(sentence, Verdict.SKIP, "not a sentence of the scene language")
    index, claim = read
    if isinstance(claim, Moved):
        fault = _moved_fault(claim, images)
    elif index is not None and index >= len(images):
        fault = f"there is no image {index + 1}"
    else:
        faults = [_fault(claim, image) for image in (images if index is None else images[index : index + 1])]
        fault = next((found for found in faults if found), "")
        if fault and not all(faults):
            return _verdict(sentence, Verdict.SKIP, "true of one image only, and the sentence names none")
    if fault:
        return _verdict(sentence, Verdict.INCORRECT, fault)
    facts = {(index, fact) for fact in _facts(claim)}
    if facts <= known:
        return _verdict(sentence, Verdict.SKIP, "nothing new")
    known |= facts
    return _verdict(sentence, Verdict.CORRECT, "")


def _verdict(sentence: Sentence, verdict: Verdict, why: str) -> SentenceVerdict:
    return SentenceVerdict(sentence.text, sentence.start, sentence.end, verdict, why)


def _facts(claim: Claim) -> Sequence[Hashable]:
    """What a true claim adds, in a form in which restatements are equal ("a is left of b", "b is right of a")."""
    match claim:
        case Located(subject, quarter, boxes):
            return [("quarter", subject)] * (quarter is not None) + [("box", subject)] * bool(boxes)
        case Related(subject, relation, reference):
            first, second = sorted((subject, reference))
            return [(axis, first, second) for axis, sign in zip("xy", RELATIONS[relation], strict=True) if sign]
        case Between(subject, references):
            return [("between", subject, frozenset(references))]
    return [claim]


def _fault(claim: Claim, image: SceneImage) -> str:
    """What is false about a claim in one image; empty when it is true."""
    named = {name: image.find(name) for name in _names(claim)}
    absent = [name for name, thing in named.items() if thing is None]
    if absent:
        return f"there is no {absent[0]}"
    things = {name: thing for name, thing in named.items() if thing is not None}
    match claim:
        case Located(subject):
            return _location_fault(claim, things[subject], image)
        case Related(subject, relation, reference):
            true = _stands(things[subject], relation, things[reference])
            return "" if true else f"the {subject} is not {relation} of the {reference}"
        case Counted(colour, number):
            counted = sum(thing.colour == colour for thing in image.objects)
            return "" if counted == number else f"counted {counted}"
        case Between(subject, (first, second)):
            return "" if _is_between(things[subject], things[first], things[second]) else f"the {subject} is not between them"
        case Nearest(subject, reference):
            return "" if _is_nearest(things[subject], things[reference], image) else f"the {subject} is not nearest"
        case OddOneOut(subject):
            return "" if _is_odd(things[subject], image) else f"the {subject} is not the odd one out"
    raise TypeError(f"no rule for {claim!r}")


def _names(claim: Claim) -> tuple[str, ...]:
    match claim:
        case Located(subject) | OddOneOut(subject) | Moved(subject):
            return (subject,)
        case Related(subject, _, reference) | Nearest(subject, reference):
            return (subject, reference)
        case Between(subject, references):
            return (subject, *references)
    return ()


def _location_fault(claim: Located, thing: SceneObject, image: SceneImage) -> str:
    x, y = thing.centre
    quarter = f"{'upper' if y < image.height / 2 else 'lower'} {'left' if x < image.width / 2 else 'right'}"
    if claim.quarter not in (None, quarter):
        return f"it is in the {quarter}"
    for box in claim.boxes:
        if box is None:
            return "the box is not four numbers"
        overlap = _iou(box, thing.box)
        if overlap < MIN_IOU:
            return f"the box does not bound it (IoU {overlap:.2f})"
    return ""


def _iou(one: Box, other: Box) -> float:
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    if width <= 0 or height <= 0:
        return 0.0
    union = (one.x2 - one.x1) * (one.y2 - one.y1) + (other.x2 - other.x1) * (other.y2 - other.y1) - width * height
    return width * height / union


def _stands(subject: SceneObject, relation: str, reference: SceneObject) -> bool:
    offsets = (subject.centre[0] - reference.centre[0], subject.centre[1] - reference.centre[1])
    return all(sign == 0 or offset * sign > 0 for offset, sign in zip(offsets, RELATIONS[relation], strict=True))


def _is_between(subject: SceneObject, first: SceneObject, second: SceneObject) -> bool:
    for along, across in ((0, 1), (1, 0)):
        in_line = subject.centre[across] == first.centre[across] == second.centre[across]
        if in_line and (subject.centre[along] - first.centre[along]) * (second.centre[along] - subject.centre[along]) > 0:
            return True
    return False


def _is_nearest(subject: SceneObject, reference: SceneObject, image: SceneImage) -> bool:
    others = [thing for thing in image.objects if thing not in (subject, reference)]
    distance = _distance(subject, reference)
    return subject != reference and all(distance < _distance(other, reference) for other in others)


def _distance(one: SceneObject, other: SceneObject) -> float:
    return (one.centre[0] - other.centre[0]) ** 2 + (one.centre[1] - other.centre[1]) ** 2


def _is_odd(subject: SceneObject, image: SceneImage) -> bool:
    others = [thing for thing in image.objects if thing != subject]
    if len(others) < 2:
        return False
    colours, shapes = {thing.colour for thing in others}, {thing.shape for thing in others}
    return (len(colours) == 1 and subject.colour not in colours) or (len(shapes) == 1 and subject.shape not in shapes)


def _moved_fault(claim: Moved, images: Sequence[SceneImage]) -> str:
    if len(images) != 2:
        return "a move takes two images"
    before, after = (image.find(claim.subject) for image in images)
    if before is None or after is None:
        return f"there is no {claim.subject} in both images"
    return "" if before.centre != after.centre else f"the {claim.subject} did not move"
