"""Pictures of accuracy against inconsistency: where each method ends on held-out questions, and its way there while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from faithful_rl.metrics import TRAIN_ACCURACY, TRAIN_INCONSISTENCY_RATE, constraint_metric, constraint_names, read_metrics
from faithful_rl.report.comparison import WARM_START, Comparison, method_of
from faithful_rl.report.plots import Groups, Rows, constraint_colours, series
from faithful_rl.report.styles import STYLE, legend_columns, method_styles, row_major
from faithful_rl.run_directory import DECODING_LABELS, METRICS

WAY_POINTS = 10  # stretches of the steps that a method's way is drawn through


def draw(
    comparison: Comparison, run_dirs: Sequence[Path], style: Mapping[Any, Any] = STYLE, names: Mapping[Path, str] | None = None
) -> Figure:
    """One panel per decoding (held-out accuracy against IR, a line from the warm start) and one with the multipliers that move."""
    moving: dict[str, list[Rows]] = {}
    for run_dir in run_dirs:
        rows = read_metrics(run_dir / METRICS)
        if _moves(rows):
            moving.setdefault(method_of(run_dir, names), []).append(rows)
    with rc_context({**style, "font.size": 10}):
        panels = len(comparison.estimates) + bool(moving)
        figure = Figure(figsize=(4.3 * panels, 4.1), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, panels))
        for axis, decoding in zip(axes, comparison.estimates, strict=False):
            _outcome(axis, comparison, decoding)
        if moving:
            _multipliers(axes[-1], moving)
        handles, labels = axes[0].get_legend_handles_labels()
        columns = legend_columns(labels, figure.get_figwidth(), 5)
        figure.legend(row_major(handles, columns), row_major(labels, columns), loc="outside lower center", ncols=columns, frameon=False)
    return figure


def draw_training(groups: Groups, style: Mapping[Any, Any] = STYLE) -> Figure | None:
    """Accuracy against inconsistency of the training rollouts, one way per method from its first to its last step (the paper's Fig. 4).

    Each point is the mean over a stretch of steps and over seeds. None where no run has both numbers.
    """
    styles = method_styles(groups)
    with rc_context({**style, "font.size": 10}):
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        axis = figure.add_subplot()
        drawn = [_way(axis, method, runs, *styles[method]) for method, runs in groups.items()]
        if not any(drawn):
            return None
        axis.set_xlabel("inconsistency rate %  (← better)")
        axis.set_ylabel("accuracy %  (better →)")
        axis.set_xlim(left=min(0.0, axis.get_xlim()[0]))
        axis.grid(linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(length=0)
        if len(groups) > 1:
            handles, labels = axis.get_legend_handles_labels()
            columns = legend_columns(labels, figure.get_figwidth())
            figure.legend(row_major(handles, columns), row_major(labels, columns), loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _way(axis: Axes, method: str, runs: Sequence[Rows], colour: str, marker: str) -> bool:
    x, y = (100 * values for values in way(runs))
    if not len(x):
        return False
    axis.plot(x, y, color=colour, linewidth=1.8, alpha=0.6, zorder=2)
    axis.scatter(x, y, s=20, marker=marker, color=colour, alpha=0.85, linewidths=0, zorder=3)
    axis.plot(x[0], y[0], marker, color="none", markeredgecolor=colour, markeredgewidth=1.6, markersize=9, zorder=4)
    axis.plot(x[-1], y[-1], marker, color=colour, markeredgecolor="white", markersize=12, label=method, linestyle="none", zorder=5)
    return True


def way(runs: Sequence[Rows]) -> tuple[np.ndarray, np.ndarray]:
    """(inconsistency, accuracy), each (points,): means over `WAY_POINTS` equal stretches of the steps and over runs.

    A stretch in which either was not measured is left out; both are empty where no stretch has both.
    """
    steps = np.array([row["step"] for rows in runs for row in rows], dtype=float)
    if not steps.size:
        return np.array([]), np.array([])
    stretch = np.minimum(((steps - steps.min()) / max(np.ptp(steps) + 1, 1) * WAY_POINTS).astype(int), WAY_POINTS - 1)
    means = []
    for name in (TRAIN_INCONSISTENCY_RATE, TRAIN_ACCURACY):
        values = np.concatenate([series(rows, name)[1] for rows in runs if rows])
        known = np.isfinite(values)
        count = np.bincount(stretch[known], minlength=WAY_POINTS)
        total = np.bincount(stretch[known], weights=values[known], minlength=WAY_POINTS)
        means.append(np.divide(total, count, out=np.full(WAY_POINTS, np.nan), where=count > 0))
    both = np.isfinite(means[0]) & np.isfinite(means[1])
    return means[0][both], means[1][both]


def save(figure: Figure, out: Path) -> Path:
    """Write the picture, as PNG or SVG by its name; returns `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    plain = {"Software": None} if out.suffix == ".png" else {"Date": None}
    with rc_context(STYLE):
        figure.savefig(out, dpi=160, facecolor="white", metadata=plain)
    return out


def _moves(rows: Rows) -> bool:
    """Whether any multiplier of the run has changed."""
    for name in constraint_names(rows):
        values = series(rows, constraint_metric(name, "multiplier"))[1] if rows else np.array([])
        values = values[np.isfinite(values)]
        if values.size and np.ptp(values) > 0:
            return True
    return False


def _outcome(axis: Axes, comparison: Comparison, decoding: str) -> None:
    start = comparison.estimates[decoding].get(WARM_START)
    styles = method_styles(comparison.methods)
    for method in comparison.methods:
        found = comparison.estimates[decoding][method]
        accuracy, inconsistency = found["accuracy"], found["inconsistency_rate"]
        colour, marker = styles[method]
        x, y = 100 * inconsistency.value, 100 * accuracy.value
        covered = comparison.coverage[decoding][method]
        missing = [
            f"{name} {covered[key].text}" for key, name in (("accuracy", "accuracy"), ("inconsistency_rate", "IR")) if covered[key].partial
        ]
        if start is not None and method != WARM_START:
            origin = (100 * start["inconsistency_rate"].value, 100 * start["accuracy"].value)
            axis.annotate("", (x, y), origin, arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.45, "linewidth": 1.5})
        across = [[x - 100 * inconsistency.low], [100 * inconsistency.high - x]]
        upward = [[y - 100 * accuracy.low], [100 * accuracy.high - y]]
        edges = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.6} if missing else {"markeredgecolor": "white"}
        axis.errorbar(x, y, xerr=np.maximum(across, 0), yerr=np.maximum(upward, 0), fmt=marker, color=colour, markersize=9, label=method,
                      elinewidth=1.2, capsize=2, zorder=3, **edges)  # fmt: skip
        if missing:  # a point that is not of all answers is hollow, and says of how many it is
            axis.annotate(", ".join(missing), (x, y), (9, 7), textcoords="offset points", fontsize=8, color=rcParams["text.color"])
        each = comparison.per_seed[decoding][method]
        if len(each["accuracy"]) > 1:
            axis.scatter(100 * np.array(each["inconsistency_rate"]), 100 * np.array(each["accuracy"]), s=14, marker=marker, color=colour,
                         alpha=0.45, linewidths=0, zorder=2)  # fmt: skip
    axis.set_title(f"Held-out, {DECODING_LABELS[decoding]}", loc="left", fontweight="bold")
    axis.set_xlabel("inconsistency rate %  (← better)")
    axis.set_ylabel("accuracy %  (better →)")
    axis.set_xlim(left=-0.04 * axis.get_xlim()[1])  # a marker at 0 stays whole
    axis.grid(linewidth=0.8)
    axis.set_axisbelow(True)


def _multipliers(axis: Axes, moving: Mapping[str, Sequence[Rows]]) -> None:
    """Colour tells the constraint; where several methods move their multipliers, the line tells the method."""
    for (method, runs), line in zip(moving.items(), ("-", "--", ":", "-.") * len(moving), strict=False):
        for name, colour in constraint_colours(moving).items():
            curves = [series(rows, constraint_metric(name, "multiplier")) for rows in runs]
            curves = [(steps, values) for steps, values in curves if np.isfinite(values).any()]
            what = name.replace("_", " ")
            for index, (steps, values) in enumerate(curves):
                label = None if index else what if len(moving) == 1 else f"{what}, {method}"
                axis.plot(steps, values, line, color=colour, linewidth=1.6, alpha=0.85, label=label)
    axis.set_title(f"Multipliers, {next(iter(moving))}" if len(moving) == 1 else "Multipliers", loc="left", fontweight="bold")
    axis.set_xlabel("step")
    axis.set_ylabel("λ")
    axis.grid(axis="y", linewidth=0.8)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=9 if len(moving) == 1 else 7)
