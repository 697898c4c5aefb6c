"""Bars of evaluations with 95% intervals: one panel per figure, benchmarks across (the paper's Fig. 3); what is partial is hatched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from faithful_rl.report.evaluation_tables import TABLES
from faithful_rl.report.evaluations import Evaluations, spoken
from faithful_rl.report.plots import Plot
from faithful_rl.report.styles import PAGE_STYLE, legend_columns, method_styles, row_major

BARS = ("accuracy", "inconsistency_rate", "semantic_grounding", "spatial_grounding")
HATCH = "////"
PARTIAL = "hatched: partial"
GAP = 0.6  # between benchmarks, in widths of a bar
LEAST = 3.0  # a panel is as wide as so many bars at least, so that one bar does not become a wall


def bars(found: Evaluations, style: Mapping[Any, Any] = PAGE_STYLE) -> Plot | None:
    """None where nothing was measured. A benchmark or method without a figure leaves no empty place in its panel."""
    metrics = [m for m in BARS if any(found.measured(method, name, m) for method in found.methods for name in found.benchmarks)]
    if not metrics:
        return None
    alone = len(found.benchmarks) == 1
    shape = (1, len(metrics)) if alone else (len(metrics), 1)
    most = max(sum(found.measured(method, name, m) for method in found.methods for name in found.benchmarks) for m in metrics)
    size = (2.5 * len(metrics) + 0.8, 3.1) if alone else (min(max(7.0, 0.45 * most + 2), 13.0), 2.0 * len(metrics) + 0.8)
    with rc_context({**style, "font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        hatched = [_panel(axis, found, metric, alone, style)
                   for axis, metric in zip(np.atleast_1d(figure.subplots(*shape)), metrics, strict=True)]  # fmt: skip
        _legend(figure, found, any(hatched), style)
    where = f"{spoken(found.benchmarks[0])}: " if alone else ""
    caption = f"{where}95% intervals; arrows in the tables say where a test finds a difference."
    return Plot(
        "Benchmarks", f"{caption} {PARTIAL.capitalize()}, or not the pinned set." if any(hatched) else caption, figure, "benchmarks"
    )


def _panel(axis: Axes, found: Evaluations, metric: str, alone: bool, style: Mapping[Any, Any]) -> bool:
    """Draw one figure; whether any bar is hatched."""
    styles, ink = method_styles(found.methods), style.get("text.color", "#333333")
    place, centres, names, hatched = 0.0, [], [], False
    for name in found.benchmarks:
        known = [method for method in found.methods if found.measured(method, name, metric)]
        if not known:
            continue
        for index, method in enumerate(known):
            one, whole = found.estimate(method, name, metric), found.whole(method, name, metric)
            hatched |= not whole
            colour = styles[method][0]
            axis.bar(place + index, 100 * one.value, 0.88, color=colour if whole else "none", edgecolor=colour, linewidth=1.0,
                     hatch=None if whole else HATCH)  # fmt: skip
            if not math.isnan(one.low):
                spread = np.maximum([[100 * (one.value - one.low)], [100 * (one.high - one.value)]], 0)
                axis.errorbar(place + index, 100 * one.value, yerr=spread, fmt="none", ecolor=ink, elinewidth=1.1)
        centres.append(place + (len(known) - 1) / 2)
        names.append(spoken(name))
        place += len(known) + GAP
    axis.set_ylim(0, 100)
    axis.set_xlim(-0.7, max(place - GAP, LEAST if not alone else 0) - 0.3)
    axis.set_title(TABLES[metric], loc="left", fontsize=10)
    axis.grid(axis="y", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    axis.set_xticks([] if alone else centres, [] if alone else names)
    return hatched


def _legend(figure: Figure, found: Evaluations, hatched: bool, style: Mapping[Any, Any]) -> None:
    styles = method_styles(found.methods)
    handles: Sequence[Patch] = [Patch(color=styles[method][0], label=method) for method in found.methods]
    if len(handles) < 2:
        handles = []
    if hatched:
        soft = style.get("axes.labelcolor", "#4a5260")
        handles = [*handles, Patch(facecolor="none", edgecolor=soft, hatch=HATCH, label=PARTIAL)]
    if handles:
        columns = legend_columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
        figure.legend(handles=row_major(handles, columns), loc="outside lower center", ncols=columns, frameon=False)
