"""A scripted teacher for synthetic scenes: it knows the scene and errs at known rates.

Its chains have the form that the tiny model and the exact judge read: each relevant shape placed with its box, the fact, the
conclusion with the answer. A false fact leads to the wrong answer, so that a search has something to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from data_prep.mcts.step import Step
from data_prep.mcts.teacher import Reply
from data_prep.prompts import letter
from data_prep.record import Record
from faithful_rl.config import ConfigError
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
    Question,
    Related,
    read_question,
    write_claim,
    write_conclusion,
)
from faithful_rl.judges.scene_world import SceneImage, SceneObject, read_scene

CHARACTERS_PER_TOKEN = 4
PROMPT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class SceneErrors:
    """Probabilities in [0, 1]."""

    fact: float = 0.45  # the fact is false, and the answer follows it
    quarter: float = 0.1  # a shape is placed in another quarter of the image

    def __post_init__(self) -> None:
        for name in ("fact", "quarter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "a probability in [0, 1]", f"Change {name}.")


class SceneTeacher:
    """Steps about the scenes of `data_prep.scenes`; the same seed gives the same step.

    Records need `metadata["scene_json"]`. Raises ConfigError for a record that is not about a scene.
    """

    def __init__(self, errors: SceneErrors | None = None) -> None:
        self.errors = errors or SceneErrors()

    async def next_step(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        scene = _Scene.read(record)
        return self._reply((self._step(scene, record, steps, Random(f"step/{seed}")),))

    async def rest(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        scene, rng = _Scene.read(record), Random(f"rest/{seed}")
        written: list[Step] = []
        while not written or written[-1].answer is None:
            written.append(self._step(scene, record, (*steps, *written), rng))
        return self._reply(tuple(written))

    def step_tokens(self, record: Record, steps: Sequence[Step]) -> int:
        return PROMPT_TOKENS + 60 * (len(record.boxes) + 2)

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to end."""

    def _reply(self, steps: tuple[Step, ...]) -> Reply:
        return Reply(steps, PROMPT_TOKENS + sum(len(step.text) for step in steps) // CHARACTERS_PER_TOKEN)

    def _step(self, scene: _Scene, record: Record, steps: Sequence[Step], rng: Random) -> Step:
        placed = len(steps)
        if placed < len(scene.relevant):
            return self._placed(scene.relevant[placed], scene.image, rng)
        if placed == len(scene.relevant):
            option = record.gold_index
            if rng.random() < self.errors.fact:
                option = rng.choice([index for index in range(len(record.options)) if index != record.gold_index])
            return Step(write_claim(_fact(scene.question, record.options[option])))
        option = _said(scene.question, record, steps)
        return Step(write_conclusion(record.options[option]), answer=letter(option))

    def _placed(self, shape: SceneObject, image: SceneImage, rng: Random) -> Step:
        x, y = shape.centre
        quarter = f"{'upper' if y < image.height / 2 else 'lower'} {'left' if x < image.width / 2 else 'right'}"
        if rng.random() < self.errors.quarter:
            quarter = rng.choice([other for other in DIAGONALS if other != quarter])
        box = shape.box
        return Step(write_claim(Located(shape.name, quarter, ())), (box.x1, box.y1, box.x2, box.y2))


@dataclass(frozen=True, slots=True)
class _Scene:
    question: Question
    image: SceneImage
    relevant: tuple[SceneObject, ...]

    @classmethod
    def read(cls, record: Record) -> _Scene:
        question = read_question(record.question)
        try:
            image = read_scene(str(record.metadata.get("scene_json", "")))[0]
        except ValueError as error:
            raise _no_scene(record) from error
        relevant = [image.find(label) for label in record.box_labels]
        if question is None or not record.options or None in relevant:
            raise _no_scene(record)
        return cls(question, image, tuple(shape for shape in relevant if shape is not None))


def _no_scene(record: Record) -> ConfigError:
    return ConfigError(
        "teacher",
        f"scene, with the question {record.uid} that is not about a scene",
        "data of `python -m data_prep scenes`",
        "Set teacher=chat.",
    )


def _fact(question: Question, option: str) -> Claim:
    """The claim that `option` follows from."""
    names = question.references
    match question.kind:
        case "left_right" | "above_below" | "direction" if option in RELATIONS:
            return Related(names[0], option, names[1])
        case "count":
            return Counted(names[0], int(option))
        case "between":
            return Between(option, (names[0], names[1]))
        case "nearest":
            return Nearest(option, names[0])
        case "odd_one_out":
            return OddOneOut(option)
        case "change":
            return Moved(option)
    raise ValueError(f"no fact for option {option!r} of a question of kind {question.kind!r}")


def _said(question: Question, record: Record, steps: Sequence[Step]) -> int:
    """The option that the latest fact among the steps leads to; the gold one where none was said."""
    facts = {write_claim(_fact(question, option)): index for index, option in enumerate(record.options)}
    return next((facts[step.text] for step in reversed(steps) if step.text in facts), record.gold_index)
