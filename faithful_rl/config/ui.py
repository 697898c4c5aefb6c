"""`faithful_rl.ui`: what a run shows and keeps for the eye."""

from __future__ import annotations

from dataclasses import dataclass

from faithful_rl.config.checks import in_range


@dataclass
class UiConfig:
    progress: bool = True  # one live line instead of the stack's chatter, which goes to <output_dir>/logs
    rollouts_every: int = 10  # steps between dumps for the rollout viewer, >= 1
    rollouts_per_step: int = 20  # rollouts in one dump, >= 0


def validate_ui(ui: UiConfig) -> None:
    in_range("ui.rollouts_every", ui.rollouts_every, 1)
    in_range("ui.rollouts_per_step", ui.rollouts_per_step, 0)
