"""What surrounds a trainer in its process: the watchdog, the multiplier store, and the wish of the user that the run ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf

from faithful_rl.verl_plugin.watchdog import Watchdog

STOP_FILE = "stop_requested"
STORE_TIMEOUT = 60.0  # seconds; the store answers in milliseconds


def request_stop(run_dir: Path, reason: str) -> None:
    """Ask the run in `run_dir` to write a checkpoint at the end of the current step and to end. Any process may ask."""
    (run_dir / STOP_FILE).write_text(reason, encoding="utf-8")


def clear_stop(run_dir: Path) -> None:
    """Forget a wish that an earlier start of this run has fulfilled."""
    (run_dir / STOP_FILE).unlink(missing_ok=True)


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
        return (self.run_dir / STOP_FILE).exists()
