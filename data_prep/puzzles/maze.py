"""Mazes in which exactly one way leads from the green to the red square: how many steps is it, or how many turns does it take?

Level 1: 4 x 4 squares, 2: 6 x 6, 3: 8 x 8.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from random import Random

from PIL import Image

from data_prep.puzzles.drawing import GREEN, INK, PAPERS, RED, Canvas
from data_prep.puzzles.puzzle import Kind, Puzzle, number_mistakes

_SIZES = {1: 4, 2: 6, 3: 8}
Square = tuple[int, int]  # (row, column) from 0
Passage = tuple[Square, Square]  # in order


def draw(rng: Random, level: int) -> Puzzle:
    size = _SIZES[level]
    passages = _carved(rng, size)
    start, goal = _far_apart(rng, size, passages)
    way = path(passages, start, goal)
    turns = rng.random() < 0.4
    answer = _turns(way) if turns else len(way) - 1
    asked = (
        "how many times does that way change its direction"
        if turns
        else "how many steps, each from one square to the next, is that way long"
    )
    content = {"size": size, "passages": [[list(a), list(b)] for a, b in sorted(passages)], "start": list(start), "goal": list(goal)}
    return Puzzle(
        kind="maze",
        content=content,
        style={"paper": rng.randrange(len(PAPERS))},
        question=f"Only one way leads from the green square to the red square without crossing a wall; {asked}?",
        answer=str(answer),
        wrong=number_mistakes(rng, answer, 0 if turns else 1),
        description=_description(size, passages, start, goal),
    )


def path(passages: set[Passage], start: Square, goal: Square) -> list[Square]:
    """Squares of a shortest way, both ends included.

    Raises:
        ValueError: there is none.
    """
    neighbours: dict[Square, list[Square]] = {}
    for first, second in passages:
        neighbours.setdefault(first, []).append(second)
        neighbours.setdefault(second, []).append(first)
    came: dict[Square, Square | None] = {start: None}
    queue = deque([start])
    while queue and goal not in came:
        here = queue.popleft()
        for there in neighbours.get(here, []):
            if there not in came:
                came[there] = here
                queue.append(there)
    if goal not in came:
        raise ValueError(f"no way from {start} to {goal}")
    way = [goal]
    while (before := came[way[-1]]) is not None:
        way.append(before)
    return way[::-1]


def _carved(rng: Random, size: int) -> set[Passage]:
    """A spanning tree of the squares by a random walk that goes back when it is stuck."""
    here: Square = (rng.randrange(size), rng.randrange(size))
    seen, trail, passages = {here}, [here], set()
    while trail:
        row, column = trail[-1]
        around = [(row + dy, column + dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        free = [square for square in around if square not in seen and 0 <= square[0] < size and 0 <= square[1] < size]
        if not free:
            trail.pop()
            continue
        there = rng.choice(free)
        passages.add((min(trail[-1], there), max(trail[-1], there)))
        seen.add(there)
        trail.append(there)
    return passages


def _far_apart(rng: Random, size: int, passages: set[Passage]) -> tuple[Square, Square]:
    squares = [(row, column) for row in range(size) for column in range(size)]
    while True:
        start, goal = rng.sample(squares, 2)
        if len(path(passages, start, goal)) > size // 2 + 1:
            return start, goal


def _turns(way: list[Square]) -> int:
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(way)]
    return sum(one != other for one, other in pairwise(steps))


def _name(square: Square) -> str:
    return f"({square[0] + 1},{square[1] + 1})"


def _description(size: int, passages: set[Passage], start: Square, goal: Square) -> str:
    opened = ", ".join(f"{_name(a)}-{_name(b)}" for a, b in sorted(passages))
    return (
        f"A maze of {size} rows and {size} columns of squares. (r,c) is the square in row r from the top and column c from the left, "
        f"both from 1. The green square is {_name(start)}, the red square is {_name(goal)}. Walls stand between all neighbouring "
        f"squares except: {opened}."
    )


def render(puzzle: Puzzle, side: int) -> Image.Image:
    """Walls as thick lines, start and goal as coloured squares."""
    size = puzzle.content["size"]
    canvas = Canvas(side, PAPERS[puzzle.style["paper"]])
    margin = side * 0.06
    cell = (side - 2 * margin) / size
    for (row, column), colour in ((puzzle.content["start"], GREEN), (puzzle.content["goal"], RED)):
        inset = cell * 0.2
        canvas.box((margin + column * cell + inset, margin + row * cell + inset), cell - 2 * inset, colour, radius=cell * 0.08)
    opened = {(tuple(a), tuple(b)) for a, b in puzzle.content["passages"]}
    width = max(1.5, cell * 0.09)

    def wall(a: tuple[float, float], b: tuple[float, float]) -> None:
        canvas.line([(margin + a[0] * cell, margin + a[1] * cell), (margin + b[0] * cell, margin + b[1] * cell)], INK, width)

    for row in range(size):
        for column in range(size):
            if column + 1 < size and ((row, column), (row, column + 1)) not in opened:
                wall((column + 1, row), (column + 1, row + 1))
            if row + 1 < size and ((row, column), (row + 1, column)) not in opened:
                wall((column, row + 1), (column + 1, row + 1))
    for a, b in (((0, 0), (size, 0)), ((size, 0), (size, size)), ((size, size), (0, size)), ((0, size), (0, 0))):
        wall(a, b)
    return canvas.picture()


KIND = Kind(draw, render)
