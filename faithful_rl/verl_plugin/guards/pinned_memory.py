"""FSDP2's reference policy without pinned host memory.

verl's FSDP engine offloads every forward-only module with `CPUOffloadPolicy(pin_memory=True)`. Pinned
memory is a service of an accelerator's driver; without one torch refuses ("Cannot access accelerator
device when none is available").

Can go when verl makes `pin_memory` configurable or asks its platform.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.fsdp import CPUOffloadPolicy


def unpinned(pin_memory: bool = False) -> CPUOffloadPolicy:
    """Stand-in for the class `CPUOffloadPolicy`: the same policy, never pinned."""
    return CPUOffloadPolicy(pin_memory=False)


@contextmanager
def without_pinned_memory() -> Iterator[None]:
    """Inside the block, `CPUOffloadPolicy(pin_memory=True)` in verl's FSDP engine makes an unpinned policy."""
    from verl.workers.engine.fsdp import transformer_impl

    original = transformer_impl.CPUOffloadPolicy
    transformer_impl.CPUOffloadPolicy = unpinned
    try:
        yield
    finally:
        transformer_impl.CPUOffloadPolicy = original
