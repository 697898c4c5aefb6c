"""verl's FSDP engine on NVIDIA GPUs with one addition: the option to keep the vision tower out of training.

verl declares such a switch and no FSDP engine reads it (see `vision_tower`). Everything else is verl's own. verl's registry refuses a
second engine for a device, and looks for one of the device's vendor first: ours is registered for the vendor.
"""

from __future__ import annotations

import torch
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from faithful_rl.verl_plugin import vision_tower


@EngineRegistry.register(  # type: ignore[untyped-decorator]
    model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda"], vendor="nvidia"
)
class GpuFSDPEngineWithLMHead(FSDPEngineWithLMHead):  # type: ignore[misc]
    """FSDP language-model engine for CUDA ranks.

    Raises:
        ValueError: FSDP1 with flattened parameters, in which single parameters cannot be frozen.
    """

    def _build_module(self) -> torch.nn.Module:
        module: torch.nn.Module = super()._build_module()
        frozen = vision_tower.wants_frozen_vision_tower(self.model_config.override_config)
        if frozen and self.engine_config.strategy == "fsdp" and not self.engine_config.use_orig_params:
            raise ValueError(
                f"{vision_tower.KEY} is True, but strategy fsdp flattens parameters: set strategy=fsdp2 or use_orig_params=True"
            )
        vision_tower.apply(module, self.model_config.override_config)
        return module

    def _build_optimizer(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        from verl.workers.config.optimizer import build_optimizer

        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer = build_optimizer(trainable, self.optimizer_config)
        return optimizer
