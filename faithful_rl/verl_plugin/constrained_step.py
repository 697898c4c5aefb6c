"""One step of the algorithm on plain arrays: advantages with the multipliers as they are, then the dual step, then what to log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faithful_rl.advantage import AdvantageSettings, constrained_advantage
from faithful_rl.constraints import ColumnError, ConstrainedProblem, ConstraintStep
from faithful_rl.metrics import ADVANTAGE_TOTAL_STD, SIGNALS, advantage_metric, constraint_metric
from faithful_rl.verl_plugin.reward_columns import RewardBatch, rollout_metrics


@dataclass(frozen=True)
class StepResult:
    """Outcome for B rollouts.

    Attributes:
        advantages: (B,) float64; zeros when `rejected`.
        by_signal: (B,) float64 per signal, before multipliers.
        metrics: numbers to log.
        rejected: why the batch must not update the policy; "" when it may.
        frozen: constraint -> why its multiplier was left alone.
    """

    advantages: np.ndarray
    by_signal: Mapping[str, np.ndarray]
    metrics: dict[str, float]
    rejected: str
    frozen: Mapping[str, str]


def constrained_step(batch: RewardBatch, problem: ConstrainedProblem, settings: AdvantageSettings) -> StepResult:
    """Eq. 6 with the multipliers before the dual step, then Eq. 4.

    A batch with a broken column (a scored value that is not finite) moves no multiplier and comes back rejected.
    """
    metrics = rollout_metrics(batch, SIGNALS)
    multipliers = problem.multipliers
    try:
        result = constrained_advantage(batch.columns, batch.uids, problem.constraints, multipliers, settings)
        steps = problem.dual_step(batch.columns)
    except ColumnError as error:
        metrics.update({constraint_metric(name, "multiplier"): value for name, value in multipliers.items()})
        return StepResult(np.zeros(len(batch.rows)), {}, metrics, str(error), {})
    weighted = (weight * result.by_signal[name] for name, weight in multipliers.items())
    combined = sum(weighted, result.by_signal["task"])
    metrics.update({advantage_metric(name): float(np.abs(values).mean()) for name, values in result.by_signal.items() if values.size})
    metrics[ADVANTAGE_TOTAL_STD] = float(combined.std(ddof=1)) if combined.size > 1 else 0.0
    for step in steps.values():
        metrics.update(constraint_metrics(step))
    rejected = "" if np.isfinite(result.total).all() else f"{int((~np.isfinite(result.total)).sum())} advantages are not finite"
    frozen = {name: str(step.frozen) for name, step in steps.items() if step.frozen is not None}
    return StepResult(result.total, result.by_signal, metrics, rejected, frozen)


def constraint_metrics(step: ConstraintStep) -> dict[str, float]:
    """`constraint/<k>/...` of one dual step; a constraint without any counting rollout has no score and no violation."""
    values: dict[str, float] = {
        "threshold": step.threshold,
        "multiplier": step.multiplier,
        "multiplier_next": step.multiplier_next,
        "applicable": float(step.applicable),
        "coverage": step.coverage,
        "frozen": float(step.frozen is not None),
        "saturated": float(step.saturated),
    }
    if step.score is not None and step.violation is not None:
        values.update(score=step.score, violation=step.violation)
    return {constraint_metric(step.name, field): value for field, value in values.items()}


def merge_updates(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a step made of several local updates: constraints as after the last one, everything else averaged."""
    merged: dict[str, float] = {}
    for name in dict.fromkeys(name for update in updates for name in update):
        values = [update[name] for update in updates if name in update]
        merged[name] = values[-1] if name.startswith("constraint/") else float(np.mean(values))
    return merged


def plain_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are single numbers; verl also keeps dictionaries and text among its metrics."""
    return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0 and not isinstance(value, dict | str)}
