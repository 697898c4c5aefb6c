"""Our reward manager with the exact judges as plain functions: the same verdicts and the same training, and no judge is asked.

The difference to a run that asks the judges' actors is the judges' time, whatever part of it generation hides.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from faithful_rl.verl_plugin.reward_manager import ExactJudge, FaithfulRewardManager, RolloutScorer


def scorer(config: DictConfig) -> RolloutScorer:
    """As `reward_manager.scorer_from_config`, with functions for clients."""
    return RolloutScorer(ExactJudge("consistency"), ExactJudge("grounding"), bool(config.faithful_rl.judges.ask_masked))


class InstantRewardManager(FaithfulRewardManager):
    """Scores as the one of the package does; verdicts are there at once."""

    def __init__(self, config: DictConfig, *others: Any, **more: Any) -> None:
        super().__init__(config, *others, **more)
        self._scorer = scorer(config)
