"""Curves of training: signals and thresholds, violations, multipliers, coverage, lengths, time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from faithful_rl.metrics import (
    CONSTRAINT_SIGNALS,
    JUDGE_EXPOSED,
    SYMBOLS,
    TRAIN_ACCURACY,
    TRAIN_INCONSISTENCY_RATE,
    TRAIN_RESPONSE_TOKENS,
    TRAIN_SENTENCE_COUNT,
    constraint_metric,
    constraint_names,
    train_metric,
)
from faithful_rl.report.styles import COLOUR_OF, COLOURS, INK, OTHER_STYLES, PAGE_STYLE, as_svg, method_styles, row_major

Rows = Sequence[Mapping[str, float]]
Groups = Mapping[str, Sequence[Rows]]  # method -> rows of each of its runs

# verl's name of a phase of a step -> what a reader calls it.
PHASES = {
    "gen": "generation",
    "old_log_prob": "log-probabilities",
    "ref": "log-probabilities of the reference",
    "adv": "advantages",
    "update_actor": "update of the policy",
    "update_weights": "new weights to the sampler",
}
EXPOSED = "waiting for judges"
WINDOW = 5  # steps of the running mean


@dataclass(frozen=True)
class Plot:
    """A drawn figure; `name` is its file's and keeps its ids apart from those of a page's other figures."""

    title: str
    caption: str
    figure: Figure
    name: str

    @property
    def svg(self) -> str:
        """An element to be put into a page as it is."""
        return as_svg(self.figure, self.name)


@dataclass(frozen=True)
class Curve:
    """One line with its fainter parts: `runs` are (steps, values) of each run, both (n,), NaN where nothing was measured."""

    label: str
    runs: tuple[tuple[np.ndarray, np.ndarray], ...]
    colour: str
    dashed: bool = False

    def mean(self) -> tuple[np.ndarray, np.ndarray]:
        """(steps, mean over runs of their running means) on all steps that any run has."""
        steps = np.unique(np.concatenate([own for own, _ in self.runs]))
        table = np.full((len(self.runs), len(steps)), np.nan)
        for row, (own, values) in zip(table, self.runs, strict=True):
            row[np.searchsorted(steps, own)] = running_mean(values)
        known = np.isfinite(table).sum(axis=0)
        return steps, np.where(known > 0, np.nansum(table, axis=0) / np.maximum(known, 1), np.nan)


def draw_all(groups: Groups, style: Mapping[Any, Any] = PAGE_STYLE) -> list[Plot]:
    """Every plot for which the runs have numbers; a single run gets its signals' colours, several get their methods'."""
    lone = sum(len(runs) for runs in groups.values()) == 1
    shown = "Faint: each step. Bold: mean of the last 5." if lone else "Faint: each run. Bold: mean over seeds of the last 5 steps."
    drawn: list[Plot | None] = []
    with rc_context(dict(style)):
        if lone:
            curves = _curves(TRAIN_ACCURACY, groups, "accuracy", COLOURS[0])
            curves += _curves(TRAIN_INCONSISTENCY_RATE, groups, "inconsistency rate", COLOURS[1])
            drawn.append(_plot("Accuracy and inconsistency", f"Rollouts of each training step, T=1. {shown}", curves, percent=True))
        else:
            for title, metric in (("Accuracy", TRAIN_ACCURACY), ("Inconsistency rate", TRAIN_INCONSISTENCY_RATE)):
                drawn.append(_plot(title, f"Rollouts of each training step, T=1. {shown}", _curves(metric, groups), percent=True))
        drawn += [_constraint(name, groups, lone) for name in dict.fromkeys((*CONSTRAINT_SIGNALS, *constraint_colours(groups)))]
        drawn += [*_violations(groups, lone), _multipliers(groups, lone), _coverage(groups, lone)]
        caption = "Non-trivial ones: padding with easy truths would show here."
        drawn.append(_plot("Sentences per trace", caption, _curves(TRAIN_SENTENCE_COUNT, groups)))
        drawn.append(_plot("Tokens per response", "Mean length of a response.", _curves(TRAIN_RESPONSE_TOKENS, groups)))
        drawn += [_step_time(groups), _exposed(groups)]
    return [plot for plot in drawn if plot is not None]


def constraint_colours(groups: Groups) -> dict[str, str]:
    """Constraint -> colour, for every constraint that any run tells of."""
    names = constraint_names(row for runs in groups.values() for rows in runs for row in rows)
    return {name: COLOUR_OF.get(name) or COLOURS[(len(COLOUR_OF) + number) % len(COLOURS)] for number, name in enumerate(names)}


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of one metric, NaN where a step has none."""
    steps = np.array([row["step"] for row in rows], dtype=float)
    return steps, np.array([row.get(name, math.nan) for row in rows], dtype=float)


def _curves(metric: str, groups: Groups, label: str = "", colour: str = "", dashed: bool = False) -> list[Curve]:
    several, styles = len(groups) > 1, method_styles(groups)
    return [
        Curve(label or (_key(method) if several else ""), tuple(series(rows, metric) for rows in runs), colour or styles[method][0], dashed)
        for method, runs in groups.items()
    ]


def _key(method: str) -> str:
    """A method's name in a plot's legend; a page has one legend for all of its plots."""
    return "" if rcParams["text.color"] == INK else method


def _constraint(name: str, groups: Groups, lone: bool) -> Plot | None:
    """The score that the constraint is about (Eq. 5) where every run has it, else the mean over all scored rollouts."""
    every = [rows for runs in groups.values() for rows in runs]
    own = name not in CONSTRAINT_SIGNALS  # on a column that is no reward: there is no mean of it but the constraint's
    constrained = all(any(constraint_metric(name, "score") in row for row in rows) for rows in every)
    curves = _curves(
        constraint_metric(name, "score") if constrained or own else train_metric(name),
        groups,
        colour=constraint_colours(groups).get(name, COLOURS[0]) if lone else "",
    )
    threshold_name = constraint_metric(name, "threshold")
    thresholds = sorted({row[threshold_name] for rows in every for row in rows if threshold_name in row})
    what = "Masked batch mean c" if constrained or own else "Mean over scored rollouts"
    caption = f"{what}; the dotted line is the threshold τ." if thresholds else f"{what}."
    symbol = f" ({SYMBOLS[name]})" if name in SYMBOLS else ""
    return _plot(f"{_title(name)}{symbol}", caption, curves, thresholds=thresholds, percent=not own, name=name)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _violations(groups: Groups, lone: bool) -> list[Plot | None]:
    """tau - c of each constraint: one panel in a single run; in a comparison the sum of what is violated and a panel for each constraint,
    one curve per method."""
    if lone:
        curves = []
        for name, colour in constraint_colours(groups).items():
            curves += _curves(constraint_metric(name, "violation"), groups, name.replace("_", " "), colour)
        return [_plot("Violations", "τ - c: above zero the constraint is violated and its multiplier rises.", curves, zero=True)]
    caption = "τ - c: above zero the constraint is violated. Methods without it have no curve."
    return [
        _violated(groups),
        *(
            _plot(f"Violation: {name.replace('_', ' ')}", caption, _curves(constraint_metric(name, "violation"), groups), zero=True)
            for name in constraint_colours(groups)
        ),
    ]


def _violated(groups: Groups) -> Plot | None:
    """Sum over constraints of what is violated, one curve per method."""
    names = [constraint_metric(name, "violation") for name in constraint_colours(groups)]
    styles, curves = method_styles(groups), []
    for method, runs in groups.items():
        summed = [
            [{"step": row["step"], "violation": sum(max(row[n], 0.0) for n in names if n in row)} for row in rows if names_in(row, names)]
            for rows in runs
        ]
        known = tuple(series(rows, "violation") for rows in summed if rows)
        if known:
            curves.append(Curve(_key(method), known, styles[method][0]))
    caption = "Sum over constraints of what is missing to their thresholds; methods without constraints have none."
    return _plot("Violation", caption, curves, zero=True)


def names_in(row: Mapping[str, float], names: Sequence[str]) -> bool:
    """Whether any of these metrics was logged and measured in this step."""
    return any(math.isfinite(row.get(name, math.nan)) for name in names)


def _coverage(groups: Groups, lone: bool) -> Plot | None:
    """Share of applicable rollouts that were scored: below the floor a multiplier stands still."""
    if lone:
        curves = []
        for name, colour in constraint_colours(groups).items():
            curves += _curves(constraint_metric(name, "coverage"), groups, name.replace("_", " "), colour)
        told = "of each constraint"
    else:
        names = [constraint_metric(name, "coverage") for name in constraint_colours(groups)]
        lowest: dict[str, list[Rows]] = {}
        for method, runs in groups.items():
            rows_of = [
                [{"step": row["step"], "coverage": min(row[n] for n in names if n in row)} for row in rows if names_in(row, names)]
                for rows in runs
            ]
            lowest[method] = [rows for rows in rows_of if rows]
        styles = method_styles(groups)
        curves = [
            Curve(_key(method), tuple(series(rows, "coverage") for rows in runs), styles[method][0])
            for method, runs in lowest.items()
            if runs
        ]
        told = "of the constraint that has least"
    return _plot(
        "Valid coverage", f"Scored share of the applicable rollouts {told}; it falls when judges fail.", curves, percent=True, top=True
    )


def _multipliers(groups: Groups, lone: bool) -> Plot | None:
    """Multipliers of the runs that have any; in a comparison only those that move."""
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    drawn = False
    for rows in [rows for runs in groups.values() for rows in runs]:
        for name, colour in constraint_colours(groups).items():
            steps, values = series(rows, constraint_metric(name, "multiplier"))
            if not np.isfinite(values).any() or (not lone and np.nanmax(values) == np.nanmin(values)):
                continue
            label = f"λ {name.replace('_', ' ')}" if not _has_label(axes, name) else None
            axes.plot(steps, values, color=colour, linewidth=2, alpha=1 if lone else 0.7, label=label)
            drawn = True
            for flag, marker in (("frozen", "x"), ("saturated", "v")):
                marked = series(rows, constraint_metric(name, flag))[1] > 0
                axes.plot(steps[marked], values[marked], marker, color=colour, markersize=5)
    if not drawn:
        return None
    _finish(axes, "λ")
    runs = "" if lone else " Runs whose multipliers move."
    marks = f" × frozen (too little measured), ▼ at its maximum.{runs}"
    return Plot("Multipliers", f"Adaptive ones rise while a constraint is violated and fall once it holds.{marks}", figure, "multipliers")


def _has_label(axes: Axes, name: str) -> bool:
    return any(name.replace("_", " ") in label for label in axes.get_legend_handles_labels()[1])


def running_mean(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Mean of the last `window` values (n,) at each place, NaN left out; NaN where all of them are."""
    result = np.full(len(values), math.nan)
    for end in range(len(values)):
        known = values[max(0, end + 1 - window) : end + 1]
        known = known[np.isfinite(known)]
        if known.size:
            result[end] = known.mean()
    return result


def _plot(
    title: str,
    caption: str,
    curves: Sequence[Curve],
    thresholds: Sequence[float] = (),
    percent: bool = False,
    zero: bool = False,
    top: bool = False,
    name: str = "",
) -> Plot | None:
    """`zero` draws the line at 0; `top` keeps 100% in sight; `name` is that of its file, made of the title where it is not given."""
    curves = [curve for curve in curves if any(np.isfinite(values).any() for _, values in curve.runs)]
    if not curves:
        return None
    scale = 100.0 if percent else 1.0
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    ink = rcParams["text.color"]
    for curve in curves:
        for steps, values in curve.runs:
            shown = values if len(curve.runs) == 1 else running_mean(values)
            axes.plot(steps, scale * shown, color=curve.colour, alpha=0.28, linewidth=1)
        steps, mean = curve.mean()
        axes.plot(steps, scale * mean, "--" if curve.dashed else "-", color=curve.colour, linewidth=2.2, label=curve.label or None)
    for threshold in thresholds:
        axes.axhline(scale * threshold, color=ink, linewidth=1.2, linestyle=(0, (1.5, 2.5)))
        # beside the panel, where neither curves nor the axis run through it
        axes.annotate(f"τ = {scale * threshold:g}", (1.015, scale * threshold), xycoords=("axes fraction", "data"), ha="left", va="center",
                      color=ink, fontsize=9)  # fmt: skip
    if zero:
        axes.axhline(0.0, color=ink, linewidth=1.0)
    if top:
        axes.set_ylim(min(axes.get_ylim()[0], 88.0), 101.0)
    elif percent:  # a share is never below 0 or above 100, and neither is its axis
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1.0), min(high, 101.0))
    _finish(axes, "%" if percent else "")
    return Plot(title, caption, figure, re.sub(r"[\W_]+", "-", (name or title).lower()).strip("-"))


def _finish(axes: Axes, unit: str) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    axes.set_ylabel(unit)
    axes.grid(axis="y", linewidth=0.8)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)


def phase_seconds(rows: Rows) -> dict[str, float]:
    """Mean seconds of each phase of a step, the first step (warm-up) left out where there are more; {} without timings.

    verl's `gen` ends with the last reward. Where exposed judge time was logged it stands apart, and `gen` is what is left.
    """
    counted = rows[1:] or rows
    means = {}
    for phase in PHASES:
        values = [row[f"timing_s/{phase}"] for row in counted if math.isfinite(row.get(f"timing_s/{phase}", math.nan))]
        if values:
            means[phase] = float(np.mean(values))
    waited = [row[JUDGE_EXPOSED] for row in counted if math.isfinite(row.get(JUDGE_EXPOSED, math.nan))]
    if waited and "gen" in means:
        means[EXPOSED] = min(float(np.mean(waited)), means["gen"])
        means["gen"] -= means[EXPOSED]
    return means


def _step_time(groups: Groups) -> Plot | None:
    """Stacked bars: where a step's time goes, one bar per method. Generation ends where the run says how long judges were waited for."""
    seconds = {method: phase_seconds([row for rows in runs for row in rows[1:] or rows]) for method, runs in groups.items()}
    seconds = {method: found for method, found in seconds.items() if found}
    if not seconds:
        return None
    figure = Figure(figsize=(4.6, 2.1 + 0.4 * len(seconds)), layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(seconds))
    for index, (phase, words) in enumerate([*PHASES.items(), (EXPOSED, EXPOSED)]):
        widths = np.array([found.get(phase, 0.0) for found in seconds.values()])
        if widths.any():
            colour = COLOURS[index] if index < len(COLOURS) else OTHER_STYLES[2][0]
            axes.barh(list(seconds), widths, left=left, height=0.55, color=colour, label=words)
            left += widths
    axes.set_xlabel("seconds of a step")
    axes.tick_params(length=0)
    axes.invert_yaxis()
    if list(seconds) == [""] or len(groups) == 1:
        axes.set_yticks([])
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(row_major(handles, 2), row_major(labels, 2), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return Plot("Where the time goes", "Mean seconds of the phases of a step, the first step left out.", figure, "time")


def _exposed(groups: Groups) -> Plot | None:
    caption = "Seconds of each step in which all text was generated and a judge was still waited for."
    return _plot("Exposed judge time", caption, _curves(JUDGE_EXPOSED, groups))
