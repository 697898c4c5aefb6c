"""Which numeric columns of a rollout a constraint, a mask or a weight may name, and the range that each can take."""

from __future__ import annotations

import math

from faithful_rl.rewards.designs import COLUMNS, TAG_COLUMNS, get
from faithful_rl.rewards.suite import COUNTS, SIGNALS

RESPONSE_TOKENS = "response_tokens"  # added by the trainer from what the rollout server returned; padding not counted
SHARE = (0.0, 1.0)
COUNT = (0.0, math.inf)

# A signal is a share unless it is listed here; a count is at least 0.
OTHER_RANGES: dict[str, tuple[float, float]] = {
    "has_reference_boxes": SHARE,
    "answer_credit": SHARE,
    **dict.fromkeys(TAG_COLUMNS, (-1.0, 1.0)),
}


def column_ranges() -> dict[str, tuple[float, float]]:
    """Column -> (lowest, highest) value: every signal and count of the suite, and the tokens of the response."""
    found = {**dict.fromkeys(SIGNALS, SHARE), **dict.fromkeys((*COUNTS, RESPONSE_TOKENS), COUNT)}
    return {name: OTHER_RANGES.get(name, limits) for name, limits in found.items()}


def produced_ranges(design: str) -> dict[str, tuple[float, float]]:
    """`column_ranges` without the columns that stay 0 under a reward design (a name of `designs.DESIGNS`, or `paper`): tags that it does
    not use, and the answer's credit under `paper`.

    Raises:
        KeyError: no such design.
    """
    chosen = get(design)
    used = () if chosen is None else chosen.columns
    return {name: limits for name, limits in column_ranges().items() if name in used or name not in COLUMNS}
