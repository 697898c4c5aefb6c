"""From rows of steps to medians, spreads, overhead and ratio. Pure: numbers in, numbers out.

A row is one training step of one run: `timing_s/<phase>` in seconds of wall time, `cycle_s` (wall time from the row before to this
one, which also covers what a framework does outside its own timers), `cpu_s/<role>` (processor seconds of the run's processes by what
they do, `cpu_s/total` of all), `response_length/mean` in tokens. A run is the list of its rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, float]
Run = Sequence[Row]

PHASES = ("gen", "old_log_prob", "ref", "reward", "adv", "update_actor", "update_weights", "step")
STEP, CYCLE, PROCESSOR, JUDGES = "timing_s/step", "cycle_s", "cpu_s/total", "cpu_s/judges"
RESAMPLES = 4000


def measured(runs: Sequence[Run], warm_up: int) -> list[Row]:
    """All rows after each run's first `warm_up` steps, in order.

    Raises:
        ValueError: a run has no step left.
    """
    for number, run in enumerate(runs, start=1):
        if len(run) <= warm_up:
            raise ValueError(f"run {number} has {len(run)} steps, expected more than the {warm_up} of the warm-up")
    return [row for run in runs for row in run[warm_up:]]


def values(rows: Sequence[Row], key: str) -> list[float]:
    """The numbers under `key`, where a row has them."""
    return [float(row[key]) for row in rows if key in row]


def spread(numbers: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, extremes and count; quartiles by linear interpolation. ValueError for no numbers."""
    if not numbers:
        raise ValueError("no numbers to summarise")
    lower, upper = np.quantile(numbers, [0.25, 0.75])
    return {
        "median": statistics.median(numbers),
        "quartile_1": float(lower),
        "quartile_3": float(upper),
        "min": min(numbers),
        "max": max(numbers),
        "steps": len(numbers),
    }


def summarise(runs: Sequence[Run], warm_up: int) -> dict[str, Any]:
    """One framework's runs: wall seconds by phase, whole steps and cycles, processor seconds by role, response tokens.

    Raises:
        ValueError: a run has no step after the warm-up, or none has the time of a step.
    """
    rows = measured(runs, warm_up)
    if not values(rows, STEP):
        raise ValueError(f"no row has {STEP!r}")
    roles = sorted({key.removeprefix("cpu_s/") for row in rows for key in row if key.startswith("cpu_s/")})
    found: dict[str, Any] = {
        "phase_seconds": {phase: spread(values(rows, f"timing_s/{phase}")) for phase in PHASES if values(rows, f"timing_s/{phase}")},
        "processor_seconds": {role: spread(values(rows, f"cpu_s/{role}")) for role in roles},
        "median_step_seconds_by_run": [statistics.median(values(run[warm_up:], STEP)) for run in runs],
    }
    for name, key in (("cycle_seconds", CYCLE), ("response_tokens", "response_length/mean"), ("tokens_per_step", "perf/total_num_tokens")):
        if values(rows, key):
            found[name] = spread(values(rows, key))
    found["steps_per_second"] = 1.0 / found["phase_seconds"]["step"]["median"]
    return found


def relative_overhead(ours: Sequence[float], stock: Sequence[float], apart: float = 0.0, seed: int = 0) -> dict[str, float]:
    """(median of ours - apart - median of stock) / median of stock, with a 95% bootstrap interval over steps.

    Args:
        ours: seconds of our steps.
        stock: seconds of the peer's steps.
        apart: seconds per step that are counted elsewhere (judges), >= 0.

    Raises:
        ValueError: a list is empty, or the peer's median is not positive.
    """
    low, value, high = _resampled(ours, stock, seed, lambda a, b: (a - apart - b) / b)
    return {"value": value, "low": low, "high": high}


def ratio(peer: Sequence[float], ours: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Median of the peer's seconds over the median of ours, with a 95% bootstrap interval; above 1 the peer is slower.

    Raises:
        ValueError: as `relative_overhead`.
    """
    low, value, high = _resampled(peer, ours, seed, lambda a, b: a / b)
    return {"value": value, "low": low, "high": high}


def _resampled(first: Sequence[float], second: Sequence[float], seed: int, combine: Any) -> tuple[float, float, float]:
    if not first or not second:
        raise ValueError(f"need steps of both, got {len(first)} and {len(second)}")
    if statistics.median(second) <= 0:
        raise ValueError(f"the median to compare with is {statistics.median(second)}, expected more than 0 seconds")
    generator = np.random.default_rng(seed)
    medians = [
        np.median(generator.choice(np.asarray(numbers, dtype=np.float64), size=(RESAMPLES, len(numbers))), axis=1)
        for numbers in (first, second)
    ]
    low, high = np.quantile(combine(medians[0], medians[1]), [0.025, 0.975])
    return float(low), float(combine(statistics.median(first), statistics.median(second))), float(high)


def verdict(overhead: Mapping[str, float], limit: float) -> str:
    """Whether an overhead is within `limit`: "yes" or "no" where the whole interval says so, else "undecided"."""
    if overhead["high"] <= limit:
        return "yes"
    return "no" if overhead["low"] > limit else "undecided"


def compare(ours: Sequence[Run], stock: Sequence[Run], warm_up: int, limit: float, instant: Sequence[Run] | None = None) -> dict[str, Any]:
    """Overhead of ours over stock by three measures, judges counted apart; `with_judges` leaves nothing out.

    With `instant`, runs in which verdicts are there at once, overhead outside judges is theirs. Without, the processor seconds of the
    judges' processes are taken off. That is a guess: what asking them costs is missing in it, and what runs beside generation is too much.
    """
    our_rows, stock_rows = measured(ours, warm_up), measured(stock, warm_up)
    judges = statistics.median(values(our_rows, JUDGES) or [0.0])
    found: dict[str, Any] = {
        "judge_seconds_per_step": judges,
        "limit": limit,
        "outside_judges_by": "subtraction" if instant is None else "runs",
    }
    for name, key in (("wall", STEP), ("wall_with_logging", CYCLE), ("processor", PROCESSOR)):
        mine, peers = values(our_rows, key), values(stock_rows, key)
        apart = values(measured(instant, warm_up), key) if instant is not None else mine
        if mine and peers and apart:
            outside = relative_overhead(apart, peers, judges if instant is None else 0.0)
            found[name] = {
                "outside_judges": outside,
                "with_judges": relative_overhead(mine, peers),
                "within_limit": verdict(outside, limit),
            }
    return found
