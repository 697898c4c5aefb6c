"""M-RoPE position ids of a batch whose sequences all have the same length.

TransferQueue puts the per-sample tensors of a field together with `as_nested_tensor(layout=jagged)`,
which takes the dimension that differs as the ragged one. Position ids are (4, L) per sample; when
every L is the same, nothing differs and the first dimension (4) becomes the ragged one. verl then
declares dimension 2 ragged (`maybe_fix_3d_position_ids`) and the actor update dies with
"split_with_sizes expects split_sizes to sum exactly to ...". Rare at scale, frequent with short
responses and small batches, on every platform.

Can go when TransferQueue keeps a field's ragged dimension, or verl rebuilds the field after fetching it.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from tensordict import TensorDictBase

FIELD = "position_ids"


def with_ragged_length(position_ids: torch.Tensor) -> torch.Tensor:
    """The same samples with their last dimension (sequence length) ragged.

    Args:
        position_ids: jagged nested tensor (B, 4, L*) or, wrongly, (B, 4*, L). Anything else is returned as it is.
    """
    if not (position_ids.is_nested and position_ids.layout == torch.jagged and position_ids.dim() == 3):
        return position_ids
    if position_ids._ragged_idx == 2:  # type: ignore[attr-defined]
        return position_ids
    samples = position_ids.unbind(0)
    offsets = torch.tensor([0, *(sample.shape[-1] for sample in samples)]).cumsum(0)
    return torch.nested.nested_tensor_from_jagged(torch.cat(samples, dim=-1), offsets=offsets, jagged_dim=2)


def repair(data: Any) -> Any:
    """Repair the field `position_ids` of a fetched batch in place; return the batch."""
    if isinstance(data, TensorDictBase):
        value = data.get(FIELD, None)
        if isinstance(value, torch.Tensor):
            repaired = with_ragged_length(value)
            if repaired is not value:
                data[FIELD] = repaired
    return data


def apply(client_module: ModuleType) -> None:
    """Make the clients of `transfer_queue.client` hand out repaired batches, whatever the storage behind them."""
    client_class = client_module.AsyncTransferQueueClient
    original = client_class.async_get_data
    if getattr(original, "faithful_rl_guard", False):
        return

    @functools.wraps(original)
    async def async_get_data(self: Any, *args: Any, **kwargs: Any) -> Any:
        return repair(await original(self, *args, **kwargs))

    async_get_data.faithful_rl_guard = True  # type: ignore[attr-defined]
    client_class.async_get_data = async_get_data
