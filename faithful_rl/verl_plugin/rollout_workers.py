"""verl's agent loop workers, with sampling that a resumed run repeats.

Chosen by `actor_rollout_ref.rollout.agent.agent_loop_manager_class`. Added to verl's worker:

- each request carries its own sampling seed, made from the run's seed, the prompt's uid and the rollout's number, so what is
  sampled does not depend on which request the server met first. Only vLLM takes a `seed`, and pays for it at every token. The async
  modes continue an aborted rollout as a new request, which would draw the same random numbers again: they stay unseeded;
- a prompt may carry its own decoding (`DECODING_FIELD`), so that held-out questions run at temperature 1 and greedily side by side;
- each rollout carries when its text and when its reward was there, for the judge time that generation does not hide;
- image tokens that the policy writes itself are taken out before training meets them (`media_tokens`);
- a worker says when nothing is left to do, so that the trainer need not look for it (`finish_signal`);
- the judges' words travel beside the reward columns instead of in them, because verl averages every column.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from functools import cached_property
from typing import Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.tokenizer.tokenizer import get_processor_token_id

from faithful_rl.verl_plugin import media_tokens
from faithful_rl.verl_plugin.judge_timing import TIMES_KEY
from faithful_rl.verl_plugin.reward_manager import DETAILS_KEY, SPLIT_FIELD

logger = logging.getLogger(__name__)

DECODING_FIELD = "rollout_decoding"
DECODINGS: dict[str, dict[str, float]] = {
    "T1": {"temperature": 1.0, "top_p": 1.0, "top_k": -1},
    "greedy": {"temperature": 0.0, "top_p": 1.0, "top_k": -1},
}


def sampling_seed(run_seed: int, uid: str, rollout: int) -> int:
    """A 31-bit seed for one rollout; equal arguments give equal seeds on every machine and Python version."""
    digest = hashlib.blake2b(f"{run_seed}/{uid}/{rollout}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF


def seeded(config: Any, heldout: bool) -> bool:
    """Whether a request gets a seed: on vLLM, all held-out ones, and in training as `faithful_rl.hardware.seeded_rollouts` says."""
    if config.actor_rollout_ref.rollout.name != "vllm":
        return False
    return heldout or (config.trainer.v1.trainer_mode == "sync" and bool(config.faithful_rl.hardware.seeded_rollouts))


def request_sampling(params: dict[str, Any], run_seed: int, uid: str, rollout: int, decoding: str | None, seeded: bool) -> dict[str, Any]:
    """Sampling parameters of one request: the batch's, overridden by the prompt's decoding, with the request's own seed."""
    own = {**params, **(DECODINGS[decoding] if decoding else {})}
    if seeded:
        own["seed"] = sampling_seed(run_seed, uid, rollout)
    return own


# verl exports the Ray actor class; the class behind it is what can be extended.
_HostWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class FaithfulAgentLoopWorker(_HostWorker):  # type: ignore[misc]
    """See the module's text. What is the same for every rollout is looked up once: a configuration tree is slow to read."""

    @cached_property
    def _run_seed(self) -> int:
        return int(self.config.actor_rollout_ref.rollout.seed)

    @cached_property
    def _seeded(self) -> dict[bool, bool]:
        """`seeded` by whether the question is held out."""
        return {heldout: seeded(self.config, heldout) for heldout in (False, True)}

    @cached_property
    def _media(self) -> frozenset[int]:
        return media_tokens.media_ids(self.tokenizer, (get_processor_token_id(self.processor, name) for name in ("image", "video")))

    async def idle(self) -> None:
        """Returns when every rollout that was asked for until now has ended and lies in the queue; see `finish_signal`."""
        while self.background_tasks:
            await asyncio.wait(self.background_tasks)

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        heldout = bool(trajectory["validate"])
        params = request_sampling(
            sampling_params, self._run_seed, str(kwargs["uid"]), int(kwargs.get("session_id", 0)), kwargs.get(DECODING_FIELD),
            self._seeded[heldout],
        )  # fmt: skip
        return await super()._run_agent_loop(params, trajectory, **{**kwargs, SPLIT_FIELD: "heldout" if heldout else "train"})

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        began = time.time()
        await super()._compute_score(outputs, kwargs=kwargs)
        fields = outputs[-1].extra_fields
        fields[TIMES_KEY] = (began, time.time())
        info = fields.get("reward_extra_info")
        if isinstance(info, dict):
            fields[DETAILS_KEY] = info.pop(DETAILS_KEY, "")
        self._take_out_media_tokens(outputs, str(kwargs.get("uid")))

    def _take_out_media_tokens(self, outputs: list[Any], uid: str) -> None:
        tokenizer = self.tokenizer
        stand_in = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        for output in outputs:
            ids, mask, count = media_tokens.replaced(output.response_ids, output.response_mask, self._media, stand_in)
            if count:
                logger.warning("prompt %s: the policy wrote %d image or video token(s), which training leaves out", uid, count)
                output.response_ids, output.response_mask = ids, mask


class FaithfulAgentLoopManager(AgentLoopManagerTQ):
    """Starts our workers instead of verl's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(FaithfulAgentLoopWorker)


def idle_reporters(manager: Any) -> list[Any]:
    """The workers of `manager` that can say when they are idle: ours."""
    return list(manager.agent_loop_workers) if isinstance(manager, FaithfulAgentLoopManager) else []
