"""Tables of evaluations: one per figure (the paper's Tables 1 to 3), methods down and benchmarks across; and the sentences above them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faithful_rl.evaluation.comparison import differs
from faithful_rl.evaluation.figures import BY_NAME
from faithful_rl.heldout_statistics import Estimate
from faithful_rl.report.evaluations import Evaluations, over_benchmarks, spoken
from faithful_rl.report.styles import method_styles, page_colour

# Figure of an evaluation -> heading of its table.
TABLES = {
    "accuracy": "Accuracy %",
    "inconsistency_rate": "Inconsistency rate (IR) %",
    "semantic_grounding": "Semantic grounding (R_S) %",
    "spatial_grounding": "Spatial grounding (R_G) %",
    "right_for_a_false_reason": "Right for a false reason %",
}
FORM = {
    "format_rate": "Well-formed %",
    "unparsed_rate": "No answer can be read %",
    "truncated_rate": "Cut at the limit of tokens %",
    "response_tokens": "Response length, tokens",
}
HEADINGS = {**TABLES, **FORM}
MEAN = "mean"
NOT_PINNED = "not the pinned set"
NOT_EVALUATED = "not evaluated"


@dataclass(frozen=True)
class Cell:
    """One figure: `mark` "better" or "worse" where a test finds a difference to the baseline, `why` that test, `coverage` "" where
    nothing needs to be said of how many questions it is, `partial` where some are missing or others were asked."""

    value: str
    interval: str = ""
    mark: str = ""
    why: str = ""
    coverage: str = ""
    partial: bool = False


@dataclass(frozen=True)
class Table:
    """`rows` are (method, colour, one cell per column)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


def tables(found: Evaluations) -> tuple[Table, ...]:
    """One table per figure that was measured anywhere: methods down, benchmarks across, and their plain mean last; of a single
    benchmark one table of figures and one of the responses' form, figures across."""
    if len(found.benchmarks) == 1:
        (name,) = found.benchmarks
        made = [_across(found, title, name, of) for title, of in ((name, TABLES), (f"{spoken(name)}: form of the responses", FORM))]
        return tuple(table for table in made if table.columns)
    styles, tables_made = method_styles(found.methods), []
    for metric, title in HEADINGS.items():
        known = [name for name in found.benchmarks if any(found.measured(method, name, metric) for method in found.methods)]
        if not known:
            continue
        rows = tuple(
            (
                method,
                page_colour(styles[method][0]),
                tuple(cell(found, method, name, metric) for name in known) + _mean(found, method, known, metric),
            )
            for method in found.methods
        )
        tables_made.append(Table(title, (*known, *([MEAN] if len(known) > 1 else [])), rows))
    return tuple(tables_made)


def _across(found: Evaluations, title: str, benchmark: str, headings: Mapping[str, str]) -> Table:
    styles = method_styles(found.methods)
    metrics = [metric for metric in headings if any(found.measured(method, benchmark, metric) for method in found.methods)]
    rows = tuple(
        (method, page_colour(styles[method][0]), tuple(cell(found, method, benchmark, metric) for metric in metrics))
        for method in found.methods
    )
    return Table(title, tuple(headings[metric] for metric in metrics), rows)


def cell(found: Evaluations, method: str, benchmark: str, metric: str) -> Cell:
    """One figure with its interval, its test and of how many questions it is."""
    if not any(name == method for name, _ in found.entries(benchmark)):
        return Cell("–", coverage=NOT_EVALUATED)
    if not found.measured(method, benchmark, metric):
        return Cell("–", coverage="not measured" if metric in TABLES else "not known")
    mark, why = marked(found.tests.get(method, {}).get((benchmark, metric)), metric, found.baseline)
    covered, pinned = found.coverage[method][benchmark][metric], found.pinned(method, benchmark)
    told = ", ".join(part for part in (covered.text, "" if pinned else NOT_PINNED) if part)
    value, interval = numbers(found.estimate(method, benchmark, metric), BY_NAME[metric].percent)
    return Cell(value, interval, mark, why, told, partial=covered.partial or not pinned)


def numbers(found: Estimate, percent: bool) -> tuple[str, str]:
    """(`67.2`, `64.8, 69.5`), shares in per cent; "" for an interval that is not known."""
    scale = 100.0 if percent else 1.0
    return f"{scale * found.value:.1f}", "" if math.isnan(found.low) else f"{scale * found.low:.1f}, {scale * found.high:.1f}"


def marked(entry: Mapping[str, Any] | None, metric: str, baseline: str) -> tuple[str, str]:
    """("better" | "worse" | "", what the test says). With a p value Holm's decides, without one the difference's interval."""
    if entry is None:
        return "", ""
    quantity = BY_NAME.get(metric)  # None: accuracy by group
    better, percent = (1, True) if quantity is None else (quantity.better, quantity.percent)
    p, moved = entry.get("p_holm", entry.get("p")), (100 if percent else 1) * entry["difference"]["value"]
    asked = f"{entry['n']} questions measured on both sides" if entry["n"] < entry["shared"] else f"{entry['shared']} shared questions"
    told = f"{moved:+.1f} {'points' if percent else 'tokens'} to {baseline} on {asked}; {entry.get('test', 'paired bootstrap')}"
    told += f", p = {p:.2g} after Holm's correction" if p is not None else ""
    if not differs(entry) or not better or moved == 0:
        return "", told
    return ("better" if moved * better > 0 else "worse"), told


def _mean(found: Evaluations, method: str, benchmarks: Sequence[str], metric: str) -> tuple[Cell, ...]:
    """The mean over benchmarks, only where the method has all of them."""
    if len(benchmarks) < 2:
        return ()
    mean, covered = over_benchmarks(found, method, benchmarks, metric)
    if math.isnan(mean.value):
        return (Cell("–"),)
    partial = not all(found.whole(method, name, metric) for name in benchmarks)
    return (Cell(*numbers(mean, BY_NAME[metric].percent), coverage=covered.text if partial else "", partial=partial),)


def headline(found: Evaluations) -> tuple[str, ...]:
    """What a reader wants to know first, one sentence per method: accuracy and inconsistency with their intervals, and on how many answers;
    then how many right answers rest on a false sentence, which accuracy hides."""
    shared = [name for name in found.benchmarks if all(found.measured(method, name, "accuracy") for method in found.methods)]
    sentences = []
    for method in found.methods:
        known = shared or [name for name in found.benchmarks if found.measured(method, name, "accuracy")]
        if not known:
            sentences.append(f"{method}: no answer could be scored.")
            continue
        parts = [_told(found, method, known, "accuracy", "of the answers are right")]
        judged = [name for name in known if found.measured(method, name, "inconsistency_rate")]
        parts.append(
            _told(found, method, judged, "inconsistency_rate", "contradict their own reasoning")
            + (f", on {', '.join(map(spoken, judged))} alone" if judged != known else "")
            if judged
            else "inconsistency not measured"
        )
        where = spoken(known[0]) if len(known) == 1 else f"mean of {len(known)} benchmarks"
        sentences.append(f"{method}, {where}: {'; '.join(parts)}.")
    return (*sentences, *_false_reasons(found))


def _told(found: Evaluations, method: str, benchmarks: Sequence[str], metric: str, words: str) -> str:
    """`75.0% [64.8, 84.1] of the answers are right (n = 72 of 80)`."""
    mean, covered = over_benchmarks(found, method, benchmarks, metric)
    value, interval = numbers(mean, percent=True)
    number = f"{covered.counted:,} of {covered.applicable:,}" if covered.partial else f"{covered.counted:,}"
    return f"{value}%{f' [{interval}]' if interval else ''} {words} (n = {number})"


def _false_reasons(found: Evaluations) -> tuple[str, ...]:
    metric, told = "right_for_a_false_reason", []
    for method in found.methods:
        known = [name for name in found.benchmarks if found.measured(method, name, metric)]
        if known:
            pairs = [(found.estimate(method, name, metric).value, found.coverage[method][name][metric]) for name in known]
            counted = sum(covered.counted for _, covered in pairs)
            share = sum(value * covered.counted for value, covered in pairs) / max(counted, 1)
            told.append(f"{method} {100 * share:.1f}% of {counted:,}")
    return (f"Right answers whose reasoning holds a sentence that is false of the image: {' · '.join(told)}.",) if told else ()
