"""The task reward alone, as a custom reward function of stock verl and for TRL: what our reward manager calls `task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faithful_rl import response
from faithful_rl.rewards import suite


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any], **others: Any) -> float:
    """verl's signature (`reward.custom_reward_function`); in [0, 1]."""
    parsed = response.parse(solution_str)
    scores = suite.rule_scores(parsed, suite.Reference.from_row({"ground_truth": ground_truth}, extra_info))
    return float(scores["task"].value or 0.0)
