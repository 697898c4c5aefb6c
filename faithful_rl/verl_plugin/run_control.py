"""What surrounds a trainer in its process: the watchdog, the multiplier store, and the wish of the user that the run ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf

from faithful_rl import stop_request
from faithful_rl.verl_plugin.watchdog import Watchdog

STORE_TIMEOUT = 60.0  # seconds; the store answers in milliseconds


def settings_of(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A config node as a plain dictionary with resolved values."""
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    if not isinstance(plain, dict):
        raise TypeError(f"expected a mapping, found {type(plain).__name__}")
    return {str(key): value for key, value in plain.items()}


@dataclass
class RunControl:
    """`store` is the handle of the named `MultiplierStore`; None where nobody reads multipliers (tests). `ceilings` are the scores that
    a perfect policy is given by the run's judges, by constraint, where their calibration is known."""

    run_dir: Path
    watchdog: Watchdog
    store: Any = None
    ceilings: Mapping[str, float] = field(default_factory=dict)

    def publish(self, step: int, multipliers: Mapping[str, float]) -> None:
        """Make the multipliers of the end of `step` readable in every process before this returns."""
        if self.store is not None:
            ray.get(self.store.publish.remote(step, dict(multipliers)), timeout=STORE_TIMEOUT)

    def stop_requested(self) -> bool:
        return stop_request.stop_requested(self.run_dir)
