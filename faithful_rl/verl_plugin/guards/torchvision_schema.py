"""torchvision's Python parts beside a torch that its compiled parts do not fit.

The torchvision wheel for Linux x86-64 on the default package index is linked to CUDA. Beside a CPU
build of torch its library does not load, and `import torchvision` ends in "operator torchvision::nms
does not exist", because it registers a fake kernel for operators that nobody declared. Qwen2.5-VL's
processor needs torchvision's Python transforms only. Declaring the operators' schemas before the
import makes those work; calling the operators themselves still fails, and says so.

Can go when the installed torchvision is built for the installed torch: then this does nothing already.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def apply() -> tuple[str, ...]:
    """Declare what is missing before torchvision is imported.

    Returns:
        Names of the operators declared here; empty where torchvision is absent or has its own.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _loads(Path(spec.origin).parent / "_C.so"):
        return ()
    missing = tuple(name for name in SCHEMAS if not _schema_exists(name))
    for name in missing:
        _library().define(SCHEMAS[name])
    return missing


def _loads(library: Path) -> bool:
    """Load torchvision's operators as torchvision would; False when the library does not fit this torch."""
    try:
        torch.ops.load_library(str(library))
    except (ImportError, OSError):
        return False
    return True


def _schema_exists(name: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(f"torchvision::{name}"))


@functools.cache
def _library() -> torch.library.Library:
    """Kept for the life of the process: a library that is collected takes its schemas along."""
    return torch.library.Library("torchvision", "FRAGMENT")
