"""Random states of the driver process as JSON: Python's, NumPy's global one and torch's."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch


def seed(value: int) -> None:
    """Start all three from one seed, in [0, 2**32)."""
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def capture() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode("ascii"),
    }


def restore(state: dict[str, Any]) -> None:
    """Continue exactly where `capture` stood.

    Raises:
        KeyError, ValueError: the state was not made by `capture`.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.frombuffer(bytearray(base64.b64decode(state["torch"])), dtype=torch.uint8))
