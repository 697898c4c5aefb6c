"""What runs must share for a difference between them to be one of the method.

To the method belong: how the advantage is made (`faithful_rl.advantage`), constraints, the reward design with its prompt, how the loss is
averaged (Dr. GRPO), who judges in training and how much is asked. To the machine, and not looked at: hardware, micro-batches, engines.
Everything else that decides what is learnt or measured stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faithful_rl.config import FaithfulRLConfig

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
KL, KL_TERMS = f"{_ACTOR}.use_kl_loss", (f"{_ACTOR}.kl_loss_coef", f"{_ACTOR}.kl_loss_type")
# One start, the same questions, as many steps: without these nothing can be compared.
START = (
    "actor_rollout_ref.model.path",
    "data.train_files",
    "data.val_files",
    "data.train_batch_size",
    f"{_ROLLOUT}.n",
    "trainer.total_training_steps",
    "trainer.total_epochs",
)
PUZZLES = "faithful_rl.data.puzzles"  # in place of the files that are made from it
# How it is learnt, and how it is measured.
LEARNING = (
    KL,
    *KL_TERMS,
    "algorithm.use_kl_in_reward",
    f"{_ACTOR}.optim",
    f"{_ACTOR}.ppo_mini_batch_size",
    f"{_ACTOR}.ppo_epochs",
    *(f"{_ACTOR}.clip_ratio{end}" for end in ("", "_low", "_high", "_c")),
    f"{_ACTOR}.entropy_coeff",
    *(f"actor_rollout_ref.model.{name}" for name in ("lora_rank", "lora_alpha", "override_config.freeze_vision_tower")),
    *(f"{_ROLLOUT}.{name}" for name in ("temperature", "top_p", "top_k")),
    "data.max_prompt_length",
    "data.max_response_length",
    "trainer.v1.trainer_mode",
    "faithful_rl.evaluation.decodings",
    "faithful_rl.evaluation.max_questions",
)
HELDOUT_JUDGES = "faithful_rl.judges (held-out questions)"
OWN_PROMPTS = {"paper": "think"}  # of a reward design whose prompt has another name; a prompt that is the design's own is part of it


def start(config: Mapping[str, Any], typed: FaithfulRLConfig) -> dict[str, Any]:
    """Key -> value of what is the same in any comparison. `config` is resolved."""
    found = {key: _select(config, key) for key in START}
    if typed.data.source == "puzzles":
        design, made = typed.rewards.design, vars(typed.data.puzzles)
        own = made["prompt"] == OWN_PROMPTS.get(design, design)
        del found["data.train_files"], found["data.val_files"]
        found[PUZZLES] = {**made, "prompt": "the reward design's own" if own else made["prompt"]}
    return found


def learning(config: Mapping[str, Any], typed: FaithfulRLConfig) -> dict[str, Any]:
    """Key -> value of what methods share unless they are compared as somebody else has set them."""
    values = {key: _select(config, key) for key in LEARNING}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(_leaves(key, value))
    if not values[KL]:  # the terms of a penalty that is off
        for key in KL_TERMS:
            found[key] = None
    found[HELDOUT_JUDGES] = heldout_judges(typed)
    return found


def heldout_judges(typed: FaithfulRLConfig) -> str:
    """Who judges held-out responses, and so makes the rows' IR and R_S, in words that are equal where they would say the same."""
    judges = typed.judges
    if judges.heldout == "scene":
        return "scene"
    if judges.pool:
        return f"pool {judges.pool}"
    told = {name: _named(one.backend, one.options) for name, one in (("consistency", judges.consistency), ("grounding", judges.grounding))}
    same = len(set(told.values())) == 1
    return told["consistency"] if same else ", ".join(f"{name}: {one}" for name, one in told.items())


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, in order. The terms of a KL penalty count only where both have one."""
    keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
    return [key for key in keys if key not in KL_TERMS or first[KL] == other[KL]]


def _named(backend: str, options: Mapping[str, Any]) -> str:
    return f"{backend} {options['model']}" if options.get("model") else backend


def _leaves(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {name: leaf for child in value for name, leaf in _leaves(f"{key}.{child}", value[child]).items()}
    return {key: value}


def _select(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
