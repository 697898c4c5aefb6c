"""Question families over scenes. Each draws a scene that has exactly one right answer, with answers balanced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from data_prep.scenes.world import GRID, Scene, Shape, random_scene
from faithful_rl.judges.scene_language import (
    DIAGONALS,
    LETTERS,
    RELATIONS,
    Between,
    Claim,
    Counted,
    Moved,
    Nearest,
    OddOneOut,
    Question,
    Related,
)
from faithful_rl.judges.scene_world import COLOURS, SHAPES

LEARNABLE = ("left_right", "above_below", "direction", "count")  # a model of about a million parameters learns these
HARDER = ("between", "nearest", "odd_one_out", "change")
FAMILIES = LEARNABLE + HARDER


@dataclass(frozen=True, slots=True)
class Sample:
    """A question about one scene, or two for `change`. `relevant` are the shapes that a full reasoning places (in the first
    image), `fact` is the true claim that the answer follows from."""

    question: Question
    scenes: tuple[Scene, ...]
    options: tuple[str, ...]
    gold_index: int
    relevant: tuple[Shape, ...]
    fact: Claim

    @property
    def letter(self) -> str:
        return LETTERS[self.gold_index]


def draw_sample(rng: Random, family: str, shuffle_options: bool = False) -> Sample:
    """One sample of a family, a pure function of the state of `rng`.

    `shuffle_options` puts the options in random order, so that letters carry no meaning of their own.
    Raises ValueError for an unknown family.
    """
    if family not in _FAMILIES:
        raise ValueError(f"unknown question family {family!r}, expected one of {list(FAMILIES)}")
    sample = None
    while sample is None:  # rejection: each try succeeds with a probability of at least a few percent
        sample = _FAMILIES[family](rng)
    if not shuffle_options:
        return sample
    order = list(range(len(sample.options)))
    rng.shuffle(order)
    options = tuple(sample.options[index] for index in order)
    return Sample(sample.question, sample.scenes, options, order.index(sample.gold_index), sample.relevant, sample.fact)


def _relation(kind: str, options: tuple[str, ...]) -> Callable[[Random], Sample | None]:
    def draw(rng: Random) -> Sample:
        gold = rng.randrange(len(options))  # drawn once, before the rejection: every answer is as frequent
        scene = random_scene(rng)
        while relation_of(scene[0], scene[1], kind) != options[gold]:
            scene = random_scene(rng)
        first, second = scene[0], scene[1]
        fact = Related(first.name, options[gold], second.name)
        return Sample(Question(kind, (first.name, second.name)), (scene,), options, gold, (first, second), fact)

    return draw


def relation_of(first: Shape, second: Shape, kind: str) -> str | None:
    """How `first` lies from `second` in the wording of a question kind, None where the kind does not tell."""
    sign = (_sign(first.column - second.column), _sign(first.row - second.row))
    if kind == "left_right":
        sign = (sign[0], 0)
    elif kind == "above_below":
        sign = (0, sign[1])
    elif 0 in sign:
        return None
    return next((name for name, signs in RELATIONS.items() if signs == sign), None)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _count(rng: Random) -> Sample:
    number = rng.randint(1, 3)
    colour = rng.choice(COLOURS)
    others = [(other, shape) for other in COLOURS if other != colour for shape in SHAPES]
    names = [(colour, shape) for shape in rng.sample(SHAPES, number)]
    names += rng.sample(others, rng.randint(max(2, number), 4) - number)
    scene = tuple(
        Shape(*name, place.row, place.column, place.size) for name, place in zip(names, random_scene(rng, len(names)), strict=True)
    )
    relevant = scene[:number]
    return Sample(Question("count", (colour,)), (scene,), ("1", "2", "3"), number - 1, relevant, Counted(colour, number))


def _between(rng: Random) -> Sample | None:
    scene = random_scene(rng, 4)
    line = rng.randrange(GRID)
    positions = sorted(rng.sample(range(GRID), 3))
    horizontal = rng.random() < 0.5
    cells = [(line, position) if horizontal else (position, line) for position in positions]
    placed = [Shape(shape.colour, shape.shape, *cell, shape.size) for shape, cell in zip(scene, cells, strict=False)]
    other = scene[3]
    if (other.row, other.column) in cells or (other.row if horizontal else other.column) == line:
        return None
    first, middle, last = placed
    ends = (first, last) if rng.random() < 0.5 else (last, first)
    options, gold = _name_options(rng, middle, [other])
    references = (ends[0].name, ends[1].name)
    return Sample(
        Question("between", references), ((*placed, other),), options, gold, (ends[0], ends[1], middle), Between(middle.name, references)
    )


def _nearest(rng: Random) -> Sample | None:
    scene = random_scene(rng, rng.randint(3, 4))
    reference, *others = scene
    distances = sorted(
        ((shape.row - reference.row) ** 2 + (shape.column - reference.column) ** 2, index) for index, shape in enumerate(others)
    )
    if distances[0][0] == distances[1][0]:
        return None
    nearest = others[distances[0][1]]
    options, gold = _name_options(rng, nearest, [shape for shape in others if shape is not nearest])
    return Sample(
        Question("nearest", (reference.name,)), (scene,), options, gold, (reference, nearest), Nearest(nearest.name, reference.name)
    )


def _odd_one_out(rng: Random) -> Sample | None:
    scene = random_scene(rng, rng.randint(3, 4))
    count = len(scene)
    if rng.random() < 0.5:
        shape, odd_shape = rng.sample(SHAPES, 2)
        names = [(colour, shape) for colour in rng.sample(COLOURS, count)]
        names[0] = (names[0][0], odd_shape)
    else:
        colour, odd_colour = rng.sample(COLOURS, 2)
        if count > len(SHAPES):
            return None
        names = [(colour, shape) for shape in rng.sample(SHAPES, count)]
        names[0] = (odd_colour, names[0][1])
    objects = [Shape(colour, kind, shape.row, shape.column, shape.size) for (colour, kind), shape in zip(names, scene, strict=True)]
    odd = objects[0]
    rng.shuffle(objects)
    options, gold = _name_options(rng, odd, [shape for shape in objects if shape is not odd])
    return Sample(Question("odd_one_out", ()), (tuple(objects),), options, gold, tuple(objects), OddOneOut(odd.name))


def _change(rng: Random) -> Sample | None:
    scene = random_scene(rng)
    moved = scene[0]
    free = [cell for cell in range(GRID * GRID) if all((shape.row, shape.column) != divmod(cell, GRID) for shape in scene)]
    after = (Shape(moved.colour, moved.shape, *divmod(rng.choice(free), GRID), moved.size), *scene[1:])
    options, gold = _name_options(rng, moved, list(scene[1:]))
    return Sample(Question("change", ()), (scene, after), options, gold, (moved,), Moved(moved.name))


def _name_options(rng: Random, gold: Shape, others: list[Shape]) -> tuple[tuple[str, ...], int]:
    """The names of the gold shape and of the others in random order: named options have no natural order."""
    names = [gold.name, *(shape.name for shape in others)]
    rng.shuffle(names)
    return tuple(names), names.index(gold.name)


_FAMILIES: dict[str, Callable[[Random], Sample | None]] = {
    "left_right": _relation("left_right", ("left", "right")),
    "above_below": _relation("above_below", ("above", "below")),
    "direction": _relation("direction", DIAGONALS),
    "count": _count,
    "between": _between,
    "nearest": _nearest,
    "odd_one_out": _odd_one_out,
    "change": _change,
}
