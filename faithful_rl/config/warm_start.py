"""`faithful_rl.warm_start`: the supervised warm start of the tiny model."""

from __future__ import annotations

from dataclasses import dataclass

from faithful_rl.config.checks import in_range


@dataclass
class WarmStartConfig:
    """Supervised warm start of the tiny model (`recipe=sft_tiny`); the fields of `faithful_rl.tiny.warm_start.WarmStartSettings`."""

    alignment_steps: int = 600  # >= 2
    clean_steps: int = 2000  # >= 2
    imperfect_steps: int = 600  # >= 2
    counting_steps: int = 300  # >= 2
    batch_size: int = 48  # examples, >= 1
    caption_share: float = 0.25  # of the clean examples, in [0, 1]
    matrix_learning_rate: float = 0.02  # > 0; Muon
    other_learning_rate: float = 2e-3  # > 0; AdamW
    imperfect_rate: float = 0.5  # > 0; factor on both learning rates in the stage of that name
    counting_rate: float = 0.25  # > 0; the same in the last stage
    counting_share: float = 0.5  # of the last stage's examples that are about counting, in [0, 1]
    threads: int = 2  # torch threads, >= 1


def validate_warm_start(warm_start: WarmStartConfig) -> None:
    for name in ("alignment_steps", "clean_steps", "imperfect_steps", "counting_steps"):
        in_range(f"warm_start.{name}", getattr(warm_start, name), 2)
    for name in ("matrix_learning_rate", "other_learning_rate", "imperfect_rate", "counting_rate"):
        in_range(f"warm_start.{name}", getattr(warm_start, name), 0.0, open_low=True)
    in_range("warm_start.batch_size", warm_start.batch_size, 1)
    in_range("warm_start.caption_share", warm_start.caption_share, 0.0, 1.0)
    in_range("warm_start.counting_share", warm_start.counting_share, 0.0, 1.0)
    in_range("warm_start.threads", warm_start.threads, 1)
