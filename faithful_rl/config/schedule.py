"""A number that changes with the training step by rule, wherever a recipe may say so."""

from __future__ import annotations

import math
from dataclasses import dataclass

from faithful_rl.config.checks import in_range, one_of, require

SCHEDULE_KINDS = ("constant", "linear", "cosine")


@dataclass
class ScheduleConfig:
    """The fields of `faithful_rl.constraints.schedule.Schedule`: warm-up is `end` above `start`, decay below."""

    kind: str = "constant"  # constant: `start` at every step | linear, cosine: from `start` to `end`
    start: float = 1.0  # value up to and including step `begin`
    end: float | None = None  # value from step `begin` + `steps` on; linear and cosine only
    begin: int = 0  # steps, >= 0
    steps: int = 0  # steps that the change takes, >= 1; linear and cosine only


def validate_schedule(key: str, schedule: ScheduleConfig, low: float, high: float = math.inf) -> None:
    """Check one schedule; its values must lie in [low, high]."""
    one_of(f"{key}.kind", schedule.kind, SCHEDULE_KINDS)
    in_range(f"{key}.start", schedule.start, low, high)
    in_range(f"{key}.begin", schedule.begin, 0)
    if schedule.kind == "constant":
        require(
            schedule.end is None and not schedule.steps and not schedule.begin,
            key,
            f"constant with end={schedule.end}, begin={schedule.begin}, steps={schedule.steps}",
            "a constant schedule without end, begin and steps",
            f"Leave them out, or set faithful_rl.{key}.kind=linear.",
        )
        return
    require(schedule.end is not None, f"{key}.end", schedule.end, "the value at its end", f"Set faithful_rl.{key}.end.")
    in_range(f"{key}.end", schedule.end if schedule.end is not None else low, low, high)
    in_range(f"{key}.steps", schedule.steps, 1)
