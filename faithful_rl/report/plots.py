"""Curves as SVG text, drawn with the page's own fonts."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from faithful_rl.metrics import CONSTRAINT_SIGNALS, SYMBOLS, TRAIN_ACCURACY, TRAIN_INCONSISTENCY_RATE, constraint_metric, train_metric

Rows = Sequence[Mapping[str, float]]

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
COLOUR_OF = {"consistency": COLOURS[0], "semantic_grounding": COLOURS[1], "spatial_grounding": COLOURS[2]}
PHASES = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights")
WINDOW = 5  # steps of the running mean
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "faithful_rl",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Plot:
    """A drawn figure: `svg` is an element to be put into a page as it is."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Curve:
    """One line: `values` (n,) over `steps` (n,), NaN where nothing was measured."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    colour: str
    dashed: bool = False


def draw_all(runs: Mapping[str, Rows]) -> list[Plot]:
    """Every plot for which the runs have numbers. `runs` maps a label to its rows of `metrics.jsonl`."""
    drawn = [
        _plot("Accuracy and inconsistency", "Rollouts of each training step, sampled at temperature 1.", _outcome(runs), percent=True),
        *(_constraint(name, runs) for name in CONSTRAINT_SIGNALS),
        _plot(
            "Multipliers", "The weight of each constraint in the advantage; it rises while its constraint is violated.", _multipliers(runs)
        ),
        _plot(
            "Sentences per trace",
            "Non-trivial sentences: padding with easy true ones would show here.",
            _metric("train/sentence_count", runs),
        ),
        _plot("Tokens per response", "Mean length of a response.", _metric("train/response_tokens", runs)),
    ]
    return [plot for plot in drawn if plot is not None]


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array([row["step"] for row in rows], dtype=float)
    return steps, np.array([row.get(name, math.nan) for row in rows], dtype=float)


def _metric(name: str, runs: Mapping[str, Rows]) -> list[Curve]:
    return [
        Curve(label if len(runs) > 1 else "", *series(rows, name), COLOURS[index % len(COLOURS)])
        for index, (label, rows) in enumerate(runs.items())
    ]


def _outcome(runs: Mapping[str, Rows]) -> list[Curve]:
    curves = []
    for index, (label, rows) in enumerate(runs.items()):
        prefix = f"{label}: " if len(runs) > 1 else ""
        first, second = (COLOURS[0], COLOURS[1]) if len(runs) == 1 else (COLOURS[index % len(COLOURS)],) * 2
        curves.append(Curve(f"{prefix}accuracy", *series(rows, TRAIN_ACCURACY), first))
        curves.append(Curve(f"{prefix}inconsistency rate", *series(rows, TRAIN_INCONSISTENCY_RATE), second, dashed=len(runs) > 1))
    return curves


def _constraint(name: str, runs: Mapping[str, Rows]) -> Plot | None:
    """The score that the constraint is about (Eq. 5) where every run has it, else the mean over all scored rollouts."""
    constrained = all(any(constraint_metric(name, "score") in row for row in rows) for rows in runs.values())
    metric = constraint_metric(name, "score") if constrained else train_metric(name)
    thresholds = {
        row[constraint_metric(name, "threshold")] for rows in runs.values() for row in rows if constraint_metric(name, "threshold") in row
    }
    curves = _metric(metric, runs)
    if len(runs) == 1:
        curves = [Curve(curve.label, curve.steps, curve.values, COLOUR_OF[name]) for curve in curves]
    what = "Masked batch mean" if constrained else "Mean over scored rollouts"
    caption = f"{what} of each step; the dotted line is the threshold." if thresholds else f"{what} of each step."
    return _plot(name.replace("_", " ").capitalize(), caption, curves, thresholds=sorted(thresholds), percent=True)


def _multipliers(runs: Mapping[str, Rows]) -> list[Curve]:
    curves = []
    for index, (label, rows) in enumerate(runs.items()):
        for name in CONSTRAINT_SIGNALS:
            prefix = f"{label}: " if len(runs) > 1 else ""
            text = f"{prefix}{name.replace('_', ' ')} ({SYMBOLS[name]})"
            curves.append(Curve(text, *series(rows, constraint_metric(name, "multiplier")), COLOUR_OF[name], dashed=index > 0))
    return curves


def running_mean(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Mean of the last `window` values (n,) at each place, NaN left out; NaN where all of them are."""
    result = np.full(len(values), math.nan)
    for end in range(len(values)):
        known = values[max(0, end + 1 - window) : end + 1]
        known = known[np.isfinite(known)]
        if known.size:
            result[end] = known.mean()
    return result


def _plot(title: str, caption: str, curves: Sequence[Curve], thresholds: Sequence[float] = (), percent: bool = False) -> Plot | None:
    curves = [curve for curve in curves if np.isfinite(curve.values).any()]
    if not curves:
        return None
    scale = 100.0 if percent else 1.0
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            line = "--" if curve.dashed else "-"
            axes.plot(curve.steps, scale * curve.values, line, color=curve.colour, alpha=0.25, linewidth=1)
            axes.plot(curve.steps, scale * running_mean(curve.values), line, color=curve.colour, linewidth=2, label=curve.label or None)
        for threshold in thresholds:
            axes.axhline(scale * threshold, color="#555", linewidth=1, linestyle=":")
        axes.set_xlabel("step")
        axes.set_ylabel("%" if percent else "")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        if any(curve.label for curve in curves):
            axes.legend(frameon=False, fontsize=8)
        return Plot(title, f"{caption} Bold: running mean of {WINDOW} steps.", _svg(figure))


def phase_seconds(rows: Rows) -> dict[str, float]:
    """Mean seconds of each phase of a step, the first step (warm-up) left out where there are more; {} without timings."""
    counted = rows[1:] or rows
    means = {}
    for phase in PHASES:
        values = [row[f"timing_s/{phase}"] for row in counted if math.isfinite(row.get(f"timing_s/{phase}", math.nan))]
        if values:
            means[phase] = float(np.mean(values))
    return means


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
