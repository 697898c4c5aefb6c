"""Curves as SVG text that takes its colours and fonts from the page, so that it is right on light, dark and paper."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from faithful_rl.metrics import (
    CONSTRAINT_SIGNALS,
    SYMBOLS,
    TRAIN_ACCURACY,
    TRAIN_INCONSISTENCY_RATE,
    TRAIN_RESPONSE_TOKENS,
    TRAIN_SENTENCE_COUNT,
    constraint_metric,
    train_metric,
)

Rows = Sequence[Mapping[str, float]]
Groups = Mapping[str, Sequence[Rows]]  # method -> rows of each of its runs

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
COLOUR_OF = dict(zip(CONSTRAINT_SIGNALS, COLOURS, strict=False))
MARKER_OF = dict(zip(CONSTRAINT_SIGNALS, "o^s", strict=True))
# Colour and marker of a method, so that neither alone has to carry the meaning.
METHOD_STYLES = {
    "warm start": ("#8a8f98", "o"),
    "GRPO": ("#D55E00", "s"),
    "FGRPO, consistency only": ("#CC79A7", "v"),
    "FGRPO, fixed multipliers": ("#56B4E9", "D"),
    "FGRPO, adaptive": ("#0072B2", "^"),
}
OTHER_STYLE = ("#009E73", "P")
PHASES = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights")
WINDOW = 5  # steps of the running mean
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "faithful_rl",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e6e6e6",
}
INK, SOFT, LINE = "#010203", "#040506", "#070809"  # stand-ins that `as_svg` turns into the page's CSS variables
PAGE_STYLE: dict[Any, Any] = {
    **STYLE,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "grid.color": LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"} | {
    colour.lower(): f"var(--c{index})" for index, colour in enumerate(COLOURS)
}


@dataclass(frozen=True)
class Plot:
    """A drawn figure: `svg` is an element to be put into a page as it is."""

    title: str
    caption: str
    svg: str


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


def method_style(method: str) -> tuple[str, str]:
    """(colour, marker) of a method in every picture."""
    return METHOD_STYLES.get(method, OTHER_STYLE)


def draw_all(groups: Groups) -> list[Plot]:
    """Every plot for which the runs have numbers; a single run gets its signals' colours, several get their methods'."""
    lone = sum(len(runs) for runs in groups.values()) == 1
    shown = "Faint: each step. Bold: mean of the last 5." if lone else "Faint: each run. Bold: mean over seeds of the last 5 steps."
    drawn: list[Plot | None] = []
    if lone:
        curves = _curves(TRAIN_ACCURACY, groups, "accuracy", COLOURS[0])
        curves += _curves(TRAIN_INCONSISTENCY_RATE, groups, "inconsistency rate", COLOURS[1])
        drawn.append(_plot("Accuracy and inconsistency", f"Rollouts of each training step, T=1. {shown}", curves, percent=True))
    else:
        for title, metric in (("Accuracy", TRAIN_ACCURACY), ("Inconsistency rate", TRAIN_INCONSISTENCY_RATE)):
            drawn.append(_plot(title, f"Rollouts of each training step, T=1. {shown}", _curves(metric, groups), percent=True))
    drawn += [_constraint(name, groups, lone) for name in CONSTRAINT_SIGNALS]
    drawn.append(_multipliers(groups, lone))
    drawn.append(
        _plot("Sentences per trace", "Non-trivial ones: padding with easy truths would show here.", _curves(TRAIN_SENTENCE_COUNT, groups))
    )
    drawn.append(_plot("Tokens per response", "Mean length of a response.", _curves(TRAIN_RESPONSE_TOKENS, groups)))
    drawn.append(_step_time(groups))
    return [plot for plot in drawn if plot is not None]


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of one metric, NaN where a step has none."""
    steps = np.array([row["step"] for row in rows], dtype=float)
    return steps, np.array([row.get(name, math.nan) for row in rows], dtype=float)


def _curves(metric: str, groups: Groups, label: str = "", colour: str = "", dashed: bool = False) -> list[Curve]:
    several = len(groups) > 1
    return [
        Curve(label or (method if several else ""), tuple(series(rows, metric) for rows in runs), colour or method_style(method)[0], dashed)
        for method, runs in groups.items()
    ]


def _constraint(name: str, groups: Groups, lone: bool) -> Plot | None:
    """The score that the constraint is about (Eq. 5) where every run has it, else the mean over all scored rollouts."""
    every = [rows for runs in groups.values() for rows in runs]
    constrained = all(any(constraint_metric(name, "score") in row for row in rows) for rows in every)
    curves = _curves(
        constraint_metric(name, "score") if constrained else train_metric(name), groups, colour=COLOUR_OF[name] if lone else ""
    )
    threshold_name = constraint_metric(name, "threshold")
    thresholds = sorted({row[threshold_name] for rows in every for row in rows if threshold_name in row})
    what = "Masked batch mean c" if constrained else "Mean over scored rollouts"
    caption = f"{what}; the dotted line is the threshold τ." if thresholds else f"{what}."
    return _plot(f"{_title(name)} ({SYMBOLS[name]})", caption, curves, thresholds=thresholds, percent=True)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _multipliers(groups: Groups, lone: bool) -> Plot | None:
    """Multipliers of the runs that have any; in a comparison only those that move."""
    with rc_context(PAGE_STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        drawn = False
        for rows in [rows for runs in groups.values() for rows in runs]:
            for name in CONSTRAINT_SIGNALS:
                steps, values = series(rows, constraint_metric(name, "multiplier"))
                if not np.isfinite(values).any() or (not lone and np.nanmax(values) == np.nanmin(values)):
                    continue
                label = f"λ {name.replace('_', ' ')}" if not _has_label(axes, name) else None
                axes.plot(steps, values, color=COLOUR_OF[name], linewidth=2, alpha=1 if lone else 0.7, label=label)
                drawn = True
                for flag, marker in (("frozen", "x"), ("saturated", "v")) if lone else ():
                    marked = series(rows, constraint_metric(name, flag))[1] > 0
                    axes.plot(steps[marked], values[marked], marker, color=COLOUR_OF[name], markersize=5)
        if not drawn:
            return None
        _finish(axes, "λ")
    marks = " × frozen (too little measured), ▼ at its maximum." if lone else " Runs whose multipliers move."
    return Plot("Multipliers", f"Rise while a constraint is violated, fall once it holds.{marks}", as_svg(figure, "multipliers"))


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


def _plot(title: str, caption: str, curves: Sequence[Curve], thresholds: Sequence[float] = (), percent: bool = False) -> Plot | None:
    curves = [curve for curve in curves if any(np.isfinite(values).any() for _, values in curve.runs)]
    if not curves:
        return None
    scale = 100.0 if percent else 1.0
    with rc_context(PAGE_STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            for steps, values in curve.runs:
                shown = values if len(curve.runs) == 1 else running_mean(values)
                axes.plot(steps, scale * shown, color=curve.colour, alpha=0.28, linewidth=1)
            steps, mean = curve.mean()
            axes.plot(steps, scale * mean, "--" if curve.dashed else "-", color=curve.colour, linewidth=2.2, label=curve.label or None)
        for threshold in thresholds:
            axes.axhline(scale * threshold, color=INK, linewidth=1.2, linestyle=(0, (1.5, 2.5)))
            axes.annotate(f"τ {scale * threshold:g}", (1.0, scale * threshold), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                          color=INK, fontsize=8)  # fmt: skip
        _finish(axes, "%" if percent else "")
    return Plot(title, caption, as_svg(figure, re.sub(r"\W+", "-", title.lower())))


def _finish(axes: Axes, unit: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(axis="y", linewidth=0.8)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)


def phase_seconds(rows: Rows) -> dict[str, float]:
    """Mean seconds of each phase of a step, the first step (warm-up) left out where there are more; {} without timings."""
    counted = rows[1:] or rows
    means = {}
    for phase in PHASES:
        values = [row[f"timing_s/{phase}"] for row in counted if math.isfinite(row.get(f"timing_s/{phase}", math.nan))]
        if values:
            means[phase] = float(np.mean(values))
    return means


def _step_time(groups: Groups) -> Plot | None:
    """Stacked bars: where a step's time goes, one bar per method."""
    seconds = {method: phase_seconds([row for rows in runs for row in rows[1:] or rows]) for method, runs in groups.items()}
    seconds = {method: found for method, found in seconds.items() if found}
    if not seconds:
        return None
    with rc_context(PAGE_STYLE):
        figure = Figure(figsize=(4.6, 1.7 + 0.4 * len(seconds)), layout="constrained")
        axes = figure.add_subplot()
        left = np.zeros(len(seconds))
        for index, phase in enumerate(PHASES):
            widths = np.array([found.get(phase, 0.0) for found in seconds.values()])
            if widths.any():
                axes.barh(list(seconds), widths, left=left, height=0.55, color=COLOURS[index], label=phase.replace("_", " "))
                left += widths
        axes.set_xlabel("seconds of a step")
        axes.tick_params(length=0)
        axes.invert_yaxis()
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return Plot("Where the time goes", "Mean seconds of the phases of a step, the first step left out.", as_svg(figure, "time"))


def as_svg(figure: Figure, name: str) -> str:
    """SVG element in the page's colours; `name` keeps its ids apart from those of the page's other figures."""
    stream = io.StringIO()
    with rc_context(PAGE_STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)  # HTML knows SVG's namespaces
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
