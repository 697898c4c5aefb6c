"""A `torch.<device>` namespace for the CPU: what verl calls on `torch.cuda`, answered by `torch.cpu` and the operating system.

verl asks its platform for such a module (`Platform.device_module`) and uses it for streams, memory
figures and random numbers. Memory figures here are those of the process (resident set), so that
`perf/max_memory_allocated_gb` means something on a CPU too.
"""

from __future__ import annotations

import resource

import psutil  # type: ignore[import-untyped]
import torch
from torch.cpu import Stream, current_stream, device_count, is_available, set_device, stream, synchronize

__all__ = [
    "Stream",
    "current_device",
    "current_stream",
    "device_count",
    "empty_cache",
    "get_device_name",
    "get_rng_state",
    "ipc_collect",
    "is_available",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "reset_peak_memory_stats",
    "set_device",
    "set_rng_state",
    "stream",
    "synchronize",
]


def current_device() -> str:
    """Something `tensor.to(...)` accepts. `torch.cuda` answers with an index, which would mean a GPU here."""
    return "cpu"


def get_device_name(device: object = None) -> str:
    return "CPU"


def empty_cache() -> None:
    """Nothing to release: the CPU allocator has no cache of its own."""


def ipc_collect() -> None:
    """Nothing to collect: weights travel through shared memory, not device IPC."""


def memory_allocated(device: object = None) -> int:
    """Resident memory of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)


def memory_reserved(device: object = None) -> int:
    return memory_allocated(device)


def max_memory_allocated(device: object = None) -> int:
    """Largest resident memory of this process so far, in bytes (Linux counts `ru_maxrss` in KiB)."""
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, memory_allocated())


def max_memory_reserved(device: object = None) -> int:
    return max_memory_allocated(device)


def reset_peak_memory_stats(device: object = None) -> None:
    """The kernel's high-water mark cannot be reset by a process that wants to stay portable: it stays."""


def mem_get_info(device: object = None) -> tuple[int, int]:
    """(available, total) memory of the machine, in bytes."""
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def get_rng_state(device: object = None) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: object = None) -> None:
    torch.set_rng_state(state)


def manual_seed(seed: int) -> None:
    torch.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    torch.manual_seed(seed)
