"""What a run is too short or too small for: settings below `faithful_rl:` that could never act in it.

The multiplier after the update at the end of step t is used in step t + 1: an update at the end of the last step acts on nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from faithful_rl.config.constraints import REACTIVE, ConstraintConfig
from faithful_rl.config.errors import ConfigError
from faithful_rl.config.root import FaithfulRLConfig


@dataclass(frozen=True)
class RunSize:
    """How long a run is, and how many rollouts one dual step sees; with the words that change them."""

    steps: int  # training steps, >= 1
    rollouts: int  # of one dual step, >= 1
    dual_steps: int = 1  # in each training step
    longer: str = "raise trainer.total_training_steps"
    larger: str = "raise data.train_batch_size"


def check_run_size(typed: FaithfulRLConfig, run: RunSize) -> None:
    """Refuse what would not take full effect before the run ends.

    Raises:
        ConfigError: a change by schedule that ends after the run, a multiplier whose first or second update would come too late to act, or
            that asks for more rollouts than a step has.
    """
    for key, end in _changes(typed):
        if end > run.steps:
            raise ConfigError(
                f"faithful_rl.{key}", f"a change that ends at step {end}", f"an end within the run's {run.steps} steps",
                f"Shorten it, or {run.longer}.",
            )  # fmt: skip
    for name, constraint in typed.constraints.items():
        if constraint.multiplier.kind in REACTIVE:
            _check_updates(f"faithful_rl.constraints.{name}", constraint, run)


def run_size_warnings(typed: FaithfulRLConfig, run: RunSize) -> list[str]:
    """One line for each setting that is allowed but does less in this run than it says."""
    found, measured = [], (run.steps - 1) * run.dual_steps
    for name, constraint in typed.constraints.items():
        window = constraint.multiplier.window
        if window > max(1, measured):
            found.append(
                f"faithful_rl.constraints.{name}.multiplier.window is {window}, and the last update that acts has seen {measured} batches: "
                "it is a mean over all of them."
            )
    patience = typed.constraint_patience
    # The default is no one's choice: trying a recipe for a few steps should not be answered with a warning about it.
    if typed.constraints and patience > run.steps * run.dual_steps and patience != FaithfulRLConfig.constraint_patience:
        found.append(
            f"faithful_rl.constraint_patience is {patience}, the run has {run.steps} steps: a constraint out of reach, or a multiplier "
            "that stands still, will not be told."
        )
    return found


def _changes(typed: FaithfulRLConfig) -> Iterator[tuple[str, int]]:
    """(key, step from which on its value no longer changes by rule)."""
    for name, weight in typed.advantage.weights.items():
        yield f"advantage.weights.{name}", weight.begin + weight.steps
    for name, constraint in typed.constraints.items():
        key, threshold, schedule = f"constraints.{name}", constraint.threshold_schedule, constraint.multiplier.schedule
        yield f"{key}.threshold_schedule", threshold.begin + threshold.steps
        if schedule is not None:
            yield f"{key}.multiplier.schedule", schedule.begin + schedule.steps


def _check_updates(key: str, constraint: ConstraintConfig, run: RunSize) -> None:
    own, measure = constraint.multiplier, constraint.threshold_schedule.measure
    shorter = f"Lower it, or {run.longer}."
    if own.min_applicable > run.rollouts:
        raise ConfigError(
            f"{key}.multiplier.min_applicable", own.min_applicable,
            f"at most the {run.rollouts} rollouts of a step: with more the multiplier never moves", f"Lower it, or {run.larger}.",
        )  # fmt: skip
    if own.first_step > 1 and own.first_step >= run.steps:
        raise ConfigError(
            f"{key}.multiplier.first_step", own.first_step,
            f"at most {max(1, run.steps - 1)}: an update acts in the step after it, and the run has {run.steps} steps", shorter,
        )  # fmt: skip
    ready = 1 + measure // run.dual_steps  # step of the first batch that is held against a threshold
    waits = max(0, -(-(ready - own.first_step) // own.update_every))
    first = own.first_step + waits * own.update_every
    if measure and first >= run.steps:
        raise ConfigError(
            f"{key}.threshold_schedule.measure", f"{measure} batches, after which the first update comes at step {first}",
            f"a first update before the last of the run's {run.steps} steps, because it acts in the step after it", shorter,
        )  # fmt: skip
    if own.update_every > 1 and first + own.update_every >= run.steps:
        raise ConfigError(
            f"{key}.multiplier.update_every", own.update_every,
            f"at most {max(1, run.steps - 1 - first)}, so that a second update (after the one at step {first}) acts in the run's "
            f"{run.steps} steps", shorter,
        )  # fmt: skip
