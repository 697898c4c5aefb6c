"""Run the constrained problem on the toy policy, and put its traces into numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faithful_rl.constraints import ConstrainedProblem, Constraint, Frozen
from faithful_rl.constraints.monitor import AT_BOUND
from faithful_rl.simulation.policy import ToyPolicy, ToySettings

FloatArray = npt.NDArray[np.float64]
# What to try for a verdict that is not what one wants.
NEVER, FIXED, SCHEDULED = "never measured", "fixed", "scheduled"
FROZEN = {Frozen.LOW_COVERAGE: "frozen (coverage)", Frozen.TOO_FEW_APPLICABLE: "frozen (too few)"}
ADVICE = {
    NEVER: "no rollout applied and was measured: a mask that holds somewhere (model.applicable), fewer judge failures (model.failures)",
    FROZEN[Frozen.LOW_COVERAGE]: "judges fail too often for the multiplier to move: lower model.failures or faithful_rl.coverage_floor",
    FROZEN[Frozen.TOO_FEW_APPLICABLE]: "too few rollouts apply for the multiplier to move: more model.rollouts, or a lower min_applicable",
    FIXED: "the multiplier answers no violation: held says what its start achieves. kind=dual_ascent adapts it",
    SCHEDULED: "the multiplier answers no violation: held says what its schedule achieves",
    "out of reach": "the multiplier stays at its maximum: a lower threshold, a better judge, or a higher maximum",
    "swings": "a smaller step_size, a window, or kind pi or pid",
    "not there yet": "more steps, a larger step_size, or a threshold below the judge's ceiling",
}
ALWAYS, NEARLY_NEVER = 0.95, 0.2  # shares of steps, for a verdict
LAST_SHARE = 0.25  # of the steps, over which the end of a trace is judged


@dataclass(frozen=True, slots=True)
class Trace:
    """One constraint over all steps, each (steps,) float64, NaN where nothing was measured."""

    constraint: Constraint
    score: FloatArray  # what the batch measured
    rate: FloatArray  # what the policy would measure in an endless batch
    threshold: FloatArray
    multiplier: FloatArray
    frozen: tuple[Frozen | None, ...]  # why the multiplier was left alone
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What to look at when tuning."""

    name: str
    threshold: float  # at the end
    score: float  # mean over the last quarter
    held: float  # share of the last quarter's steps in which the expected rate holds the threshold; NaN where nothing was measured
    first_held: int | None  # step from which on the expected rate holds it for the first time
    multiplier: float  # mean over the last quarter
    swing: float  # highest less lowest multiplier in the last quarter
    highest: float
    verdict: str


def simulate(problem: ConstrainedProblem, settings: ToySettings, steps: int, seed: int) -> dict[str, Trace]:
    """Alternate batches, dual steps and policy steps as the trainer does; the same arguments give the same traces."""
    policy = ToyPolicy(problem.constraints, settings, seed)
    names = [constraint.name for constraint in problem.constraints]
    numbers = {name: np.full((4, steps), np.nan) for name in names}
    messages: dict[str, list[str]] = {name: [] for name in names}
    frozen: dict[str, list[Frozen | None]] = {name: [] for name in names}
    sources = policy.sources()
    for number in range(steps):
        used, rates = problem.multipliers, policy.rates()
        found = problem.dual_step(policy.rollouts(), number + 1, sources)
        policy.learn(used)
        for name, step in found.items():
            row = (step.score, rates[name], step.threshold, step.multiplier)
            numbers[name][:, number] = [np.nan if value is None else value for value in row]
            frozen[name].append(step.frozen)
            messages[name] += [f"step {number + 1}: {step.message}"] if step.message else []
    return {one.name: _trace(one, numbers[one.name], frozen[one.name], messages[one.name]) for one in problem.constraints}


def _trace(constraint: Constraint, numbers: FloatArray, frozen: list[Frozen | None], messages: list[str]) -> Trace:
    score, rate, threshold, multiplier = numbers
    return Trace(constraint, score, rate, threshold, multiplier, tuple(frozen), tuple(messages))


def summarise(trace: Trace, maximum: float, kind: str = "dual_ascent") -> Summary:
    """Judge the last quarter of a trace; `maximum` is the multiplier's upper bound."""
    last = slice(-max(1, round(LAST_SHARE * trace.score.size)), None)
    threshold = trace.threshold[last][np.isfinite(trace.threshold[last])]
    measured = bool(np.isfinite(trace.score[last]).any())
    holds = trace.constraint.sign * (trace.rate - trace.threshold) >= 0.0
    multiplier = trace.multiplier[last]
    held = float(holds[last].mean()) if measured else float("nan")
    swing = float(multiplier.max() - multiplier.min())
    return Summary(
        name=trace.constraint.name,
        threshold=float(threshold[-1]) if threshold.size else float("nan"),
        score=float(np.nanmean(trace.score[last])) if measured else float("nan"),
        held=held,
        first_held=int(np.argmax(holds)) + 1 if measured and holds.any() else None,
        multiplier=float(multiplier.mean()),
        swing=swing,
        highest=float(trace.multiplier.max()),
        verdict=_idle(kind, measured, trace.frozen[last]) or _verdict(held, multiplier, swing, maximum),
    )


def _idle(kind: str, measured: bool, frozen: tuple[Frozen | None, ...]) -> str:
    """Why there is nothing to judge in how the multiplier answered; "" where there is."""
    if not measured:
        return NEVER
    if kind in (FIXED, "schedule"):
        return FIXED if kind == FIXED else SCHEDULED
    reasons = [reason for reason in frozen if reason is not None]
    return FROZEN[max(FROZEN, key=reasons.count)] if len(reasons) >= ALWAYS * len(frozen) else ""


def _verdict(held: float, multiplier: FloatArray, swing: float, maximum: float) -> str:
    """A multiplier that moves much while its constraint holds at every step does no harm: `held` is asked first."""
    if multiplier.mean() >= AT_BOUND * maximum and held < 0.5:
        return "out of reach"
    if held == 1.0 and multiplier.max() == 0.0:
        return "holds by itself"
    if held >= ALWAYS:
        return "holds"
    if swing > 0.5 * max(float(multiplier.mean()), 0.1):
        return "swings"
    if held < NEARLY_NEVER:
        return "not there yet"
    return "holds" if held > 1.0 - NEARLY_NEVER else "hovers"


def as_json(traces: dict[str, Trace], summaries: list[Summary], settings: ToySettings, seed: int) -> dict[str, Any]:
    """Everything as JSON values; what was not measured is null."""

    def numbers(values: FloatArray) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    return {
        "model": asdict(settings),
        "seed": seed,
        "summary": [{name: None if value != value else value for name, value in asdict(one).items()} for one in summaries],
        "traces": {
            name: {field: numbers(getattr(trace, field)) for field in ("score", "rate", "threshold", "multiplier")}
            for name, trace in traces.items()
        },
    }
