"""Cells of Markdown tables: numbers with their intervals, and text that stays text."""

from __future__ import annotations

import math

from faithful_rl.heldout_statistics import Coverage, Estimate

ARROWS = {"better": " ▲", "worse": " ▼", "": ""}
_ESCAPES = str.maketrans({"|": r"\|", "<": "&lt;", ">": "&gt;", "`": r"\`", "\r": " ", "\n": " "})


def escaped(text: str) -> str:
    """Text that ends no cell and opens no markup: names of methods and models are a user's, remarks quote files."""
    return text.translate(_ESCAPES)


def cell(found: Estimate, percent: bool, signed: bool = False, coverage: Coverage | None = None) -> str:
    """`79.2 [76.1, 82.0] (300 of 600)`, shares in per cent; "–" where nothing was measured."""
    if math.isnan(found.value):
        return "–"
    scale, digits, sign = (100.0, 1, "+" if signed else "") if percent else (1.0, 2, "+" if signed else "")
    text = f"{scale * found.value:{sign}.{digits}f}"
    if not math.isnan(found.low):
        text += f" [{scale * found.low:{sign}.{digits}f}, {scale * found.high:{sign}.{digits}f}]"
    return f"{text} ({coverage.text})" if coverage is not None and coverage.text else text


def star(found: Estimate) -> str:
    """ " *" where a difference's interval excludes zero."""
    return " *" if found.excludes_zero else ""
