"""`faithful_rl.advantage`: how per-signal advantages are made and combined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from faithful_rl.config.checks import in_range, one_of, require
from faithful_rl.config.constraints import NO_MASK, ConstraintConfig, known_columns
from faithful_rl.config.schedule import ScheduleConfig, validate_schedule

ADVANTAGE_KINDS = ("constrained", "additive", "multiplicative", "summed", "gdpo", "hras")
WEIGHTED_KINDS = ("summed", "gdpo", "hras")
WHITENINGS = ("none", "sequence")
MASKED_ROLLOUTS = ("left_out", "as_zero")
# Signals that the base of the advantage already holds: a constraint on one of them would count it twice.
BASE_SIGNALS: Mapping[str, tuple[str, ...]] = {
    "constrained": ("task",),
    "additive": ("accuracy", "format", "consistency", "spatial_grounding"),
    "multiplicative": ("accuracy", "format", "consistency", "spatial_grounding"),
}


@dataclass
class AdvantageConfig:
    """How per-signal advantages are made and combined (Eq. 6 and its alternatives)."""

    # constrained: task reward (GRPO) plus constraints (FGRPO) | additive, multiplicative: one coupled reward | summed: one reward, signals
    # summed with fixed weights | gdpo: signals normalised one by one, fixed weights | hras: task and consistency, weights by schedule
    kind: str = "constrained"
    std_floor: float = 1e-3  # smallest divisor, in reward units, > 0: judge noise is not stretched into advantages
    epsilon: float = 1e-6  # added to the divisor, >= 0
    normalise_by_std: bool = True  # false: rewards are only centred in their group, as in Dr. GRPO
    whitening: str = "sequence"  # sequence: whiten the combined advantage over the batch, one value per rollout | none
    normalise_by_multipliers: bool = False  # divide by 1 + sum of multipliers; only without whitening
    masked_rollouts: str = "left_out"  # left_out of group statistics (advantage 0) | as_zero (counted as reward 0; an ablation)
    weights: dict[str, ScheduleConfig] = field(default_factory=dict)  # summed, gdpo, hras: signal -> weight, >= 0


def validate_advantage(advantage: AdvantageConfig, constraints: Mapping[str, ConstraintConfig], design: str = "paper") -> None:
    """Check the node by itself, against the constraints on top of it, and against `faithful_rl.rewards.design`."""
    one_of("advantage.kind", advantage.kind, ADVANTAGE_KINDS)
    in_range("advantage.std_floor", advantage.std_floor, 0.0, open_low=True)
    in_range("advantage.epsilon", advantage.epsilon, 0.0)
    one_of("advantage.whitening", advantage.whitening, WHITENINGS)
    one_of("advantage.masked_rollouts", advantage.masked_rollouts, MASKED_ROLLOUTS)
    require(
        not advantage.normalise_by_multipliers or advantage.whitening == "none",
        "advantage.normalise_by_multipliers",
        True,
        "false under advantage.whitening=sequence, which divides by the spread anyway",
        "Set faithful_rl.advantage.whitening=none, or leave it out.",
    )
    _refuse_without_constraints(advantage, constraints)
    _validate_weights(advantage, design)
    held = BASE_SIGNALS.get(advantage.kind, tuple(advantage.weights))
    require(
        design == "paper" or "task" in held,
        "rewards.design",
        f"{design} beside faithful_rl.advantage.kind={advantage.kind}, which is made of {', '.join(held)}",
        "an advantage that holds the task reward, which is what a design makes",
        "Set faithful_rl.rewards.design=paper, or faithful_rl.advantage.kind=constrained.",
    )
    _refuse_twice(held, constraints)


def _validate_weights(advantage: AdvantageConfig, design: str) -> None:
    kind, weights = advantage.kind, advantage.weights
    if kind not in WEIGHTED_KINDS:
        require(
            not weights,
            "advantage.weights",
            ", ".join(weights),
            f"no weights, because faithful_rl.advantage.kind is {kind}",
            "Leave them out, or set faithful_rl.advantage.kind=gdpo.",
        )
        return
    require(bool(weights), "advantage.weights", "none", "a weight for each signal", "Choose advantage=gdpo or advantage=hras.")
    for name, schedule in weights.items():
        one_of("advantage.weights", name, tuple(known_columns(design)))
        validate_schedule(f"advantage.weights.{name}", schedule, 0.0)
        require(
            kind == "hras" or schedule.kind == "constant",
            f"advantage.weights.{name}.kind",
            schedule.kind,
            f"constant, because faithful_rl.advantage.kind is {kind}",
            "Set faithful_rl.advantage.kind=hras for weights that move.",
        )
    require(
        any(max(schedule.start, schedule.end or 0.0) > 0.0 for schedule in weights.values()),
        "advantage.weights",
        "0 at every step for " + ", ".join(weights),
        "a weight above 0, because without one the advantage is 0 everywhere",
        f"Set faithful_rl.advantage.weights.{next(iter(weights))}.start.",
    )
    require(
        kind != "hras" or set(weights) == {"task", "consistency"},
        "advantage.weights",
        ", ".join(weights),
        "task and consistency, because faithful_rl.advantage.kind is hras",
        "Set faithful_rl.advantage.kind=gdpo for other signals.",
    )


def _refuse_without_constraints(advantage: AdvantageConfig, constraints: Mapping[str, ConstraintConfig]) -> None:
    """Options that say how constraints enter the advantage."""
    require(
        not advantage.normalise_by_multipliers or bool(constraints),
        "advantage.normalise_by_multipliers",
        True,
        "constraints, because without multipliers it divides by 1",
        "Leave it out, or choose constraints=fgrpo and faithful_rl.method=fgrpo.",
    )
    require(
        advantage.masked_rollouts == "left_out" or any(one.mask != NO_MASK for one in constraints.values()),
        "advantage.masked_rollouts",
        advantage.masked_rollouts,
        "a constraint with a mask, because only masks leave rollouts out",
        "Leave it out, or choose constraints=fgrpo and faithful_rl.method=fgrpo.",
    )


def _refuse_twice(held: Iterable[str], constraints: Mapping[str, ConstraintConfig]) -> None:
    for name, constraint in constraints.items():
        column = constraint.column or name
        require(
            column not in held and name not in held,
            f"constraints.{name}",
            f"a constraint on {column}",
            "a column that the advantage does not already hold: " + ", ".join(held),
            "Leave the constraint out, or choose another faithful_rl.advantage.kind.",
        )
