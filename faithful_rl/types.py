"""Plain data shared by every part of faithful_rl. Imports nothing but the standard library.

A rollout travels as text -> `ParsedResponse` -> one `Score` per signal -> `ScoredRollout`
-> fixed numeric columns that the trainer reads. A measurement is a value *or* the reason why
there is none: a failed judge is never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned box, absolute pixels, x to the right, y down. `x1 <= x2` and `y1 <= y2` always hold."""

    x1: float
    y1: float
    x2: float
    y2: float

    def as_list(self) -> list[float]:
        return [self.x1, self.y1, self.x2, self.y2]


class Reason(IntEnum):
    """Why a `Score` has a value or has none; its number travels in the `<signal>_reason` column."""

    SCORED = 0
    MASKED = 1  # the signal does not apply to this rollout (for example: the answer is wrong)
    NO_REFERENCE = 2  # the row carries no ground truth for this signal (for example: no boxes)
    NOTHING_TO_JUDGE = 3  # no sentence left after filtering, or every verdict was SKIP
    JUDGE_ERROR = 4  # the judge raised or answered outside its vocabulary
    JUDGE_TIMEOUT = 5  # the rollout's deadline passed before the verdict
    JUDGE_UNAVAILABLE = 6  # no judge worker could be reached


# Reasons that mean "we tried to measure and failed": they lower the valid coverage of a step.
FAILURES = frozenset({Reason.JUDGE_ERROR, Reason.JUDGE_TIMEOUT, Reason.JUDGE_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Score:
    """One measurement of one signal on one rollout: a finite `value`, or None and the reason."""

    value: float | None
    reason: Reason = Reason.SCORED

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is Reason.SCORED):
            raise ValueError(f"a Score has a value exactly when its reason is SCORED, got value={self.value!r}, reason={self.reason!r}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a Score's value must be finite, got {self.value!r}: a measurement that failed has None and a reason")

    @property
    def scored(self) -> bool:
        return self.value is not None


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """A response taken apart once, by `faithful_rl.response.parse`, for every reward and judge.

    `well_formed` is the paper's R_fmt test: exactly one think block, then exactly one answer block, nothing else but white space.
    `reasoning` and `answer` are best effort on malformed text ("" and None when absent), so that malformed never means crash.
    """

    text: str
    well_formed: bool
    reasoning: str
    answer: str | None
    boxes: tuple[Box, ...] = ()
    invalid_boxes: int = 0  # bbox tags whose content is not four finite numbers


class Verdict(IntEnum):
    """A grounding judge's word on one sentence."""

    INCORRECT = 0
    CORRECT = 1
    SKIP = 2
    UNSCORED = 3


@dataclass(frozen=True, slots=True)
class SentenceVerdict:
    """One sentence of the reasoning, where it stands in `ParsedResponse.reasoning` and what the judge said."""

    text: str
    start: int
    end: int
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """Every raw, unweighted signal of one rollout, by name: `task`, `accuracy`, `format`,
    `consistency`, `semantic_grounding`, `spatial_grounding`."""

    scores: Mapping[str, Score]
    sentences: tuple[SentenceVerdict, ...] = ()
    extras: Mapping[str, float] = field(default_factory=dict)
