"""Partial credit for answers that are nearly right: clock times and numbers (arXiv 2601.00215, the design "continuous").

    clock   0.5 hour + 0.5 minute; hour = 1 - d/5, or 0 where the distance on a circle of 12 exceeds 2;
            minute = 1 - d/20, or 0 where the distance on a circle of 60 exceeds 10
    number  1 / (1 + |d|), or 0 where |d| exceeds 5
    else    R_acc: right or wrong

The right answer says which of them applies: a text such as `9:05` is a clock, `7` or `-2.5` a number. A letter stands for its option.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from faithful_rl.rewards.accuracy import accuracy_score, normalise, option_text, read_options
from faithful_rl.types import Score

HOURS, MINUTES = 12, 60
MAX_HOURS, MAX_MINUTES, MAX_NUMBER = 2, 10, 5.0  # distances beyond which there is no credit
_HOUR_SCALE, _MINUTE_SCALE = 5.0, 20.0
_MAX_CHARACTERS = 40  # a longer text is neither a time nor a number

_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::[0-9]{2})?(?: ?[ap]\.?m)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


def read_clock(text: str) -> tuple[int, int] | None:
    """(hour 0 to 11, minute 0 to 59) of a text such as `3:05`, `15:05` or `3:05 pm`; None for anything else. A clock face has no noon."""
    match = _CLOCK.fullmatch(normalise(text)) if len(text) <= _MAX_CHARACTERS else None
    if match is None or int(match[1]) > 2 * HOURS or int(match[2]) >= MINUTES:
        return None
    return int(match[1]) % HOURS, int(match[2])


def read_number(text: str) -> float | None:
    """The number that a text is as a whole (`7`, `-2.5`, `1,200`); None for anything else."""
    if len(text) > _MAX_CHARACTERS:
        return None
    # Not `normalise`, which would take the point off `.5`.
    said = unicodedata.normalize("NFKC", text).strip().strip("()[]\"'").rstrip(".!?;")
    said = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", said)
    return float(said) if _NUMBER.fullmatch(said) else None


def clock_credit(said: tuple[int, int], truth: tuple[int, int]) -> float:
    """0.5 hour + 0.5 minute, in [0, 1], from two (hour, minute)."""
    hours, minutes = _circular(said[0], truth[0], HOURS), _circular(said[1], truth[1], MINUTES)
    hour = 0.0 if hours > MAX_HOURS else 1.0 - hours / _HOUR_SCALE
    minute = 0.0 if minutes > MAX_MINUTES else 1.0 - minutes / _MINUTE_SCALE
    return 0.5 * hour + 0.5 * minute


def number_credit(said: float, truth: float) -> float:
    """1 / (1 + |said - truth|), 0 beyond a distance of 5; in [0, 1]."""
    distance = abs(said - truth)
    return 0.0 if distance > MAX_NUMBER else 1.0 / (1.0 + distance)


def credit_score(answer: str | None, ground_truth: str, options: Sequence[str] = (), gold_index: int = -1) -> Score:
    """Credit in [0, 1], never unscored and never below R_acc; arguments as `accuracy_score`."""
    exact = accuracy_score(answer, ground_truth, options, gold_index)
    if exact.value or answer is None:
        return exact
    truth = option_text(options[gold_index], gold_index) if options else ground_truth
    said = _said(answer, options)
    clock, number = read_clock(truth), read_number(truth)
    if clock is not None:
        given = read_clock(said)
        return Score(0.0 if given is None else clock_credit(given, clock))
    if number is not None:
        value = read_number(said)
        return Score(0.0 if value is None else number_credit(value, number))
    return exact


def _said(answer: str, options: Sequence[str]) -> str:
    """The answer, or the text of the one option that it names."""
    named = read_options(answer, options) if options else frozenset()
    if len(named) == 1:
        index = next(iter(named))
        return option_text(options[index], index)
    return answer


def _circular(one: int, other: int, size: int) -> int:
    distance = abs(one - other) % size
    return min(distance, size - distance)
