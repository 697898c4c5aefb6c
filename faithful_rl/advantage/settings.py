"""How the advantage of a batch is composed and normalised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from faithful_rl.constraints.schedule import Schedule

TASK = "task"
CONSISTENCY = "consistency"
KINDS = ("constrained", "additive", "multiplicative", "summed", "gdpo", "hras")
WEIGHTED = ("summed", "gdpo", "hras")
SUMMED = "summed"
WHITENINGS = ("none", "sequence")
MASKED_ROLLOUTS = ("left_out", "as_zero")


@dataclass(frozen=True, slots=True)
class AdvantageSettings:
    """How advantages are composed and normalised.

    Raises:
        ValueError: a setting out of its range, or two that contradict each other.
    """

    # constrained: the task reward | additive, multiplicative: one coupled reward | summed: one reward, a weighted sum of signals | gdpo,
    # hras: a weighted sum of signals, each normalised on its own. Constraints with their multipliers come on top of any of them.
    kind: str = "constrained"
    std_floor: float = 1e-3  # reward units, >= 0; smallest divisor, so that judge noise is not stretched to unit variance
    epsilon: float = 1e-6  # added to the divisor, >= 0; one of the two must be above 0
    normalise_by_std: bool = True  # False: rewards are only centred in their group, as in Dr. GRPO
    whitening: str = "sequence"  # none | sequence: zero mean and unit variance over the batch, one value per rollout
    normalise_by_multipliers: bool = False  # divide by 1 + sum of multipliers, so that their size does not change that of the step
    # left_out: a masked rollout has A_k = 0 and no part in its group's statistics; as_zero: it takes part with R_k = 0 (an ablation)
    masked_rollouts: str = "left_out"
    weights: Mapping[str, Schedule] = field(default_factory=dict)  # summed, gdpo, hras: signal -> weight at each step

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("kind", self.kind, KINDS),
            ("whitening", self.whitening, WHITENINGS),
            ("masked_rollouts", self.masked_rollouts, MASKED_ROLLOUTS),
        ):
            if value not in allowed:
                raise ValueError(f"advantage.{name} is {value!r}, expected one of {list(allowed)}")
        for name, number in (("std_floor", self.std_floor), ("epsilon", self.epsilon)):
            if not (math.isfinite(number) and number >= 0.0):
                raise ValueError(f"advantage.{name} must be finite and at least 0, got {number}")
        if self.std_floor + self.epsilon <= 0.0:
            raise ValueError("advantage.std_floor and advantage.epsilon must not both be 0: groups without variance would divide by 0")
        if self.normalise_by_multipliers and self.whitening != "none":
            raise ValueError("advantage.normalise_by_multipliers has no effect under whitening, which divides by the spread anyway")
        self._check_weights()

    def _check_weights(self) -> None:
        if self.kind not in WEIGHTED:
            if self.weights:
                raise ValueError(f"advantage.weights belong to {', '.join(WEIGHTED)}; advantage.kind is {self.kind!r}")
            return
        if not self.weights:
            raise ValueError(f"advantage.kind is {self.kind!r}: set advantage.weights, a weight for each signal")
        if self.kind == "hras" and set(self.weights) != {TASK, CONSISTENCY}:
            raise ValueError(f"advantage.kind is 'hras', which weighs task and consistency; advantage.weights has {sorted(self.weights)}")
        for name, schedule in self.weights.items():
            if schedule.bounds()[0] < 0.0:
                raise ValueError(f"advantage.weights.{name} falls to {schedule.bounds()[0]:g}, expected at least 0")
            if self.kind != "hras" and schedule.kind != "constant":
                raise ValueError(
                    f"advantage.weights.{name} is {schedule.kind}, {self.kind} has constant weights: choose hras for ones that move"
                )
        if not any(schedule.bounds()[1] for schedule in self.weights.values()):
            raise ValueError("advantage.weights are all 0 at every step: one above 0 is needed, or the advantage is 0 everywhere")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> AdvantageSettings:
        """From a recipe's `advantage` node.

        Raises:
            ValueError: an unknown key, a value out of its range, or two that contradict each other.
        """
        own = dict(settings)
        weights = {str(name): Schedule.from_settings(schedule) for name, schedule in (own.pop("weights", None) or {}).items()}
        try:
            return cls(**own, weights=weights)
        except TypeError as error:
            raise ValueError(f"advantage got settings {sorted(own)}: {error}") from error
