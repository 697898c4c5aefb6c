"""What lies behind the figures of an evaluation: the four cells, each benchmark's conventions, task types, and how it was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from faithful_rl.evaluation.comparison import ALL_RIGHT
from faithful_rl.evaluation.figures import CELLS
from faithful_rl.evaluation.present import CELL_WORDS, read_by
from faithful_rl.report.evaluation_tables import TABLES, Cell, Table, marked
from faithful_rl.report.evaluations import Evaluations
from faithful_rl.report.styles import method_styles, page_colour

BY_TYPE = ("accuracy", "inconsistency_rate", "semantic_grounding", "right_for_a_false_reason")
# Convention of accuracy -> the test of two methods that counts in the same way.
TESTED_AS = {"per_question": "accuracy", "circular_mean": "accuracy", "per_pair": ALL_RIGHT, "all_orders": ALL_RIGHT}
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Breakdown:
    """One benchmark in detail; `asked` is what was asked and scored, in words, `remarks` what a text model read."""

    benchmark: str
    asked: str
    tables: tuple[Table, ...]
    remarks: tuple[str, ...] = ()


def breakdowns(found: Evaluations) -> tuple[Breakdown, ...]:
    """Every benchmark in the order of the tables."""
    return tuple(Breakdown(name, _asked(found, name), _tables(found, name), _remarks(found, name)) for name in found.benchmarks)


def _remarks(found: Evaluations, benchmark: str) -> tuple[str, ...]:
    return tuple(
        f"{method}: {read_by(run.summary['benchmarks'][benchmark]['extractor'])}"
        for method, runs in found.methods.items()
        for run in runs
        if run.summary["benchmarks"].get(benchmark, {}).get("extractor")
    )


def facts(found: Evaluations) -> tuple[tuple[str, str], ...]:
    """(name, value) of what a reader asks first: how much was asked, how much of it was scored, and who judged."""
    entries = [entry for runs in found.methods.values() for run in runs for entry in run.summary["benchmarks"].values()]
    asked, scored = (sum(int(entry.get(key) or 0) for entry in entries) for key in ("questions", "scored"))
    sizes = {name: max(int(entry["questions"]) for _, entry in found.entries(name)) for name in found.benchmarks}
    whole = "all" if scored == asked else f"{scored:,} of {asked:,} (partial)"
    judges = list(dict.fromkeys(text for runs in found.methods.values() for run in runs for text in judges_of(run.summary)))
    return (
        ("models", str(len(found.methods))),
        ("benchmarks", str(len(found.benchmarks))),
        ("questions", f"{sum(sizes.values()):,}"),
        ("responses scored", whole),
        *((("judges", "; ".join(judges)),) if judges else ()),
    )


def notes(found: Evaluations) -> list[tuple[str, str]]:
    """(benchmark, what the evaluations themselves remark on it and of which methods), each remark once."""
    by_remark: dict[tuple[str, str], list[str]] = {}
    for name in found.benchmarks:
        for method, entry in found.entries(name):
            for note in entry.get("notes") or ():
                by_remark.setdefault((name, str(note)), []).append(method)
    several = len(found.methods) > 1
    return [(name, f"{note} ({', '.join(dict.fromkeys(methods))})" if several else note) for (name, note), methods in by_remark.items()]


def combined(found: Evaluations) -> Table | None:
    """Figures that official counts make of several benchmarks (CV-Bench: of 2D and 3D), means over seeds; None without any."""
    by_method = {method: [run.summary.get("combined") or {} for run in runs] for method, runs in found.methods.items()}
    names = _names(one for runs in by_method.values() for one in runs)
    if not names:
        return None
    words = {name: str(one[name]["convention"]) for runs in by_method.values() for one in runs for name in one}
    table = _table("Accuracy % of several benchmarks together", names, by_method, lambda one, name: (one.get(name) or {}).get("accuracy"))
    return replace(table, columns=tuple(f"{name.replace('_', ' ')}: {words[name]}" for name in names))


def judges_of(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """`scene` where one judge does both, else `consistency: ...` and `grounding: ...`; () where the summary does not say."""
    judges = {str(name): str((entry or {}).get("is", "none")) for name, entry in (summary.get("judges") or {}).items()}
    if len(set(judges.values())) == 1:
        return (next(iter(judges.values())),)
    return tuple(f"{name}: {what}" for name, what in judges.items())


def decoding_of(summary: Mapping[str, Any]) -> str:
    """How the responses came about, in words; "" where the summary does not say."""
    made = summary.get("decoding") or {}
    if not made:
        return ""
    if not made.get("generated_here", True):
        return "responses of a prediction file"
    return f"greedy, at most {made.get('max_new_tokens')} new tokens in {made.get('context')}, prompt {made.get('prompt')}"


def _asked(found: Evaluations, benchmark: str) -> str:
    entries = [entry for _, entry in found.entries(benchmark)]
    sizes = sorted({int(entry["questions"]) for entry in entries})
    told = f"{' or '.join(f'{size:,}' for size in sizes)} questions"
    worst = min(float(entry.get("coverage", 1.0)) for entry in entries)
    return told if worst >= 1 else f"{told}, at worst {100 * worst:.1f}% scored"


def _tables(found: Evaluations, benchmark: str) -> tuple[Table, ...]:
    by_method = {
        method: [run.summary["benchmarks"][benchmark] for run in runs if benchmark in run.summary["benchmarks"]]
        for method, runs in found.methods.items()
    }
    by_method = {method: entries for method, entries in by_method.items() if entries}
    judged = any((entry.get("cells") or {}).get(name) for entries in by_method.values() for entry in entries for name in CELLS)
    made = [_cells(by_method)] if judged else []
    conventions = _names(entry.get("conventions") or {} for entries in by_method.values() for entry in entries)
    if len(conventions) > 1:
        made.append(_conventions(found, benchmark, conventions, by_method))
    types = _names(entry.get("by_task_type") or {} for entries in by_method.values() for entry in entries)
    if len(types) > 1:
        for metric in BY_TYPE:
            table = _table(
                f"{TABLES[metric]} by task type",
                types,
                by_method,
                lambda entry, name, metric=metric: (entry["by_task_type"].get(name) or {}).get(metric),
            )
            if any(cell.value != "–" for _, _, cells in table.rows for cell in cells):
                made.append(table)
    return tuple(made)


def _conventions(found: Evaluations, benchmark: str, names: Sequence[str], by_method: Mapping[str, Sequence[Entry]]) -> Table:
    """Accuracy as each convention counts it, marked by the test that counts likewise: of pairs and rows it is one over groups."""
    table = _table("Accuracy % by convention", names, by_method, lambda entry, name: (entry["conventions"]).get(name))
    rows = []
    for method, colour, cells in table.rows:
        tests = found.tests.get(method, {})
        marks = [marked(tests.get((benchmark, TESTED_AS.get(name, ""))), TESTED_AS.get(name, ""), found.baseline) for name in names]
        made = [replace(cell, mark=mark, why=why) if cell.value != "–" else cell for cell, (mark, why) in zip(cells, marks, strict=True)]
        rows.append((method, colour, tuple(made)))
    return replace(table, rows=tuple(rows))


def _names(mappings: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in mappings for name in one))


def _cells(by_method: Mapping[str, Sequence[Entry]]) -> Table:
    """Responses by answer and consistency; over seeds their sum."""
    styles = method_styles(by_method)
    names = (*CELLS, "unscored")
    rows = []
    for method, entries in by_method.items():
        counts = [sum(int((entry.get("cells") or {}).get(name, 0)) for entry in entries) for name in names]
        total = max(sum(counts), 1)
        rows.append((method, page_colour(styles[method][0]), tuple(Cell(f"{count:,}", f"{100 * count / total:.1f}%") for count in counts)))
    return Table("Answer against consistency, responses", tuple(CELL_WORDS.get(name, "no verdict") for name in names), tuple(rows))


def _table(title: str, columns: Sequence[str], by_method: Mapping[str, Sequence[Entry]], figure: Any) -> Table:
    """Means over seeds; the interval and the number of responses stand there where a method has one evaluation."""
    styles = method_styles(by_method)
    rows = tuple(
        (method, page_colour(styles[method][0]), tuple(_cell([figure(entry, name) for entry in entries]) for name in columns))
        for method, entries in by_method.items()
    )
    return Table(title, tuple(columns), rows)


def _cell(figures: Sequence[Mapping[str, Any] | None]) -> Cell:
    known = [one for one in figures if one and one.get("value") is not None]
    if not known:
        return Cell("–")
    only = known[0] if len(figures) == 1 else None
    interval = "" if only is None or only.get("low") is None else f"{100 * only['low']:.1f}, {100 * only['high']:.1f}"
    least = min(known, key=lambda one: (one["n"] / max(one.get("of", one["n"]), 1), one["n"]))
    partial = least["n"] < least.get("of", least["n"]) or len(known) < len(figures)
    value = math.fsum(float(one["value"]) for one in known) / len(known)
    return Cell(f"{100 * value:.1f}", interval, coverage=_counted(least), partial=partial)


def _counted(one: Mapping[str, Any]) -> str:
    """`n = 40 pairs`, `38 of 40 pairs`."""
    unit = f" {one['unit']}" if one.get("unit") else ""
    return f"{one['n']:,} of {one['of']:,}{unit}" if one["n"] < one.get("of", one["n"]) else f"n = {one['n']:,}{unit}"
