"""Metrics of training for Prometheus, on Ray's own endpoint: `ray_faithful_rl_...`, one time series per run and constraint.

`cluster/grafana/faithful_rl.json` draws them beside the judges' (`ray_faithful_judges_...`); a test compares the names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from faithful_rl.metrics import (
    JUDGE_EXPOSED,
    STEP_TIME,
    TRAIN_ACCURACY,
    TRAIN_INCONSISTENCY_RATE,
    TRAIN_RESPONSE_TOKENS,
    constraint_metric,
    constraint_names,
)

logger = logging.getLogger(__name__)

PREFIX = "faithful_rl_"  # Ray puts `ray_` before it
# Field of a constraint -> what the gauge `faithful_rl_<field>` with the tags run and constraint says.
CONSTRAINT_GAUGES = {
    "multiplier": "Multiplier lambda_k used in the last step",
    "violation": "tau_k - c_k of the last step; positive means that the constraint is not met",
    "score": "c_k, masked batch mean of the last step",
    "threshold": "tau_k",
    "coverage": "Scored share of the applicable rollouts of the last step",
    "frozen": "1: the last step moved no multiplier",
    "saturated": "1: the multiplier stands at its maximum",
}
# Gauge with the tag run -> (metric of the step, what it says).
RUN_GAUGES = {
    "step": ("training/global_step", "Number of the last step"),
    "accuracy": (TRAIN_ACCURACY, "Share of right answers in the last step"),
    "inconsistency_rate": (TRAIN_INCONSISTENCY_RATE, "Share of answers of the last step that contradict their reasoning"),
    "response_tokens": (TRAIN_RESPONSE_TOKENS, "Mean response length of the last step"),
    "step_seconds": (STEP_TIME, "Wall seconds of the last step"),
    "judge_exposed_seconds": (JUDGE_EXPOSED, "Seconds of the last step in which only judges were waited for"),
}


def gauge_names() -> tuple[str, ...]:
    """Every name as Prometheus sees it."""
    return tuple(f"ray_{PREFIX}{name}" for name in (*CONSTRAINT_GAUGES, *RUN_GAUGES))


class Exporter:
    """Gauges of one run. `gauge` builds one from (name, description, tag keys); None: Ray's own."""

    def __init__(self, run: str, gauge: Any = None) -> None:
        self._run = run
        build = gauge or _ray_gauge
        self._constraints = {name: build(PREFIX + name, told, ("run", "constraint")) for name, told in CONSTRAINT_GAUGES.items()}
        self._of_run = {name: build(PREFIX + name, told, ("run",)) for name, (_, told) in RUN_GAUGES.items()}

    def publish(self, metrics: Mapping[str, float]) -> None:
        """Set every gauge whose metric this step has; one that was not measured keeps its last value."""
        for constraint in constraint_names([metrics]):
            for field, gauge in self._constraints.items():
                self._set(gauge, metrics.get(constraint_metric(constraint, field)), constraint=constraint)
        for name, gauge in self._of_run.items():
            self._set(gauge, metrics.get(RUN_GAUGES[name][0]))

    def _set(self, gauge: Any, value: float | None, **tags: str) -> None:
        if value is not None and math.isfinite(value):
            gauge.set(float(value), {"run": self._run, **tags})


def _ray_gauge(name: str, description: str, tags: tuple[str, ...]) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, description=description, tag_keys=tags)


def exporter(run: str) -> Exporter | None:
    """The exporter of this process's run; None outside of Ray, where nobody would collect."""
    import ray

    return Exporter(run) if ray.is_initialized() else None
