"""Gather the files of runs and evaluations and render them into one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from faithful_rl.heldout_statistics import QUANTITIES
from faithful_rl.metrics import JUDGE_EXPOSED, SYMBOLS, constraint_metric, constraint_names, read_metrics
from faithful_rl.report import comparison, costs, front, plots, rollouts, viewer, viewer_data
from faithful_rl.report.cells import cell
from faithful_rl.report.plots import Groups, Plot
from faithful_rl.report.rollouts import Question
from faithful_rl.report.styles import PAGE_STYLE, method_styles, page_colour
from faithful_rl.results import Card, Results, cards, headline, heldout_table, read_results
from faithful_rl.run_directory import DECODING_LABELS, METRICS, RUN, read_json

if TYPE_CHECKING:  # evaluations bring the statistics of paired tests; a report of runs alone does without
    from faithful_rl.report.evaluations import Evaluations


@dataclass(frozen=True)
class RunView:
    """One run on the page: its record, its table (heading, cells), the last state of its constraints and its rollouts."""

    label: str
    record: Mapping[str, Any]
    duration: str
    steps: int
    headline: tuple[str, ...]
    questions: int
    cards: tuple[Card, ...]
    columns: tuple[str, ...]
    table: tuple[tuple[str, tuple[str, ...]], ...]
    constraints: tuple[tuple[str, ...], ...]
    questions_shown: tuple[Question, ...]


@dataclass(frozen=True)
class MethodTable:
    """Methods over seeds in one decoding: `rows` are (method, colour, cells of text and mark); a mark says better or worse."""

    decoding: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Methods:
    """Several runs beside each other; `note` says on what, or why there is no table."""

    headline: tuple[str, ...] = ()
    tables: tuple[MethodTable, ...] = ()
    figure: Plot | None = None
    note: str = ""


def build(
    run_dirs: Sequence[Path],
    out: Path,
    evaluations: Evaluations | None = None,
    *,
    baseline: str | None = None,
    names: Mapping[Path, str] | None = None,
    rollout_limit: int = viewer.REPORT_LIMIT,
) -> Path:
    """Write the report of one run, or of several beside each other, with or without evaluations on benchmarks, to `out`; returns `out`.

    Args:
        baseline: the method that others are set against (see `comparison.compare`).
        names: methods of run directories that should not go by their recipe.
        rollout_limit: at most about so many rollouts in the viewer, of every step some.

    Raises:
        FileNotFoundError: if a directory holds no run.
        ValueError: if nothing is given, or a file of a run is damaged (the message names file and line).
    """
    if not run_dirs and evaluations is None:
        raise ValueError("a report needs at least one run directory or evaluation")
    runs = viewer.viewed(run_dirs)
    named = _evaluation_directories(evaluations)
    rows = [read_metrics(run.path / METRICS) for run in runs]
    views = [_view(run.path, run.label, one, alone=len(runs) == 1) for run, one in zip(runs, rows, strict=True)]
    groups = method_groups(run_dirs, names)
    methods = _methods(run_dirs, baseline, names) if len(run_dirs) > 1 else Methods()
    bundle = viewer_data.collect([*runs, *viewer.viewed(list(named), named)], rollout_limit)
    shown = viewer.part(bundle) if bundle.kept else None
    page = (
        viewer.environment()
        .get_template("report.html.j2")
        .render(
            css=Markup(viewer.template_text("report.css") + viewer.template_text("viewer.css")),
            policy=viewer.policy(shown is not None),
            runs=views,
            methods=methods,
            plots=figures(groups),
            method_keys=[(method, page_colour(style[0])) for method, style in method_styles(groups).items()],
            title=_title(views, groups, evaluations),
            benchmarks=_benchmarks(evaluations),
            viewer=shown,
            view_words=" ".join([*(["run=DIR"] if runs else []), *(["evaluation=DIR"] if named else [])]),
            payload=shown.payload if shown else "",
            script=shown.script if shown else "",
            costs=[costs.costs(run.path, run.label, one) for run, one in zip(runs, rows, strict=True)],
            cost_headings=costs.HEADINGS,
            evaluation_costs=_evaluation_costs(evaluations),
            evaluation_cost_headings=costs.EVALUATION_HEADINGS,
            cost_note=costs.note(run_dirs, rows),
            exposed_missing=JUDGE_EXPOSED if any(one and not any(JUDGE_EXPOSED in row for row in one) for one in rows) else "",
            meanings=MEANINGS,
        )
    )
    viewer.write_page(out, page)
    return out


def figures(groups: Groups, style: Mapping[Any, Any] = PAGE_STYLE) -> list[Plot]:
    """The pictures of training: the way of each method in accuracy and inconsistency, then every curve."""
    way = front.draw_training(groups, style)
    caption = "Training rollouts; each mark is a tenth of the steps, hollow the first, large the last. Up and left is better."
    return [*([Plot("Accuracy against inconsistency", caption, way, "way")] if way else []), *plots.draw_all(groups, style)]


def method_groups(run_dirs: Sequence[Path], names: Mapping[Path, str] | None = None) -> dict[str, list[plots.Rows]]:
    """Method -> metrics of its runs, methods in the order of tables and legends."""
    groups: dict[str, list[plots.Rows]] = {}
    for run_dir in run_dirs:
        groups.setdefault(comparison.method_of(run_dir, names), []).append(read_metrics(run_dir / METRICS))
    return {name: groups[name] for name in comparison.in_order(groups)}


def _title(views: Sequence[RunView], groups: Groups, evaluations: Evaluations | None) -> str:
    if not views and evaluations is not None:
        count = len(evaluations.methods)
        return next(iter(evaluations.methods)) if count == 1 else f"{count} models on benchmarks"
    return views[0].label if len(views) == 1 else f"{len(views)} runs, {len(groups)} methods"


def _evaluation_costs(found: Evaluations | None) -> list[costs.Costs]:
    """One line per evaluation; seeds of a method go by their directories. None where no evaluation kept its costs."""
    lines = []
    for method, runs in found.methods.items() if found is not None else ():
        for run in runs:
            label = method if len(runs) == 1 else f"{method}, {Path(run.directory).name}"
            lines.append((costs.evaluation_costs(label, run.summary), "costs" in run.summary))
    return [line for line, _ in lines] if any(kept for _, kept in lines) else []


def _benchmarks(found: Evaluations | None) -> dict[str, Any] | None:
    """What the page shows of evaluations; None without any."""
    if found is None:
        return None
    from faithful_rl.report import breakdowns, evaluation_bars, evaluation_tables, evaluations, markdown

    combined = breakdowns.combined(found)
    return {
        "facts": breakdowns.facts(found),
        "breakdowns": breakdowns.breakdowns(found),
        "headline": evaluation_tables.headline(found),
        "warnings": evaluations.warnings(found),
        "tables": (*evaluation_tables.tables(found), *([combined] if combined else [])),
        "figure": evaluation_bars.bars(found),
        "legend": markdown.legend(found, markdown.BELOW),
        "said": (*found.cautions, *found.untested),
        "power": evaluations.power(found),
        "origins": [
            (method, run.summary, breakdowns.decoding_of(run.summary), "; ".join(breakdowns.judges_of(run.summary)))
            for method, runs in found.methods.items()
            for run in runs
        ],
        "notes": [f"{name}: {text}" for name, text in breakdowns.notes(found)],
    }


def _evaluation_directories(found: Evaluations | None) -> dict[Path, str]:
    """Directory -> method of every evaluation, in the order of the tables."""
    return {} if found is None else {run.directory: method for method, runs in found.methods.items() for run in runs}


def _methods(run_dirs: Sequence[Path], baseline: str | None, names: Mapping[Path, str] | None) -> Methods:
    """The methods beside each other: a comparison that cannot be made is said, and the rest of the page stays."""
    compared, waiting = comparison.ready(run_dirs)
    try:
        found = comparison.compare(compared or run_dirs, baseline, names)
    except ValueError as error:
        return Methods(note=f"No table of methods: {error}.")
    chosen = [quantity for name in comparison.COLUMNS for quantity in QUANTITIES if quantity.name == name]
    columns = tuple(f"{quantity.heading}{' %' if quantity.percent else ''}" for quantity in chosen)
    styles = method_styles(found.methods)
    made = []
    for decoding, by_method in found.estimates.items():
        table = []
        for method in found.methods:
            cells = []
            for quantity in chosen:
                gap = found.difference(method, decoding, quantity.name)
                differs = gap is not None and gap.bootstrap.excludes_zero and quantity.better
                mark = ("better" if gap.bootstrap.value * quantity.better > 0 else "worse") if gap is not None and differs else ""
                covered = found.coverage[decoding][method][quantity.name]
                cells.append((cell(by_method[method][quantity.name], quantity.percent, coverage=covered), mark))
            table.append((method, page_colour(styles[method][0]), tuple(cells)))
        made.append(MethodTable(DECODING_LABELS[decoding], columns, tuple(table)))
    figure = Plot("Held-out accuracy against inconsistency", "", front.draw(found, compared, PAGE_STYLE, names), "front")
    seeds = ", ".join(map(str, sorted({len(seeds) for seeds in found.seeds.values()})))
    note = f"{found.questions} held-out questions, the same for every run; seeds per method: {seeds}."
    note += f" ▲ better, ▼ worse than {found.baseline}: the difference's 95% interval excludes zero." if found.baseline else ""
    note += f" {found.seed_note}" if found.seed_note else ""
    note += " Below a number on how many questions it is, where it is not on all; of several seeds the one that lacks most."
    note += f" Not evaluated after training, and not in the tables: {', '.join(one.name for one in waiting)}." if waiting else ""
    return Methods(comparison.headline(found), tuple(made), figure, note)


def _view(run_dir: Path, label: str, rows: plots.Rows, alone: bool) -> RunView:
    results = read_results(run_dir)
    columns, table = heldout_table(results)
    record = read_json(run_dir / RUN)
    return RunView(
        label=label,
        record=record,
        duration=_duration(record),
        steps=int(rows[-1]["step"]) if rows else 0,
        headline=headline(results) or after_only(results),
        questions=results.questions,
        cards=cards(results),
        columns=columns,
        table=table,
        constraints=tuple(_constraints(rows)),
        questions_shown=tuple(rollouts.choose(run_dir)) if alone else (),
    )


def after_only(results: Results) -> tuple[str, ...]:
    """The first sentence about a run that was evaluated after training only; () before that."""
    for decoding, columns in results.numbers.items():
        found = columns.get("after")
        if found and not math.isnan(found["accuracy"].value) and not math.isnan(found["inconsistency_rate"].value):
            accuracy, inconsistency = 100 * found["accuracy"].value, 100 * found["inconsistency_rate"].value
            where = "sampled at temperature 1" if decoding == "T1" else "decoded greedily"
            told = f"{accuracy:.1f}% of the answers are right and {inconsistency:.1f}% contradict their own reasoning"
            return (f"After training, {where}, {told}.",)
    return ()


def _duration(record: Mapping[str, Any]) -> str:
    """`8 min 20 s` from start to end, "" while the run has not ended or its times are not ISO 8601."""
    try:
        seconds = (datetime.fromisoformat(str(record["finished"])) - datetime.fromisoformat(str(record["started"]))).total_seconds()
    except (KeyError, ValueError):
        return ""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _constraints(rows: plots.Rows) -> list[tuple[str, ...]]:
    """(name, symbol, threshold, score, multiplier, holds or violated, steps frozen) of each constraint at the last step."""
    last = rows[-1] if rows else {}
    found = []
    for name in constraint_names(rows):
        threshold = last.get(constraint_metric(name, "threshold"))
        if threshold is None:
            continue
        numbers = [last.get(constraint_metric(name, field)) for field in ("threshold", "score", "multiplier")]
        violation = last.get(constraint_metric(name, "violation"), 0.0)
        frozen = sum(row.get(constraint_metric(name, "frozen"), 0.0) > 0 for row in rows)
        texts = ("–" if value is None else f"{value:.3f}" for value in numbers)
        found.append((name.replace("_", " "), SYMBOLS.get(name, ""), *texts, "violated" if violation > 0 else "holds", str(frozen)))
    return found


MEANINGS = (
    ("Accuracy", "Share of answers that equal the ground truth."),
    ("Inconsistency rate (IR)", "Share of all answers that are not what their own reasoning concludes."),
    ("Semantic grounding (R_S)", "Share of a trace's checkable sentences that are true of the image."),
    ("Spatial grounding (R_G)", "How well the boxes sit on the things: matched CIoU, divided by the larger number of boxes (Eq. 1)."),
    ("Right answer, false sentence", "Share of right answers whose trace holds at least one sentence that is false of the image."),
    (
        "Threshold τ, multiplier λ",
        "A constraint asks for a mean score of at least τ; λ, its weight in the advantage, follows the violation (Eq. 4).",
    ),
    (
        "Intervals",
        "95% percentile bootstrap over questions; over questions and seeds where methods are compared. A change is paired by question.",
    ),
)
