"""torchcodec beside a torch that its compiled parts do not fit.

From 0.16 on, the torchcodec wheel on the default package index is linked to CUDA and fails to import
beside a CPU build of torch with OSError. vLLM requires the package, imports it for video input, and
expects ImportError or RuntimeError where it does not work. We use no video: a torchcodec that cannot
load counts as absent.

Can go when vLLM catches OSError too, or when the installed torchcodec is built for the installed torch.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

NAME = "torchcodec"


def apply() -> bool:
    """Hide torchcodec from imports if its library does not load; True when hidden (now or before)."""
    if NAME in sys.modules:
        return sys.modules[NAME] is None
    spec = importlib.util.find_spec(NAME)
    if spec is None or spec.origin is None:
        return False
    # Versions without this library report their failure as RuntimeError, which vLLM expects.
    library = Path(spec.origin).parent / "libtorchcodec_image.so"
    if not library.exists():
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError:
        sys.modules[NAME] = None  # type: ignore[assignment]  # the import system's own way to say "not importable"
        return True
    return False
