"""Keep the vision tower of a vision-language policy fixed during RL.

verl 0.9.1 declares `actor_rollout_ref.actor.freeze_vision_tower` but no FSDP engine reads it, and an
engine is not handed the actor's config. The switch that does reach every engine is the model's
`override_config`; we read the key `freeze_vision_tower` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

KEY = "freeze_vision_tower"


def wants_frozen_vision_tower(override_config: Mapping[str, Any]) -> bool:
    """Whether `+actor_rollout_ref.model.override_config.freeze_vision_tower=True` is set."""
    value = override_config.get(KEY, False)
    if not isinstance(value, bool):
        raise ValueError(f"actor_rollout_ref.model.override_config.{KEY} is {value!r}, expected True or False")
    return value


def freeze_vision_tower(module: torch.nn.Module) -> int:
    """Switch gradients of the vision tower off; return how many parameters that concerns.

    Raises:
        ValueError: the model has no vision tower (`visual`), so that the switch would do nothing.
    """
    frozen = 0
    for name, parameter in module.named_parameters():
        if ".visual." in f".{name}":
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    if frozen == 0:
        raise ValueError(f"{KEY} is True, but {type(module).__name__} has no parameter below a module named 'visual'")
    return frozen
