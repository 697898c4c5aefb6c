"""One step of the algorithm on plain arrays: advantages with the multipliers as they are, then the dual step, then what to log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faithful_rl.advantage import AdvantageSettings, combined_advantage
from faithful_rl.constraints import ColumnError, ConstrainedProblem, ConstraintStep
from faithful_rl.metrics import ADVANTAGE_TOTAL_STD, SIGNALS, TRAIN_COUPLED, advantage_metric, constraint_metric, weight_metric
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
        messages: what the user should be told of a constraint that does nothing, new at this step.
    """

    advantages: np.ndarray
    by_signal: Mapping[str, np.ndarray]
    metrics: dict[str, float]
    rejected: str
    frozen: Mapping[str, str]
    messages: tuple[str, ...] = ()


def constrained_step(
    batch: RewardBatch,
    problem: ConstrainedProblem,
    settings: AdvantageSettings,
    step: int | None = None,
    sources: Sequence[str] | None = None,
) -> StepResult:
    """Eq. 6 (or the advantage of another kind) with the multipliers before the dual step, then Eq. 4.

    Args:
        step: training step, counted from 1, for what follows a schedule; without it dual steps are counted.
        sources: data source of each of `batch.rows`, where a constraint has thresholds by source.

    A batch with a broken column (a scored value that is not finite) moves no multiplier and comes back rejected.
    """
    metrics = rollout_metrics(batch, SIGNALS)
    multipliers = problem.multipliers
    try:
        result = combined_advantage(batch.columns, batch.uids, problem.constraints, multipliers, settings, step or 1)
        steps = problem.dual_step(batch.columns, step, None if sources is None else np.array(sources, dtype=object))
    except ColumnError as error:
        metrics.update({constraint_metric(name, "multiplier"): value for name, value in multipliers.items()})
        return StepResult(np.zeros(len(batch.rows)), {}, metrics, str(error), {})
    metrics.update({advantage_metric(name): float(np.abs(values).mean()) for name, values in result.by_signal.items() if values.size})
    metrics[ADVANTAGE_TOTAL_STD] = float(result.combined.std(ddof=1)) if result.combined.size > 1 else 0.0
    metrics.update({weight_metric(name): settings.weights[name].at(step or 1) for name in settings.weights})
    if result.coupled is not None and result.coupled.scored.any():
        metrics[TRAIN_COUPLED] = float(result.coupled.values[result.coupled.scored].mean())
        metrics[f"{TRAIN_COUPLED}_scored"] = float(result.coupled.scored.mean())
    for one in steps.values():
        metrics.update(constraint_metrics(one))
    rejected = "" if np.isfinite(result.total).all() else f"{int((~np.isfinite(result.total)).sum())} advantages are not finite"
    frozen = {name: str(one.frozen) for name, one in steps.items() if one.frozen is not None}
    messages = tuple(one.message for one in steps.values() if one.message)
    return StepResult(result.total, result.by_signal, metrics, rejected, frozen, messages)


def constraint_metrics(step: ConstraintStep) -> dict[str, float]:
    """`constraint/<k>/...` of one dual step; what was not measured (no counting rollout, no starting rate yet) has no entry."""
    values: dict[str, float] = {
        "multiplier": step.multiplier,
        "multiplier_next": step.multiplier_next,
        "applicable": float(step.applicable),
        "coverage": step.coverage,
        "frozen": float(step.frozen is not None),
        "updated": float(step.updated),
        "saturated": float(step.saturated),
        "infeasible": float(step.infeasible),
        "starved": float(step.starved),
    }
    measured = {"score": step.score, "threshold": step.threshold, "violation": step.violation}
    values.update({name: value for name, value in measured.items() if value is not None})
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
