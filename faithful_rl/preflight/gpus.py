"""How many NVIDIA GPUs a Ray that starts on this machine will find, and the memory of each, without torch and without Ray.

Ray asks NVML for their number and takes no more than `CUDA_VISIBLE_DEVICES` names; so does this. Where NVML is not there, the driver's
own folder is counted, which knows no memory. Imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"
DRIVER = Path("/proc/driver/nvidia/gpus")
HIDDEN = ("", "NoDevFiles", "-1")  # what CUDA and Ray take for "none"


@dataclass(frozen=True)
class Gpus:
    """What is there. `memory`: bytes of each GPU that can be seen, empty where nobody says."""

    count: int
    where: str  # who says so, for a message
    memory: tuple[int, ...] = ()


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def found(environment: Mapping[str, str] | None = None) -> Gpus:
    """The GPUs of this machine that a process started now can see."""
    environment = os.environ if environment is None else environment
    memory = nvml_memory()
    if memory is not None:
        there = Gpus(len(memory), "NVML", tuple(memory))
    else:
        count = len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
        there = Gpus(count, str(DRIVER) if count else "no NVIDIA driver")
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return there
    listed = [] if named.strip() in HIDDEN else [one.strip() for one in named.split(",")]
    visible = min(there.count, len(listed))
    return Gpus(visible, f"CUDA_VISIBLE_DEVICES={named!r} of the {there.count} that the machine has", _memory_of(listed[:visible], there))


def _memory_of(listed: list[str], there: Gpus) -> tuple[int, ...]:
    """By index; identifiers (GPU-..., MIG-...) say nothing about the size."""
    if not all(one.isdigit() and int(one) < len(there.memory) for one in listed):
        return ()
    return tuple(there.memory[int(one)] for one in listed)


def nvml_memory() -> list[int] | None:
    """Bytes of every GPU by index, as NVIDIA's management library says; None where it is absent or fails."""
    try:
        library = ctypes.CDLL(LIBRARY)
        if library.nvmlInit_v2() != 0:
            return None
    except (OSError, AttributeError):
        return None
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        sizes = []
        for index in range(count.value):
            device, memory = ctypes.c_void_p(), _Memory()
            if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
                return None
            if library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) != 0:
                return None
            sizes.append(int(memory.total))
        return sizes
    finally:
        library.nvmlShutdown()
