"""A person pushes one box to a marked square: how many steps does it take at least?

Level 1: 4 x 4 squares, 2: 5 x 5, 3: 6 x 6, all with a few walls. A step goes up, down, left or right to a free square; stepping into the
box pushes it on by one, where that square is free. Boxes are never pulled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any

from PIL import Image

from data_prep.puzzles.drawing import BLUE, DARK, FAINT, GREEN, INK, ORANGE, PAPERS, Canvas
from data_prep.puzzles.puzzle import Kind, Puzzle, number_mistakes

_SIZES = {1: 4, 2: 5, 3: 6}
_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_LONGEST = 24  # steps; longer ones are not asked
Square = tuple[int, int]  # (row, column) from 0


def draw(rng: Random, level: int) -> Puzzle:
    size = _SIZES[level]
    squares = [(row, column) for row in range(size) for column in range(size)]
    answer = None
    while answer is None or not 2 <= answer <= _LONGEST:
        chosen = rng.sample(squares, 3 + rng.randint(size // 2, size))
        person, box, goal, *walls = chosen
        answer = least_steps(size, frozenset(walls), person, box, goal)
    content = {"size": size, "walls": sorted(map(list, walls)), "person": list(person), "box": list(box), "goal": list(goal)}
    return Puzzle(
        kind="move_box",
        content=content,
        style={"paper": rng.randrange(len(PAPERS))},
        question=(
            "The person (blue) steps up, down, left or right to a free square, and pushes the box by stepping into it when the square "
            "behind it is free. How many steps does it take at least until the box stands on the green mark?"
        ),
        answer=str(answer),
        wrong=number_mistakes(rng, answer, 1),
        description=_description(content),
    )


def least_steps(size: int, walls: frozenset[Square], person: Square, box: Square, goal: Square) -> int | None:
    """Fewest steps of the person until the box stands on the goal; None where it cannot be done."""

    def free(square: Square) -> bool:
        return 0 <= square[0] < size and 0 <= square[1] < size and square not in walls

    seen = {(person, box)}
    queue = deque([(person, box, 0)])
    while queue:
        here, at, steps = queue.popleft()
        if at == goal:
            return steps
        for down, right in _STEPS:
            there, pushed = (here[0] + down, here[1] + right), at
            if there == at:
                pushed = (at[0] + down, at[1] + right)
            if free(there) and free(pushed) and (there, pushed) not in seen:
                seen.add((there, pushed))
                queue.append((there, pushed, steps + 1))
    return None


def _description(content: Mapping[str, Any]) -> str:
    def named(square: list[int]) -> str:
        return f"({square[0] + 1},{square[1] + 1})"

    size = content["size"]
    return (
        f"A field of {size} rows and {size} columns of squares. (r,c) is the square in row r from the top and column c from the left, both "
        f"from 1. The person stands on {named(content['person'])}, the box on {named(content['box'])}, the green mark is on "
        f"{named(content['goal'])}. Walls fill {', '.join(named(wall) for wall in content['walls'])}; all other squares are free."
    )


def render(puzzle: Puzzle, side: int) -> Image.Image:
    """Free squares in a grid, walls as bricks, a green ring for the goal, a box with a cross, a person."""
    content, canvas = puzzle.content, Canvas(side, PAPERS[puzzle.style["paper"]])
    size = content["size"]
    margin = side * 0.03
    cell = (side - 2 * margin) / size
    line = max(1.0, side * 0.005)
    for row in range(size):
        for column in range(size):
            corner = (margin + column * cell, margin + row * cell)
            if [row, column] in content["walls"]:
                _bricks(canvas, corner, cell)
            else:
                canvas.box(corner, cell, (255, 255, 255), FAINT, line)

    def corner_of(square: list[int]) -> tuple[float, float]:
        return margin + square[1] * cell, margin + square[0] * cell

    x, y = corner_of(content["goal"])
    canvas.disc((x + cell / 2, y + cell / 2), cell * 0.38, None, GREEN, cell * 0.09)
    x, y = corner_of(content["box"])
    inset = cell * 0.2
    canvas.box((x + inset, y + inset), cell - 2 * inset, ORANGE, INK, cell * 0.05, cell * 0.05)
    for a, b in (((0.3, 0.3), (0.7, 0.7)), ((0.3, 0.7), (0.7, 0.3))):
        canvas.line([(x + a[0] * cell, y + a[1] * cell), (x + b[0] * cell, y + b[1] * cell)], INK, cell * 0.04)
    x, y = corner_of(content["person"])
    canvas.disc((x + cell / 2, y + cell * 0.3), cell * 0.15, BLUE)
    shoulders = [(0.26, 0.84), (0.3, 0.58), (0.42, 0.48), (0.58, 0.48), (0.7, 0.58), (0.74, 0.84)]
    canvas.polygon([(x + across * cell, y + down * cell) for across, down in shoulders], BLUE)
    return canvas.picture()


def _bricks(canvas: Canvas, corner: tuple[float, float], cell: float) -> None:
    x, y = corner
    mortar, width = (222, 205, 186), max(0.75, cell * 0.035)
    canvas.box(corner, cell, DARK, mortar, width / 2)  # the edge keeps neighbouring walls apart
    for course in range(4):
        top = y + course * cell / 4
        if course:
            canvas.line([(x, top), (x + cell, top)], mortar, width)
        for joint in (0.5,) if course % 2 else (0.25, 0.75):
            canvas.line([(x + joint * cell, top), (x + joint * cell, top + cell / 4)], mortar, width)


KIND = Kind(draw, render)
