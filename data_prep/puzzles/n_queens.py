"""Queens on a board, none of which attacks another: where does the last one stand, or how far apart are the last two?

Level 1: 4 x 4 and 5 x 5 boards, 2: 6 x 6, 3: 8 x 8. Squares are named as in chess: columns a, b, ... from the left, rows 1, 2, ... from the
bottom.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from random import Random

from PIL import Image

from data_prep.puzzles.drawing import DARK, INK, LIGHT, WHITE, Canvas
from data_prep.puzzles.puzzle import Kind, Puzzle, number_mistakes

_SIZES = {1: (4, 5), 2: (6,), 3: (8,)}
Square = tuple[int, int]  # (column, row) from 0, row 0 at the bottom


@cache
def solutions(size: int) -> tuple[tuple[int, ...], ...]:
    """All boards of `size` queens that attack each other nowhere: the row of the queen in each column."""
    return tuple(
        rows
        for rows in permutations(range(size))
        if len({row + column for column, row in enumerate(rows)}) == size and len({row - column for column, row in enumerate(rows)}) == size
    )


def completions(size: int, placed: frozenset[Square]) -> list[frozenset[Square]]:
    """Every set of squares that completes the placed queens to a solution."""
    boards = (frozenset(enumerate(rows)) for rows in solutions(size))
    return [board - placed for board in boards if placed <= board]


def draw(rng: Random, level: int) -> Puzzle:
    size = rng.choice(_SIZES[level])
    board = frozenset(enumerate(rng.choice(solutions(size))))
    two = rng.random() < 0.5
    missing = frozenset(rng.sample(sorted(board), 2 if two else 1))
    while len(completions(size, board - missing)) != 1:
        board = frozenset(enumerate(rng.choice(solutions(size))))
        missing = frozenset(rng.sample(sorted(board), len(missing)))
    placed = sorted(board - missing)
    question, answer, wrong = _pair(rng, size, missing) if two else _last(rng, size, missing, placed)
    names = ", ".join(map(name, placed))
    return Puzzle(
        kind="n_queens",
        content={"size": size, "queens": [list(square) for square in placed]},
        style={},
        question=question,
        answer=answer,
        wrong=wrong,
        description=(
            f"A chess board of {size} columns, a to {'abcdefgh'[size - 1]} from the left, and {size} rows, 1 to {size} from the bottom. "
            f"Queens stand on {names}; all other squares are empty."
        ),
    )


def name(square: Square) -> str:
    return f"{'abcdefgh'[square[0]]}{square[1] + 1}"


def _rule(size: int) -> str:
    return f"{size} queens must stand on this {size} x {size} board so that no two share a row, a column or a diagonal."


def _last(rng: Random, size: int, missing: frozenset[Square], placed: list[Square]) -> tuple[str, str, tuple[str, ...]]:
    (square,) = missing
    # The right square and the wrong ones are the corners of a rectangle: columns and rows among them tell nothing.
    corners = [
        ((square[0], row), (column, square[1]), (column, row))
        for column in range(size)
        for row in range(size)
        if column != square[0] and row != square[1] and (column, row) not in placed
    ]
    return f"{_rule(size)} One is missing. On which square must it stand?", name(square), tuple(map(name, rng.choice(corners)))


def _pair(rng: Random, size: int, missing: frozenset[Square]) -> tuple[str, str, tuple[str, ...]]:
    (a, b), (c, d) = missing
    distance = abs(a - c) + abs(b - d)
    question = f"{_rule(size)} Two are missing. How far apart must they stand, counted in columns plus rows (Manhattan distance)?"
    return question, str(distance), number_mistakes(rng, distance, 1)


def render(puzzle: Puzzle, side: int) -> Image.Image:
    """A board with names of columns and rows at its edge, and a crown for each queen."""
    size = puzzle.content["size"]
    canvas = Canvas(side, WHITE)
    margin = side * 0.09
    cell = (side - margin - side * 0.02) / size
    top = side * 0.02
    for column in range(size):
        canvas.text((margin + (column + 0.5) * cell, side - margin / 2), "abcdefgh"[column], side * 0.06)
        canvas.text((margin / 2, top + (size - column - 0.5) * cell), str(column + 1), side * 0.06)
        for row in range(size):
            colour = DARK if (row + column) % 2 == 0 else LIGHT
            canvas.box((margin + column * cell, top + (size - 1 - row) * cell), cell + 0.25, colour)
    for column, row in puzzle.content["queens"]:
        _crown(canvas, margin + column * cell, top + (size - 1 - row) * cell, cell)
    return canvas.picture()


def _crown(canvas: Canvas, x: float, y: float, cell: float) -> None:
    def at(across: float, down: float) -> tuple[float, float]:
        return x + across * cell, y + down * cell

    tips = [(0.16, 0.34), (0.33, 0.24), (0.5, 0.19), (0.67, 0.24), (0.84, 0.34)]
    valleys = [(0.3, 0.52), (0.43, 0.48), (0.57, 0.48), (0.7, 0.52)]
    outline = [point for pair in zip(tips, [*valleys, (0.74, 0.74)], strict=True) for point in pair]
    canvas.polygon([at(0.26, 0.74), *(at(*point) for point in outline)], INK)
    for tip in tips:
        canvas.disc(at(*tip), cell * 0.05, INK)
    canvas.line([at(0.27, 0.82), at(0.73, 0.82)], INK, cell * 0.07)


KIND = Kind(draw, render)
