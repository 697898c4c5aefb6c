"""Keep the vision tower of a vision-language policy fixed, in RL and in supervised fine-tuning.

verl 0.9.1 declares `actor_rollout_ref.actor.freeze_vision_tower` but no FSDP engine reads it, and an
engine is not handed the actor's config. The switch that does reach every engine is the model's
`override_config`; we read the keys `freeze_vision_tower` and `train_projector` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

KEY = "freeze_vision_tower"
PROJECTOR_KEY = "train_projector"
# Where Qwen-VL models turn patches into the language model's tokens: inside the module `visual`, but not part of the tower.
PROJECTORS = (".visual.merger.", ".visual.deepstack_merger_list.")


def wants_frozen_vision_tower(override_config: Mapping[str, Any]) -> bool:
    """Whether `+actor_rollout_ref.model.override_config.freeze_vision_tower=True` is set."""
    return _switch(override_config, KEY)


def apply(module: torch.nn.Module, override_config: Mapping[str, Any]) -> None:
    """Freeze what `override_config` says: nothing, the whole of `visual`, or (with `train_projector`) all of it but the projector.

    Raises:
        ValueError: a switch that is neither True nor False, or that would do nothing on this model.
    """
    frozen, trained = wants_frozen_vision_tower(override_config), _switch(override_config, PROJECTOR_KEY)
    if trained and not frozen:
        raise ValueError(f"{PROJECTOR_KEY} is True without {KEY}: everything is trained already")
    if frozen:
        freeze_vision_tower(module, projector=not trained)


def freeze_vision_tower(module: torch.nn.Module, projector: bool = True) -> int:
    """Switch gradients of the vision tower off; return how many parameters that concerns.

    Args:
        projector: freeze the projector as well, as in RL; in supervised fine-tuning it is trained.

    Raises:
        ValueError: the model has no vision tower (`visual`), or no projector to leave out, so that the switch would do nothing.
    """
    frozen = trained = 0
    for name, parameter in module.named_parameters():
        if ".visual." not in f".{name}":
            continue
        if not projector and any(part in f".{name}" for part in PROJECTORS):
            trained += parameter.numel()
            continue
        parameter.requires_grad_(False)
        frozen += parameter.numel()
    if frozen == 0:
        raise ValueError(f"{KEY} is True, but {type(module).__name__} has no parameter below a module named 'visual'")
    if not projector and trained == 0:
        raise ValueError(f"{PROJECTOR_KEY} is True, but {type(module).__name__} has no projector below 'visual' ({', '.join(PROJECTORS)})")
    return frozen


def _switch(override_config: Mapping[str, Any], key: str) -> bool:
    value = override_config.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"actor_rollout_ref.model.override_config.{key} is {value!r}, expected True or False")
    return value
