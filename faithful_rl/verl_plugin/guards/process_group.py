"""The backend string of verl's process groups on CPU ranks.

verl builds it as "cpu:gloo,<device>:<backend>". With device "cpu" that names the CPU twice and torch
refuses ("Duplicate device type cpu").

Can go when verl's `initialize_global_process_group*` ask for "cpu:gloo" once where the device is the CPU.
"""

from __future__ import annotations

import functools
from typing import Any

CPU_BACKEND = "cpu:gloo"


def apply(distributed: Any) -> None:
    """Make `verl.utils.distributed.initialize_global_process_group_ray` use gloo alone unless told otherwise."""
    original = distributed.initialize_global_process_group_ray
    if getattr(original, "faithful_rl_guard", False):
        return

    @functools.wraps(original)
    def initialize(timeout_second: int | None = None, backend: str | None = None) -> Any:
        return original(timeout_second=timeout_second, backend=backend or CPU_BACKEND)

    initialize.faithful_rl_guard = True  # type: ignore[attr-defined]
    distributed.initialize_global_process_group_ray = initialize
