"""`faithful_rl.constraints`: what is demanded of the policy, and how each multiplier moves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from faithful_rl.config.checks import in_range, one_of, require
from faithful_rl.config.schedule import ScheduleConfig, validate_schedule

MULTIPLIER_KINDS = ("dual_ascent", "fixed", "pi", "pid", "schedule")
REACTIVE = ("dual_ascent", "pi", "pid")  # kinds that a violation moves
DIRECTIONS = ("at_least", "at_most")
SIGNS = {">=": "at_least", "<=": "at_most"}  # other spellings of a direction
THRESHOLD_KINDS = ("constant", "linear", "relative")
NO_MASK = "none"
RESERVED = ("task", "coupled")  # what the advantage calls its own parts
GROUNDED = ("semantic_grounding", "correct_sentence_count", "judged_sentence_count")  # known where the grounding judge was asked
JUDGED = ("consistency", *GROUNDED)
RIGHT_ONLY = ("accuracy", *JUDGED)  # masks that let no rollout in whose answer is wrong, where judges are not asked about those


@dataclass
class MultiplierConfig:
    """How the multiplier lambda_k of one constraint moves (Eq. 4)."""

    kind: str = "dual_ascent"  # dual_ascent | fixed | pi | pid | schedule
    start: float = 1.0  # first value, in [0, maximum]; not with `schedule`
    step_size: float = 0.05  # eta, > 0; the integral's gain of pi and pid; not with `fixed` and `schedule`
    maximum: float = 5.0  # lambda_max, > 0
    min_applicable: int = 8  # rollouts; with fewer applicable ones in a batch the multiplier stays as it is
    proportional: float = 0.0  # pi, pid: gain on the (damped) violation, >= 0
    derivative: float = 0.0  # pid: gain on the rise of the damped violation, >= 0
    damping: float = 0.0  # pi, pid: share of the past in the damped violation, in [0, 1)
    schedule: ScheduleConfig | None = None  # schedule: the value at each step, whatever is measured
    first_step: int = 1  # training step of the first update, >= 1
    update_every: int = 1  # steps, >= 1
    window: int = 1  # measured batches whose violations are averaged before an update, >= 1


@dataclass
class ThresholdScheduleConfig:
    """How the threshold comes to its final value; the fields of `faithful_rl.constraints.threshold.ThresholdSettings`."""

    kind: str = "constant"  # constant | linear: from `start` | relative: a share of the way from the rate at the start of training
    start: float | None = None  # linear: the threshold up to step `begin`
    begin: int = 0  # linear: steps, >= 0
    steps: int = 0  # linear: steps that the change takes, >= 1
    share: float | None = None  # relative: in [0, 1]; 0 demands no more than the rate at the start, 1 the threshold itself
    measure: int = 0  # relative: first batches over which the starting rate is measured, >= 1


@dataclass
class ConstraintConfig:
    """One constraint E[R_k] >= threshold, or <= threshold, over the rollouts where the mask column is > 0 (Eq. 2 and 5)."""

    threshold: float = MISSING  # tau_k, in the column's range
    mask: str = MISSING  # a reward column, for example accuracy or has_reference_boxes | none: every rollout
    direction: str = "at_least"  # at_least | at_most; also >= and <=, in quotes where YAML or the shell asks for them
    column: str = ""  # a reward column; empty: the constraint's own name
    by_source: dict[str, float] = field(default_factory=dict)  # data_source of a row -> its threshold; other rows use `threshold`
    threshold_schedule: ThresholdScheduleConfig = field(default_factory=ThresholdScheduleConfig)
    multiplier: MultiplierConfig = field(default_factory=MultiplierConfig)

    def __post_init__(self) -> None:
        self.direction = SIGNS.get(self.direction, self.direction)


# Settings that only some kinds of multiplier have, with the value that leaves them out.
_OWN_SETTINGS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "start": (MultiplierConfig.start, ("fixed", *REACTIVE)),
    "step_size": (MultiplierConfig.step_size, REACTIVE),
    "proportional": (0.0, ("pi", "pid")),
    "damping": (0.0, ("pi", "pid")),
    "derivative": (0.0, ("pid",)),
    "schedule": (None, ("schedule",)),
    "first_step": (1, REACTIVE),
    "update_every": (1, REACTIVE),
    "window": (1, REACTIVE),
}


def known_columns(design: str = "paper") -> dict[str, tuple[float, float]]:
    """Column that a constraint, a mask or a weight may name under `faithful_rl.rewards.design` -> its range."""
    from faithful_rl.rewards.ranges import produced_ranges  # here, because it loads numpy and help should answer at once

    return produced_ranges(design)


def validate_constraint(name: str, constraint: ConstraintConfig, columns: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Check one constraint against the columns that rewards produce (default: `known_columns()`)."""
    columns = known_columns() if columns is None else columns
    key = f"constraints.{name}"
    require(
        re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) is not None and name not in RESERVED,
        "constraints",
        name,
        f"a name of lower case letters, digits and '_', because it stands in the names of metrics, and none of {', '.join(RESERVED)}",
        f"Choose another name, with column: {constraint.column or name}.",
    )
    column = constraint.column or name
    one_of(f"{key}.column" if constraint.column else "constraints", column, tuple(columns))
    one_of(f"{key}.direction", constraint.direction, DIRECTIONS)
    low, high = columns[column]
    in_range(f"{key}.threshold", constraint.threshold, low, high)
    one_of(f"{key}.mask", constraint.mask, (NO_MASK, *columns))
    require(
        constraint.mask != column,
        f"{key}.mask",
        constraint.mask,
        "another column than the constrained one: over rollouts where it is above 0, its mean says nothing about the others",
        f"Set faithful_rl.{key}.mask=none.",
    )
    for source, threshold in constraint.by_source.items():
        in_range(f"{key}.by_source.{source}", threshold, low, high)
    _validate_threshold(key, constraint, low, high)
    _validate_multiplier(f"{key}.multiplier", constraint.multiplier)


def validate_asked(name: str, constraint: ConstraintConfig, ask_masked: bool) -> None:
    """A judged column is measured where the judges are asked: for right answers only, unless `judges.ask_masked`."""
    column = constraint.column or name
    require(
        column not in JUDGED or ask_masked or constraint.mask in RIGHT_ONLY,
        f"constraints.{name}.mask",
        constraint.mask,
        "accuracy, because judges are asked about right answers only (faithful_rl.judges.ask_masked=false): all others would count as "
        "failed measurements and freeze the multiplier",
        f"Set faithful_rl.constraints.{name}.mask=accuracy, or faithful_rl.judges.ask_masked=true.",
    )


def _validate_threshold(key: str, constraint: ConstraintConfig, low: float, high: float) -> None:
    schedule, here = constraint.threshold_schedule, f"{key}.threshold_schedule"
    one_of(f"{here}.kind", schedule.kind, THRESHOLD_KINDS)
    for name, neutral, kind in (
        ("start", None, "linear"), ("begin", 0, "linear"), ("steps", 0, "linear"), ("share", None, "relative"), ("measure", 0, "relative"),
    ):  # fmt: skip
        value = getattr(schedule, name)
        _require_unset(f"{here}.{name}", value, value == neutral or schedule.kind == kind, f"only with kind {kind}", here)
    if schedule.kind == "linear":
        require(
            schedule.start is not None, f"{here}.start", schedule.start, "the threshold at its beginning", f"Set faithful_rl.{here}.start."
        )
        in_range(f"{here}.start", schedule.start if schedule.start is not None else low, low, high)
        in_range(f"{here}.begin", schedule.begin, 0)
        in_range(f"{here}.steps", schedule.steps, 1)
    if schedule.kind == "relative":
        require(schedule.share is not None, f"{here}.share", schedule.share, "a number in [0, 1]", f"Set faithful_rl.{here}.share.")
        in_range(f"{here}.share", schedule.share if schedule.share is not None else 0.0, 0.0, 1.0)
        in_range(f"{here}.measure", schedule.measure, 1)
    require(
        not constraint.by_source or schedule.kind == "constant",
        f"{key}.by_source",
        f"thresholds by source beside a threshold schedule of kind {schedule.kind}",
        "one of the two",
        f"Leave out faithful_rl.{key}.by_source, or set faithful_rl.{here}.kind=constant.",
    )


def _validate_multiplier(key: str, multiplier: MultiplierConfig) -> None:
    one_of(f"{key}.kind", multiplier.kind, MULTIPLIER_KINDS)
    in_range(f"{key}.maximum", multiplier.maximum, 0.0, open_low=True)
    in_range(f"{key}.start", multiplier.start, 0.0, multiplier.maximum)
    in_range(f"{key}.step_size", multiplier.step_size, 0.0, open_low=True)
    in_range(f"{key}.min_applicable", multiplier.min_applicable, 1)
    for name in ("proportional", "derivative"):
        in_range(f"{key}.{name}", getattr(multiplier, name), 0.0)
    in_range(f"{key}.damping", multiplier.damping, 0.0, math.nextafter(1.0, 0.0))
    for name in ("first_step", "update_every", "window"):
        in_range(f"{key}.{name}", getattr(multiplier, name), 1)
    for name, (neutral, kinds) in _OWN_SETTINGS.items():
        value = getattr(multiplier, name)
        _require_unset(f"{key}.{name}", value, value == neutral or multiplier.kind in kinds, f"only with kind {' or '.join(kinds)}", key)
    if multiplier.kind in ("pi", "pid"):
        require(
            multiplier.proportional > 0.0 or (multiplier.kind == "pid" and multiplier.derivative > 0.0),
            f"{key}.proportional",
            multiplier.proportional,
            f"a gain above 0, because {multiplier.kind} without one is dual_ascent",
            f"Set faithful_rl.{key}.proportional, or faithful_rl.{key}.kind=dual_ascent.",
        )
    if multiplier.kind == "schedule":
        example = f"'faithful_rl.{key}.schedule={{kind: linear, start: 0, end: 1, steps: 20}}'"
        require(multiplier.schedule is not None, f"{key}.schedule", None, "a schedule", f"Set it, for example {example}.")
        validate_schedule(f"{key}.schedule", multiplier.schedule or ScheduleConfig(), 0.0, multiplier.maximum)


def _require_unset(key: str, found: object, ok: bool, expected: str, owner: str) -> None:
    require(ok, key, found, f"it {expected}", f"Leave it out, or change faithful_rl.{owner}.kind.")
