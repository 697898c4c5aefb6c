"""Evaluations on benchmarks beside each other: a table per metric (the paper's Tables 1 to 3), bars per benchmark (Fig. 3), coverage.

Reads what `python -m faithful_rl.evaluate` wrote. Several evaluations under one name are seeds of one method. Tests between methods
are `faithful_rl.evaluation.comparison`'s: McNemar for accuracy and inconsistency, paired bootstraps for means, Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.comparison import ALPHA, Evaluated, compare, excludes_zero, read_evaluation
from faithful_rl.evaluation.figures import BY_NAME
from faithful_rl.heldout_statistics import NOTHING, Estimate, Seeds, over_seeds
from faithful_rl.report.plots import Plot
from faithful_rl.report.styles import PAGE_STYLE, method_styles, page_colour
from faithful_rl.report.viewer import evaluation_name
from faithful_rl.run_directory import EVALUATION, read_json

# Metric of an evaluation -> heading of its table.
TABLES = {
    "accuracy": "Accuracy %",
    "inconsistency_rate": "Inconsistency rate (IR) %",
    "semantic_grounding": "Semantic grounding (R_S) %",
    "spatial_grounding": "Spatial grounding (R_G) %",
    "right_for_a_false_reason": "Right for a false reason %",
    "format_rate": "Well-formed %",
}
BARS = ("accuracy", "inconsistency_rate", "semantic_grounding", "spatial_grounding")
MEAN = "mean"


@dataclass(frozen=True)
class Named:
    """An evaluation directory and the method it is of."""

    method: str
    directory: Path


@dataclass(frozen=True)
class Cell:
    """One figure: `mark` "better" or "worse" where a test finds a difference to the baseline, `why` that test, `coverage` "" where
    nothing is missing."""

    value: str
    interval: str = ""
    mark: str = ""
    why: str = ""
    coverage: str = ""


@dataclass(frozen=True)
class Table:
    """`rows` are (method, colour, one cell per column)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Evaluations:
    """Methods in order with their evaluations (seeds), `estimates[method][benchmark][metric]`, and what tests found.

    `tests[method][benchmark, metric]` is the entry of the comparison with the baseline; `untested` says why there are none.
    """

    methods: Mapping[str, tuple[Evaluated, ...]]
    benchmarks: tuple[str, ...]
    baseline: str
    estimates: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    tests: Mapping[str, Mapping[tuple[str, str], Mapping[str, Any]]]
    untested: str = ""


def read(named: Sequence[Named], baseline: str | None = None) -> Evaluations:
    """Read evaluation directories and test each method against the baseline (None: the first method).

    Raises:
        ConfigError: a directory holds no finished evaluation, or no evaluation is of the baseline.
    """
    methods: dict[str, list[Evaluated]] = {}
    for one in named:
        methods.setdefault(one.method, []).append(read_evaluation(one.directory))
    against = baseline if baseline in methods else next(iter(methods))
    if baseline is not None and baseline not in methods:
        raise ConfigError("baseline", repr(baseline), f"one of {', '.join(methods)}", "Give an evaluation of it, or another baseline.")
    benchmarks = tuple(dict.fromkeys(name for runs in methods.values() for run in runs for name in run.summary["benchmarks"]))
    estimates = {method: {name: _estimates(runs, name) for name in benchmarks} for method, runs in methods.items()}
    tests: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    untested = ""
    for method in [name for name in methods if name != against]:
        try:
            entries = compare(methods[against], methods[method])
        except ConfigError as error:
            untested = f"{method} is not tested against {against}: {error}"
            continue
        tests[method] = {(entry["benchmark"], entry["metric"]): entry for entry in entries}
    return Evaluations({name: tuple(runs) for name, runs in methods.items()}, benchmarks, against, estimates, tests, untested)


def methods_of(directories: Sequence[tuple[Path, str]]) -> list[Named]:
    """(directory, name) with a method for each: the name where one is given, else its model's.

    Only a name that somebody gave makes several evaluations seeds of one method: `outputs/grpo/hf` and `outputs/fgrpo/hf` are two models,
    and are told apart by their evaluations' directories.
    """
    found: list[Named] = []
    own = {directory: evaluation_name(read_json(directory / EVALUATION), directory) for directory, name in directories if not name}
    given = {name for _, name in directories if name}
    for directory, name in directories:
        label = name or own[directory]
        twins = [other for other, theirs in own.items() if theirs == label and other != directory]
        if not name and (twins or label in given):
            alone = all(other.name != directory.name for other in twins)
            label = f"{label} ({directory.name if alone else directory})"
        found.append(Named(label, directory))
    return found


def _estimates(runs: Sequence[Evaluated], benchmark: str) -> dict[str, Estimate]:
    """One evaluation's own figures; of several the mean over seeds on the questions that all answered."""
    having = [run for run in runs if benchmark in run.summary["benchmarks"]]
    if len(having) == 1:
        metrics = having[0].summary["benchmarks"][benchmark]["metrics"]
        return {name: _estimate(found) for name, found in metrics.items()}
    if not having:
        return {}
    shared = sorted(set.intersection(*(set(run.rows[benchmark]) for run in having)))
    result = {}
    for name, quantity in BY_NAME.items():
        pairs = [quantity.arrays([run.rows[benchmark][uid] for uid in shared]) for run in having]
        result[name] = over_seeds(Seeds(np.stack([v for v, _ in pairs]), np.stack([w for _, w in pairs]))) if shared else NOTHING
    return result


def _estimate(found: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if found.get(key) is None else float(found[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, int(found.get("n") or 0))


def tables(found: Evaluations) -> tuple[Table, ...]:
    """One table per metric that was measured anywhere: methods down, benchmarks across, and their plain mean last; of a single
    benchmark one table in all, metrics across."""
    styles = method_styles(found.methods)
    if len(found.benchmarks) == 1:
        (name,) = found.benchmarks
        metrics = [metric for metric in TABLES if any(_measured(found, method, name, metric) for method in found.methods)]
        only = tuple(
            (method, page_colour(styles[method][0]), tuple(_cell(found, method, name, metric) for metric in metrics))
            for method in found.methods
        )
        return (Table(name, tuple(TABLES[metric] for metric in metrics), only),)
    made = []
    for metric, title in TABLES.items():
        known = [name for name in found.benchmarks if any(_measured(found, method, name, metric) for method in found.methods)]
        if not known:
            continue
        rows = tuple(
            (
                method,
                page_colour(styles[method][0]),
                tuple(_cell(found, method, name, metric) for name in known) + _mean(found, method, known, metric),
            )
            for method in found.methods
        )
        made.append(Table(title, (*known, *([MEAN] if len(known) > 1 else [])), rows))
    return tuple(made)


def _measured(found: Evaluations, method: str, benchmark: str, metric: str) -> bool:
    estimate = found.estimates[method][benchmark].get(metric, NOTHING)
    return not math.isnan(estimate.value)


def _cell(found: Evaluations, method: str, benchmark: str, metric: str) -> Cell:
    estimate = found.estimates[method][benchmark].get(metric, NOTHING)
    if math.isnan(estimate.value):
        return Cell("–", coverage=_coverage(found, method, benchmark))
    interval = "" if math.isnan(estimate.low) else f"{100 * estimate.low:.1f}, {100 * estimate.high:.1f}"
    mark, why = _mark(found.tests.get(method, {}).get((benchmark, metric)), BY_NAME[metric].better, found.baseline)
    return Cell(f"{100 * estimate.value:.1f}", interval, mark, why, _coverage(found, method, benchmark))


def _mark(entry: Mapping[str, Any] | None, better: int, baseline: str) -> tuple[str, str]:
    """("better" | "worse" | "", what the test says). With a p value Holm's decides, without one the difference's interval."""
    if entry is None:
        return "", ""
    p = entry.get("p_holm", entry.get("p"))
    differs = p < ALPHA if p is not None else excludes_zero(entry)
    moved = 100 * entry["difference"]["value"]
    told = f"{moved:+.1f} points to {baseline} on {entry['shared']} shared questions; {entry.get('test', 'paired bootstrap')}"
    told += f", p = {p:.2g} after Holm's correction" if p is not None else ""
    if not differs or not better or moved == 0:
        return "", told
    return ("better" if moved * better > 0 else "worse"), told


def _coverage(found: Evaluations, method: str, benchmark: str) -> str:
    """`412 of 500` where a question was not generated or not scored: a partial evaluation is never printed as a whole one."""
    entries = [run.summary["benchmarks"][benchmark] for run in found.methods[method] if benchmark in run.summary["benchmarks"]]
    if not entries:
        return "not evaluated"
    worst = min(entries, key=lambda entry: float(entry.get("coverage", 1.0)))
    if float(worst.get("coverage", 1.0)) >= 1.0:
        return ""
    return f"{worst.get('scored', worst.get('generated', '?'))} of {worst.get('questions', '?')}"


def _mean(found: Evaluations, method: str, benchmarks: Sequence[str], metric: str) -> tuple[Cell, ...]:
    """The mean over benchmarks, only where the method has all of them: a mean over others could not be compared."""
    if len(benchmarks) < 2:
        return ()
    values = [found.estimates[method][name].get(metric, NOTHING).value for name in benchmarks]
    return (Cell("–" if any(map(math.isnan, values)) else f"{100 * float(np.mean(values)):.1f}"),)


def bars(found: Evaluations, style: Mapping[Any, Any] = PAGE_STYLE) -> Plot | None:
    """Bars with 95% intervals, one group per benchmark and one panel per metric (the paper's Fig. 3)."""
    metrics = [m for m in BARS if any(_measured(found, method, name, m) for method in found.methods for name in found.benchmarks)]
    if not metrics:
        return None
    styles, places = method_styles(found.methods), np.arange(len(found.benchmarks))
    width, ink, alone = 0.8 / len(found.methods), style.get("text.color", "#333333"), len(places) == 1
    shape = (1, len(metrics)) if alone else (len(metrics), 1)
    size = (2.5 * len(metrics) + 0.8, 2.9) if alone else (max(7.0, 1.5 * len(places) + 2), 2.0 * len(metrics) + 0.8)
    with rc_context({**style, "font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        for axis, metric in zip(np.atleast_1d(figure.subplots(*shape, sharex=not alone)), metrics, strict=True):
            for index, method in enumerate(found.methods):
                known = [found.estimates[method][name].get(metric, NOTHING) for name in found.benchmarks]
                values = np.array([100 * one.value for one in known])
                spread = np.maximum([[v - 100 * one.low, 100 * one.high - v] for v, one in zip(values, known, strict=True)], 0).T
                axis.bar(places + (index - (len(found.methods) - 1) / 2) * width, values, 0.92 * width,
                         color=styles[method][0], label=method, yerr=spread, error_kw={"elinewidth": 1.1, "ecolor": ink})  # fmt: skip
            axis.set_title(TABLES[metric], loc="left", fontsize=10)
            axis.grid(axis="y", linewidth=0.8)
            axis.set_axisbelow(True)
            axis.tick_params(length=0)
            axis.set_xticks([] if alone else places, [] if alone else [name.replace("_", " ") for name in found.benchmarks])
        handles, labels = axis.get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    return Plot(
        "Benchmarks",
        f"{f'{found.benchmarks[0]}: ' if alone else ''}Bars with 95% intervals; arrows in the tables say where a test finds a difference.",
        figure,
        "benchmarks",
    )


def headline(found: Evaluations) -> str:
    """How many right answers rest on a false sentence, of the method that has fewest: the number that accuracy hides. "" unmeasured."""
    shares = {}
    for method in found.methods:
        known = [found.estimates[method][name].get("right_for_a_false_reason", NOTHING) for name in found.benchmarks]
        known = [one for one in known if not math.isnan(one.value)]
        if known:
            shares[method] = sum(one.value * one.count for one in known) / max(sum(one.count for one in known), 1)
    if not shares:
        return ""
    told = " · ".join(f"{method} {100 * share:.1f}%" for method, share in shares.items())
    return f"Right answers whose reasoning holds a sentence that is false of the image: {told}."


def markdown(found: Evaluations) -> str:
    """The tables for a paper, one per metric; arrows where a test finds a difference to the baseline."""
    lines: list[str] = []
    for table in tables(found):
        lines += [f"**{table.title}**", "", f"| method | {' | '.join(table.columns)} |", "|---|" + "---:|" * len(table.columns)]
        for method, _, cells in table.rows:
            texts = [
                f"{c.value}{f' [{c.interval}]' if c.interval else ''}{ARROWS[c.mark]}{f' ({c.coverage})' if c.coverage else ''}"
                for c in cells
            ]
            lines.append(f"| {method} | {' | '.join(texts)} |")
        lines.append("")
    lines.append(
        f"▲ better and ▼ worse than {found.baseline} at level {ALPHA:g} (McNemar's exact test with Holm's correction for accuracy and IR, "
    )
    lines[-1] += (
        "paired bootstrap otherwise). In round brackets: questions scored, where some are missing. 95% intervals in square brackets."
    )
    return "\n".join([*lines, *([found.untested] if found.untested else [])]) + "\n"


ARROWS = {"better": " ▲", "worse": " ▼", "": ""}
