"""`faithful_rl.rewards`: how the task reward is made of a response."""

from __future__ import annotations

from dataclasses import dataclass

from faithful_rl.config.checks import one_of

DESIGNS = ("paper", "vanilla", "only_accuracy", "mixture", "continuous", "visual_fusion", "no_accuracy")


@dataclass
class RewardsConfig:
    design: str = "paper"  # paper: 0.5 R_acc + 0.5 R_fmt | the six designs of arXiv 2601.00215, see faithful_rl/rewards/designs.py


def validate_rewards(rewards: RewardsConfig) -> None:
    one_of("rewards.design", rewards.design, DESIGNS)
