"""One step of a chain of thought: a sentence, perhaps a box, perhaps the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.record import BoxTuple


@dataclass(frozen=True, slots=True)
class Step:
    """An action of the search.

    Attributes:
        text: one or more sentences without tags, white space collapsed.
        box: x1, y1, x2, y2 in pixels of the ORIGINAL first image, or None where the step points at nothing.
        answer: the final answer, which ends a chain; None for every other step.
    """

    text: str
    box: BoxTuple | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a step has text")
        if self.box is not None and not (len(self.box) == 4 and all(math.isfinite(value) for value in self.box)):
            raise ValueError(f"a step's box is four finite numbers, got {self.box!r}")

    def as_dict(self) -> dict[str, Any]:
        """Only the fields that are set, for JSON."""
        fields: dict[str, Any] = {"text": self.text}
        if self.box is not None:
            fields["box"] = list(self.box)
        if self.answer is not None:
            fields["answer"] = self.answer
        return fields


def read_step(value: Mapping[str, Any]) -> Step:
    """The inverse of `Step.as_dict`. Raises ValueError, KeyError or TypeError for anything else."""
    box = value.get("box")
    if box is not None and len(box) != 4:
        raise ValueError(f"a step's box is four finite numbers, got {box!r}")
    answer = value.get("answer")
    four = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    return Step(str(value["text"]), four, None if answer is None else str(answer))


def last_box(steps: Sequence[Step]) -> BoxTuple | None:
    """The box of the latest step that has one: where the chain looks at present."""
    return next((step.box for step in reversed(steps) if step.box is not None), None)
