"""Scores each rollout as soon as it ends, while its siblings are still being generated.

Chosen by `reward.reward_manager={source: importlib, name: FaithfulRewardManager, module.path: pkg://<this module>}`. verl builds one
per reward worker and calls `run_single` for each finished rollout.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from faithful_rl import response
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.rewards import suite
from faithful_rl.types import ParsedResponse, Reason, Score, ScoredRollout
from faithful_rl.verl_plugin.judge_workers import JudgeClient

logger = logging.getLogger(__name__)

# Set by our agent loop workers on every rollout; absent where verl's own worker drives the rollouts.
SPLIT_FIELD = "rollout_split"  # "train" | "heldout"
DETAILS_KEY = "judged_json"  # text beside the numbers; the agent loop worker takes it out again before verl averages anything
NOT_JUDGED = Score(None, Reason.MASKED)


class RolloutScorer:
    """Text and row in, `ScoredRollout` out. Knows nothing of verl, so that tests can drive it with plain data."""

    def __init__(self, consistency: Any, grounding: Any, ask_masked: bool) -> None:
        self._consistency, self._grounding, self._ask_masked = consistency, grounding, ask_masked

    async def score(
        self, text: str, reward_model: Mapping[str, Any], extra_info: Mapping[str, Any], heldout: bool
    ) -> tuple[ParsedResponse, ScoredRollout]:
        """Rules first; judges only where their verdict can count, or always on held-out questions.

        Raises:
            ValueError: the row itself is unusable; preflight refuses such rows before a run starts.
        """
        parsed = response.parse(text)
        reference = suite.Reference.from_row(reward_model, extra_info)
        scores = suite.rule_scores(parsed, reference)
        if not suite.needs_judge(scores, self._ask_masked or heldout):
            return parsed, suite.assemble(parsed, reference, scores, NOT_JUDGED, NOT_JUDGED)
        request = build_request(parsed, extra_info)
        consistency, sentences = await asyncio.gather(self._consistency.ask(request), self._grounding.ask(request))
        return parsed, suite.assemble(parsed, reference, scores, consistency, sentences)


def build_request(parsed: ParsedResponse, extra_info: Mapping[str, Any]) -> JudgeRequest:
    """What the judges may see of one rollout; absent optional columns become empty text."""

    def text(key: str) -> str:
        value = extra_info.get(key)
        return "" if value is None else str(value)

    options = extra_info.get("options")
    return JudgeRequest(
        uid=text("uid"),
        question=text("question"),
        options=() if options is None else tuple(str(option) for option in options),
        reasoning=parsed.reasoning,
        answer=parsed.answer or "",
        scene_json=text("scene_json"),
        dataset=text("dataset"),
    )


def details_json(parsed: ParsedResponse, rollout: ScoredRollout) -> str:
    """Sentence verdicts and boxes for the rollout viewer, as JSON text."""
    return json.dumps(
        {
            "sentences": [
                {"text": one.text, "start": one.start, "end": one.end, "verdict": one.verdict.name, "why": one.why}
                for one in rollout.sentences
            ],
            "boxes_predicted": [box.as_list() for box in parsed.boxes[:64]],
            "answer": parsed.answer,
        },
        ensure_ascii=False,
    )


def scorer_from_config(config: DictConfig) -> RolloutScorer:
    """Clients of the run's judge actors, from `faithful_rl.judges`."""
    judges = OmegaConf.to_container(config.faithful_rl.judges, resolve=True)
    if not isinstance(judges, dict):
        raise TypeError(f"faithful_rl.judges must be a mapping, found {type(judges).__name__}")

    def client(judge: str) -> JudgeClient:
        own = judges.get(judge, {})
        return JudgeClient(judge, int(own.get("workers", 1)), float(own.get("timeout_seconds", 60.0)))

    return RolloutScorer(client("consistency"), client("grounding"), bool(judges.get("ask_masked", False)))


class FaithfulRewardManager(RewardManagerBase):
    """verl's face of `RolloutScorer`: `reward_score` is the task reward, `reward_extra_info` the fixed numeric columns."""

    def __init__(
        self,
        config: DictConfig,
        tokenizer: Any,
        compute_score: Any,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        self._scorer = scorer_from_config(config)

    async def run_single(self, data: Any) -> dict[str, Any]:
        item = data[-1:][0]  # an agent loop may return several sequences: the last one holds the answer
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
        fields = item.non_tensor_batch
        split = fields.get(SPLIT_FIELD)
        parsed, rollout = await self._scorer.score(text, fields["reward_model"], fields.get("extra_info") or {}, heldout=split == "heldout")
        info: dict[str, Any] = suite.columns(rollout)
        if split is not None:
            info[DETAILS_KEY] = details_json(parsed, rollout)
        return {"reward_score": float(rollout.scores["task"].value or 0.0), "reward_extra_info": info}
