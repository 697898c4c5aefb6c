"""An evaluation and a comparison in the terminal: coverage beside every figure, and what is not a whole evaluation is called partial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from faithful_rl.evaluation.comparison import by_which_test, cautions, excludes_zero, power_note
from faithful_rl.evaluation.figures import BY_NAME, CELLS, METRICS, listed

FIGURE_WIDTH, BENCHMARK_WIDTH = 28, 24  # characters of the columns of the table of figures
CELL_WORDS = dict(
    zip(CELLS, ("correct and consistent", "correct but inconsistent", "wrong but consistent", "wrong and inconsistent"), strict=True)
)


def partial(summary: Mapping[str, Any]) -> bool:
    """Whether some question has no response, or a judge failed on one."""
    return any(entry["coverage"] < 1 for entry in summary["benchmarks"].values())


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Figures of every benchmark with their intervals, then conventions, cells and notes."""
    word = "PARTIAL evaluation" if partial(summary) else "evaluation"
    other = f"; not the pinned set: {', '.join(summary['not_pinned'])}" if summary.get("not_pinned") else ""
    console.print(f"\n{word} of {summary['model']}, mode {summary['mode']}{other}", markup=False, soft_wrap=True)
    entries = list(summary["benchmarks"].items())
    beside = max(1, (console.width - FIGURE_WIDTH) // BENCHMARK_WIDTH)  # a number that is cut off would be another number
    for start in range(0, len(entries), beside):
        console.print(_figures(entries[start : start + beside]))
    for name, entry in summary["benchmarks"].items():
        _show_one(name, entry, console)
    for name, found in summary.get("combined", {}).items():
        accuracy = f"{cell(found['accuracy'], True)} ({counted(found['accuracy'])})"
        console.print(f"{name}: accuracy {accuracy}, {found['convention']}", markup=False, soft_wrap=True)
    if summary.get("costs"):
        console.print(cost_line(summary["costs"]), markup=False, soft_wrap=True)
    if summary.get("paired"):
        show_pairs(summary["paired"], console)


def cost_line(costs: Mapping[str, Any]) -> str:
    """Seconds and tokens of the model, and what judges were asked, over all starts."""

    def told(value: float | None, unit: str) -> str:
        return f"{'unknown' if value is None else f'{value:,.0f}'} {unit}"

    if costs["generation_seconds"] is None:
        model = "nothing was generated here"
    else:
        tokens = f"{told(costs['prompt_tokens'], 'prompt tokens')}, {told(costs['response_tokens'], 'response tokens')}"
        model = f"{told(costs['generation_seconds'], 's of generation')}, {tokens}"
    judges = [f"{name} {told(found['requests'], 'requests')}, {told(found['calls'], 'calls')}" for name, found in costs["judges"].items()]
    return "cost: " + "; ".join([model, *judges])


def _figures(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Every figure of a few benchmarks beside each other; below one that is not known of all that it is about, of how many it is."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    table.add_column("figure", overflow="fold")
    for name, entry in entries:
        heading = f"{name}\n{entry['scored']} of {entry['questions']} ({100 * entry['coverage']:.1f}%)"
        table.add_column(escape(heading), justify="right", overflow="fold")
    for quantity in METRICS:
        found = [entry["metrics"][quantity.name] for _, entry in entries]
        of = [f"\n{counted(one)}" if 0 < one["n"] < _of(one) else "" for one in found]
        cells = [cell(one, quantity.percent) + known for one, known in zip(found, of, strict=True)]
        table.add_row(f"{quantity.name}{' %' if quantity.percent else ''}", *map(escape, cells))
    return table


def _show_one(name: str, entry: Mapping[str, Any], console: Console) -> None:
    counts = ", ".join(f"{CELL_WORDS[label]} {entry['cells'][label]}" for label in CELLS)
    console.print(f"{name}: {counts}, unscored {entry['cells']['unscored']}", markup=False, soft_wrap=True)
    others = {kind: found for kind, found in entry["conventions"].items() if kind != "per_question"}
    if others:
        told = "; ".join(f"{kind.replace('_', ' ')} {cell(found, True)} ({counted(found)})" for kind, found in others.items())
        console.print(f"  accuracy by convention: {told}", markup=False, soft_wrap=True)
    types = {kind: found["accuracy"] for kind, found in entry["by_task_type"].items()}
    if len(types) > 1:
        told = "; ".join(f"{kind.replace('_', ' ')} {cell(found, True)} ({counted(found)})" for kind, found in types.items())
        console.print(f"  accuracy by task type: {told}", markup=False, soft_wrap=True)
    if entry.get("extractor"):
        console.print(f"  {read_by(entry['extractor'])}", markup=False, soft_wrap=True)
    for note in entry["notes"]:
        console.print(f"  note: {note}", markup=False, soft_wrap=True)


def read_by(found: Mapping[str, Any]) -> str:
    """What the extracting model read, and how far it agrees with the rule, with the first ids where they differ."""
    counts = f"{found['read']} read, {found['failed']} failed"
    told = f"answers read by {found['model']} too: {counts}, {_agreement(found)}, {found['decided_by_model']} decided by it"
    if "rule_read_nothing" in found:
        told += f"; rule read nothing: {found['rule_read_nothing']}"
    if found.get("open"):
        told += f"; open questions: {_agreement(found['open'])}"
    if found.get("disagreements"):
        told += f"; {len(found['disagreements'])} read differently: {listed(found['disagreements'])}"
    return told


def _agreement(found: Mapping[str, Any]) -> str:
    agreed = "–" if found["agreement"] is None else f"{100 * found['agreement']:.1f}%"
    kappa = "–" if not found["kappa"] or found["kappa"]["value"] is None else f"{found['kappa']['value']:.3f}"
    return f"agreement {agreed}, kappa {kappa}" + (f" on {found['compared']}" if "compared" in found else "")


def show_pairs(entries: Sequence[Mapping[str, Any]], console: Console) -> None:
    """b - a with its interval and p values, and what too few questions cannot show."""
    for benchmark in dict.fromkeys(entry["benchmark"] for entry in entries):
        console.print(_pairs(benchmark, [entry for entry in entries if entry["benchmark"] == benchmark]))
    console.print(f"* its 95% interval excludes zero. Tested by {by_which_test(entries)}.", markup=False, soft_wrap=True)
    for caution in cautions(entries):
        console.print(f"  not measured alike: {caution}", markup=False, soft_wrap=True)
    for entry in entries:
        note = power_note(entry)
        if note:
            console.print(f"  note: {note}", markup=False, soft_wrap=True)


def _pairs(benchmark: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    """One benchmark's comparison; a narrow terminal breaks its cells between words, and cuts nothing off."""
    table = Table(title=f"{escape(benchmark)}, paired comparison, b - a", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("figure", overflow="fold")
    for heading in ("n", "a", "b", "difference", "p", "p (Holm)"):
        table.add_column(heading, justify="right", overflow="fold", no_wrap=heading in ("a", "b", "p"))
    for entry in entries:
        quantity = BY_NAME.get(entry["metric"])
        percent = quantity is None or quantity.percent
        mark = " *" if excludes_zero(entry) else ""
        table.add_row(
            entry["metric"].replace("_", " "),
            f"{entry['n']} of {entry['shared']}",
            number(entry["a"], percent),
            number(entry["b"], percent),
            escape(cell(entry["difference"], percent) + mark),
            _p(entry.get("p")),
            _p(entry.get("p_holm")),
        )
    return table


def cell(found: Mapping[str, Any], percent: bool) -> str:
    """`67.2 [64.8, 69.5]`; a dash where nothing was measured."""
    if found["value"] is None:
        return "–"
    if found["low"] is None or found["high"] is None:
        return number(found["value"], percent)
    return f"{number(found['value'], percent)} [{number(found['low'], percent)}, {number(found['high'], percent)}]"


def counted(found: Mapping[str, Any]) -> str:
    """`1 of 2 pairs`, `2 pairs` where it is all of them."""
    unit = f" {found['unit']}" if found.get("unit") else ""
    return f"{found['n']}{unit}" if found["n"] == _of(found) else f"{found['n']} of {_of(found)}{unit}"


def _of(found: Mapping[str, Any]) -> int:
    """What a figure is about; evaluations of before do not say it."""
    return int(found.get("of", found["n"]))


def number(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}" if percent else f"{value:.1f}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
