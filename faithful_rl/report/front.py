"""The picture of a comparison: where each method goes in accuracy and inconsistency, and the multipliers that take it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from faithful_rl.metrics import CONSTRAINT_SIGNALS, constraint_metric, read_metrics
from faithful_rl.report.comparison import WARM_START, Comparison, method_label
from faithful_rl.report.plots import COLOUR_OF, STYLE, Rows, method_style, series
from faithful_rl.run_directory import DECODING_LABELS, METRICS, RUN, read_json


def draw(comparison: Comparison, run_dirs: Sequence[Path], style: Mapping[Any, Any] = STYLE) -> Figure:
    """One panel per decoding (held-out accuracy against IR, a line from the warm start) and one with the adaptive multipliers."""
    with rc_context({**style, "font.size": 10}):
        panels = len(comparison.estimates) + 1
        figure = Figure(figsize=(4.3 * panels, 4.1), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, panels))
        for axis, decoding in zip(axes, comparison.estimates, strict=False):
            _outcome(axis, comparison, decoding)
        multipliers = {run_dir.name: read_metrics(run_dir / METRICS) for run_dir in run_dirs if _is_adaptive(run_dir)}
        _multipliers(axes[-1], list(multipliers.values()))
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def save(figure: Figure, out: Path) -> Path:
    """Write the picture as PNG; returns `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=160, facecolor="white", metadata={"Software": None})
    return out


def _is_adaptive(run_dir: Path) -> bool:
    return method_label(str(read_json(run_dir / RUN).get("recipe"))) == "FGRPO, adaptive"


def _outcome(axis: Axes, comparison: Comparison, decoding: str) -> None:
    start = comparison.estimates[decoding].get(WARM_START)
    for method in comparison.methods:
        found = comparison.estimates[decoding][method]
        accuracy, inconsistency = found["accuracy"], found["inconsistency_rate"]
        colour, marker = method_style(method)
        x, y = 100 * inconsistency.value, 100 * accuracy.value
        if start is not None and method != WARM_START:
            origin = (100 * start["inconsistency_rate"].value, 100 * start["accuracy"].value)
            axis.annotate("", (x, y), origin, arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.45, "linewidth": 1.5})
        across = [[x - 100 * inconsistency.low], [100 * inconsistency.high - x]]
        upward = [[y - 100 * accuracy.low], [100 * accuracy.high - y]]
        axis.errorbar(x, y, xerr=np.maximum(across, 0), yerr=np.maximum(upward, 0), fmt=marker, color=colour, markersize=9, label=method,
                      markeredgecolor="white", elinewidth=1.2, capsize=2, zorder=3)  # fmt: skip
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


def _multipliers(axis: Axes, runs: Sequence[Rows]) -> None:
    for name in CONSTRAINT_SIGNALS:
        curves = [series(rows, constraint_metric(name, "multiplier")) for rows in runs]
        curves = [(steps, values) for steps, values in curves if np.isfinite(values).any()]
        for index, (steps, values) in enumerate(curves):
            label = name.replace("_", " ") if index == 0 else None
            axis.plot(steps, values, color=COLOUR_OF[name], linewidth=1.6, alpha=0.85, label=label)
    axis.set_title("Multipliers, FGRPO adaptive", loc="left", fontweight="bold")
    axis.set_xlabel("step")
    axis.set_ylabel("λ")
    axis.grid(axis="y", linewidth=0.8)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=9)
