"""What every kind of puzzle makes: content, question, answer, wrong answers, an exact description, and a picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

LEVELS = (1, 2, 3)  # easy to hard; each kind says what grows


@dataclass(frozen=True, slots=True)
class Puzzle:
    """One puzzle.

    Attributes:
        kind: `clock`, `maze`, `n_queens` or `move_box`.
        content: JSON-able; all that is in the picture except colours. Uid and split come from it.
        style: JSON-able; how it is drawn.
        question: without options.
        answer: the right one: a time (`3:05`), a whole number, or a square (`c4`).
        wrong: at least three other answers of the same form, likely mistakes first.
        description: exact text from which the question can be answered without the picture.
    """

    kind: str
    content: Mapping[str, Any]
    style: Mapping[str, Any]
    question: str
    answer: str
    wrong: tuple[str, ...]
    description: str

    @property
    def content_key(self) -> str:
        """Canonical text of what the picture shows; equal pictures up to colours have equal keys."""
        return json.dumps([self.kind, self.content], sort_keys=True, separators=(",", ":"))

    @property
    def uid(self) -> str:
        """16 hexadecimal digits of content and question."""
        return hashlib.sha256(f"{self.content_key}\0{self.question}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind is made: `draw(rng, level)` gives a puzzle, `render(puzzle, side)` its RGB picture of side x side pixels."""

    draw: Callable[[Random, int], Puzzle]
    render: Callable[[Puzzle, int], Image.Image]


def number_mistakes(rng: Random, answer: int, low: int) -> tuple[str, ...]:
    """Three whole numbers next to `answer`, at least `low`. How many of them are smaller is drawn first: the middle is no hint."""
    smaller = rng.randint(0, min(3, answer - low))
    return tuple(str(answer + step) for step in range(-smaller, 4 - smaller) if step)
