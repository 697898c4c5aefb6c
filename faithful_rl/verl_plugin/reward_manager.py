"""Scores each rollout as soon as it ends, while its siblings are still being generated.

Chosen by `reward.reward_manager={source: importlib, name: FaithfulRewardManager, module.path: pkg://<this module>}`. verl builds one
per reward worker and calls `run_single` for each finished rollout.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from faithful_rl import response
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.reward import score_parsed
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.rewards import designs, suite
from faithful_rl.types import ParsedResponse, Score, ScoredRollout, SentenceVerdict
from faithful_rl.verl_plugin import judge_workers
from faithful_rl.verl_plugin.run_control import settings_of

logger = logging.getLogger(__name__)

# Set by our agent loop workers on every rollout; absent where verl's own worker drives the rollouts.
SPLIT_FIELD = "rollout_split"  # "train" | "heldout"
DETAILS_KEY = "judged_json"  # text beside the numbers; the agent loop worker takes it out again before verl averages anything


class ExactJudge:
    """The exact rules of scenes in this process: who judges held-out responses of a run whose own judges are models."""

    def __init__(self, judge: str) -> None:
        self._judge = judge
        self._scene = SceneJudge()

    async def ask(self, request: JudgeRequest) -> Score | list[SentenceVerdict]:
        return self._scene.consistency(request) if self._judge == "consistency" else self._scene.grounding(request)


class RolloutScorer:
    """Text and row in, `ScoredRollout` out. Knows nothing of verl, so that tests can drive it with plain data."""

    def __init__(
        self,
        consistency: Any,
        grounding: Any,
        ask_masked: bool,
        needs_images: bool = False,
        design: designs.Design | None = None,
        heldout_judges: tuple[Any, Any] | None = None,
        grounding_in_training: bool = True,
    ) -> None:
        self._consistency, self._grounding, self._ask_masked = consistency, grounding, ask_masked
        self.needs_images = needs_images  # whether the grounding judge looks at them; otherwise they need not travel
        self._design = design  # None: the paper's task reward
        self._heldout = heldout_judges or (consistency, grounding)
        self._grounding_in_training = grounding_in_training

    async def score(
        self,
        text: str,
        reward_model: Mapping[str, Any],
        extra_info: Mapping[str, Any],
        heldout: bool,
        images: Sequence[bytes] = (),
    ) -> tuple[ParsedResponse, ScoredRollout]:
        """Rules first; judges only where their verdict can count, or always on held-out questions.

        Args:
            images: encoded image files of the prompt, in its order.

        Raises:
            ValueError: the row itself is unusable; preflight refuses such rows before a run starts.
        """
        parsed = response.parse(text, response.BLOCKS if self._design is None else self._design.blocks)
        rollout = await score_parsed(
            parsed,
            suite.Reference.from_row(reward_model, extra_info),
            {**extra_info, "images": list(images)} if images else extra_info,
            *(self._heldout if heldout else (self._consistency, self._grounding)),
            ask_masked=self._ask_masked or heldout,
            design=self._design,
            ask_grounding=self._grounding_in_training or heldout,
        )
        return parsed, rollout


def prompt_images(messages: Any) -> list[bytes]:
    """The images of a prompt as verl's dataset put them into its messages: the file's bytes, else the picture as PNG. One that cannot be
    read any more keeps its place, empty: the judge says so, and the finished rollout is not lost."""
    parts = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    found = []
    for part in parts:
        if part.get("type") == "image":
            try:
                found.append(_encoded(part))
            except (OSError, ValueError) as error:
                logger.warning("an image of a prompt cannot be read for the judges: %s", error)
                found.append(b"")
    return found


def _encoded(part: Mapping[str, Any]) -> bytes:
    if isinstance(part.get("bytes"), bytes):
        return bytes(part["bytes"])
    image = part["image"]
    if isinstance(image, str):  # a path, as verl's dataset leaves it
        return Path(image.removeprefix("file://")).read_bytes()
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


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
    """Clients of the run's judges, from `faithful_rl.judges`."""
    judges = settings_of(config.faithful_rl.judges)
    design = designs.get(str(config.faithful_rl.rewards.design))
    exact = (ExactJudge("consistency"), ExactJudge("grounding")) if judges.get("heldout") == "scene" else None
    return RolloutScorer(
        *judge_workers.clients(judges),
        bool(judges["ask_masked"]),
        judge_workers.needs_images(judges),
        design,
        exact,
        bool(judges.get("grounding_in_training", True)),
    )


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
        parsed, rollout = await self._scorer.score(
            text,
            fields["reward_model"],
            fields.get("extra_info") or {},
            heldout=split == "heldout",
            images=prompt_images(fields["raw_prompt"]) if self._scorer.needs_images else (),
        )
        info: dict[str, Any] = suite.columns(rollout)
        if split is not None:
            info[DETAILS_KEY] = details_json(parsed, rollout)
        return {"reward_score": float(rollout.scores["task"].value or 0.0), "reward_extra_info": info}
