"""The picture of a simulation: above each constraint with its threshold, below the multipliers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.figure import Figure

from faithful_rl.report.styles import COLOURS, STYLE
from faithful_rl.simulation.traces import Trace


def draw(traces: Mapping[str, Trace], title: str) -> Figure:
    """One panel per constraint (faint: measured, bold: expected, dotted: threshold), and one with all multipliers."""
    panels = len(traces) + 1
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.0 * panels + 0.5), layout="constrained")
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        for index, (axis, (name, trace)) in enumerate(zip(axes, traces.items(), strict=False)):
            colour, steps = COLOURS[index % len(COLOURS)], range(1, trace.score.size + 1)
            axis.plot(steps, trace.score, color=colour, alpha=0.3, linewidth=1)
            axis.plot(steps, trace.rate, color=colour, linewidth=2)
            axis.plot(steps, trace.threshold, color="#333333", linewidth=1.2, linestyle=(0, (1.5, 2.5)))
            sign = "≥" if trace.constraint.sign > 0 else "≤"
            axis.set_title(f"{name.replace('_', ' ')} {sign} {trace.constraint.threshold:g}", loc="left", fontweight="bold")
            axis.set_ylabel("score")
            axis.grid(axis="y", linewidth=0.8)
            axes[-1].plot(steps, trace.multiplier, color=colour, linewidth=1.8, label=name.replace("_", " "))
        axes[-1].set_title("multipliers", loc="left", fontweight="bold")
        axes[-1].set_ylabel("λ")
        axes[-1].set_xlabel("step")
        axes[-1].set_ylim(bottom=0.0)
        axes[-1].grid(axis="y", linewidth=0.8)
        axes[-1].legend(frameon=False, fontsize=8, ncols=min(3, len(traces)))
        figure.suptitle(textwrap.fill(title, 100), fontsize=9, x=0.01, ha="left")
    return figure
