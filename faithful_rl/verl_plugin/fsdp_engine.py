"""verl's FSDP engine on CPU ranks: FSDP2 over gloo, for the actor and for the reference policy.

FSDP1 refuses CPU modules (`sync_module_states`), so only the strategy `fsdp2` is registered. The base
class does the work; what is added here: the reference policy without pinned host memory, and the
option to keep the vision tower out of the optimizer.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from faithful_rl.verl_plugin import vision_tower
from faithful_rl.verl_plugin.guards.pinned_memory import without_pinned_memory
from faithful_rl.verl_plugin.threads import training_threads


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device=["cpu"])  # type: ignore[untyped-decorator]
class CpuFSDPEngineWithLMHead(FSDPEngineWithLMHead):  # type: ignore[misc]
    """FSDP2 language-model engine for CPU ranks.

    Raises:
        ValueError: settings that cannot work on a CPU, named with the value that does.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        torch.set_num_threads(training_threads(torch.distributed.get_world_size()))
        if self.model_config.use_remove_padding:
            raise ValueError(
                "actor_rollout_ref.model.use_remove_padding is True, but packed sequences need FlashAttention, "
                "which has no CPU kernel: set it to False"
            )
        attention = self.model_config.override_config.get("attn_implementation", "flash_attention_2")
        if attention not in ("sdpa", "eager"):
            raise ValueError(
                f"attn_implementation is {attention!r}, which has no CPU kernel: set "
                "+actor_rollout_ref.model.override_config.attn_implementation=sdpa"
            )

    def _build_module(self) -> torch.nn.Module:
        module: torch.nn.Module = super()._build_module()
        vision_tower.apply(module, self.model_config.override_config)
        return module

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        with without_pinned_memory():
            wrapped: torch.nn.Module = super()._build_fsdp_module(module)
        return wrapped

    def _build_optimizer(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        from verl.workers.config.optimizer import build_optimizer

        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer = build_optimizer(trainable, self.optimizer_config)
        return optimizer
