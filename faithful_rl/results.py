"""The table of a run's held-out evaluation, for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from faithful_rl.run_directory import DECODING_LABELS, DECODINGS, MOMENTS

SUMMARY = "summary.json"
PERCENT = 100.0

# (name in heldout/summary.json, heading, factor, digits, name of the count that a share stands on)
ROWS = (
    ("accuracy", "accuracy %", PERCENT, 1, "questions"),
    ("inconsistency_rate", "inconsistency rate (IR) %", PERCENT, 1, "consistency_scored"),
    ("semantic_grounding", "semantic grounding (R_S) %", PERCENT, 1, "semantic_grounding_scored"),
    ("spatial_grounding", "spatial grounding (R_G) %", PERCENT, 1, "spatial_grounding_scored"),
    ("format", "well-formed %", PERCENT, 1, "questions"),
    ("right_for_false_reason", "right answer, false sentence %", PERCENT, 1, ""),
    ("sentence_count", "sentences per trace", 1.0, 2, ""),
    ("response_tokens", "tokens per response", 1.0, 1, ""),
)
SHARES = frozenset({"accuracy", "inconsistency_rate", "format"})


def heldout_table(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """(column headings, rows) of the held-out evaluation, decodings side by side; shares with their 95% Wilson half-width."""
    found = [(moment, decoding) for decoding in DECODINGS for moment in MOMENTS if decoding in (summary.get(moment) or {})]
    rows = []
    for name, heading, factor, digits, count in ROWS:
        cells = []
        for moment, decoding in found:
            numbers = summary[moment][decoding]
            cells.append(_cell(numbers, name, factor, digits, count))
        if any(cells):
            rows.append((heading, tuple(cells)))
    return tuple(f"{moment}, {DECODING_LABELS[decoding]}" for moment, decoding in found), tuple(rows)


def question_count(summary: Mapping[str, Any]) -> int:
    """Questions of the first evaluation in `summary`; 0 where there is none."""
    for moment in MOMENTS:
        for decoding in DECODINGS:
            if decoding in (summary.get(moment) or {}):
                return int(summary[moment][decoding]["questions"])
    return 0


def _cell(numbers: Mapping[str, Any], name: str, factor: float, digits: int, count: str) -> str:
    value = numbers.get(name)
    if not isinstance(value, int | float) or math.isnan(value):
        return ""
    text = f"{factor * value:.{digits}f}"
    if name in SHARES and numbers.get(count):
        text += f" ± {factor * wilson_half_width(float(value), float(numbers[count])):.{digits}f}"
    return text


def wilson_half_width(share: float, count: float, z: float = 1.959964) -> float:
    """Half the width of the Wilson interval of a share in [0, 1] among `count` > 0 samples."""
    return z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
