"""R_fmt: is the response exactly a think block and then an answer block? And R_task, which joins it with R_acc."""

from __future__ import annotations

from faithful_rl.types import ParsedResponse, Score

ACCURACY_WEIGHT = 0.5
FORMAT_WEIGHT = 0.5


def format_score(parsed: ParsedResponse) -> Score:
    """R_fmt in {0, 1}; the rule is `faithful_rl.response.parse`'s `well_formed`."""
    return Score(float(parsed.well_formed))


def task_score(accuracy: Score, format_: Score) -> Score:
    """R_task = 0.5 R_acc + 0.5 R_fmt, in {0, 0.5, 1}.

    Raises:
        ValueError: one of them is unscored; both are rules and always have a value.
    """
    if accuracy.value is None or format_.value is None:
        raise ValueError(f"accuracy and format are rules and always scored, got accuracy={accuracy}, format={format_}")
    return Score(ACCURACY_WEIGHT * accuracy.value + FORMAT_WEIGHT * format_.value)
