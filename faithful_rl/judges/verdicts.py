"""Strict parsing: a verdict is one of the allowed words and nothing else, or it is no verdict."""

from __future__ import annotations

import json
from typing import Any

from faithful_rl.types import Reason, Score, Verdict

CONSISTENCY_CHOICES = ("YES", "NO")
SENTENCE_CHOICES = ("CORRECT", "INCORRECT", "SKIP")

_WHITE = " \t\r\n"


def parse_consistency(text: str) -> Score:
    """YES is 1.0 and NO is 0.0, white space around it aside; everything else is unscored, JUDGE_ERROR."""
    word = text.strip(_WHITE)
    return Score(float(word == "YES")) if word in CONSISTENCY_CHOICES else Score(None, Reason.JUDGE_ERROR)


def parse_sentence(text: str) -> Verdict:
    """CORRECT, INCORRECT or SKIP, white space around it aside; everything else is UNSCORED."""
    word = text.strip(_WHITE)
    return Verdict[word] if word in SENTENCE_CHOICES else Verdict.UNSCORED


def rollout_schema(n: int) -> dict[str, Any]:
    """JSON schema of exactly `n` verdicts by sentence number: `{"1": "CORRECT", "2": "SKIP"}`.

    An object and not a list, because guided decoding does not bound the length of lists everywhere.
    """
    numbers = [str(number) for number in range(1, n + 1)]
    return {
        "type": "object",
        "properties": {number: {"type": "string", "enum": list(SENTENCE_CHOICES)} for number in numbers},
        "required": numbers,
        "additionalProperties": False,
    }


def parse_rollout(text: str, n: int) -> list[Verdict]:
    """`n` verdicts in order of their sentences, or `n` times UNSCORED: one wrong key or word spoils the whole answer."""
    unscored = [Verdict.UNSCORED] * n
    try:
        found = json.loads(text.strip(_WHITE), object_pairs_hook=_no_duplicates, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return unscored
    if not isinstance(found, dict) or set(found) != {str(number) for number in range(1, n + 1)}:
        return unscored
    words = [found[str(number)] for number in range(1, n + 1)]
    if not all(isinstance(word, str) and word in SENTENCE_CHOICES for word in words):
        return unscored
    return [Verdict[word] for word in words]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
