"""Gather a run's files and render them into one HTML page that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from faithful_rl.heldout_statistics import QUANTITIES
from faithful_rl.metrics import CONSTRAINT_SIGNALS, SYMBOLS, constraint_metric, read_metrics
from faithful_rl.report import comparison, front, plots, rollouts
from faithful_rl.report.rollouts import Question, View
from faithful_rl.results import Card, cards, headline, heldout_table, read_results
from faithful_rl.run_directory import DECODING_LABELS, METRICS, RUN, read_json


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
    group: tuple[View, ...]


@dataclass(frozen=True)
class MethodTable:
    """Methods over seeds in one decoding: `rows` are (method, colour, cells)."""

    decoding: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]


def build(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write the report of one run, or of several beside each other, to `out`; returns `out`.

    Raises:
        FileNotFoundError: if a directory holds no run.
        ValueError: if no directory is given, or a file of a run is damaged (the message names file and line).
    """
    if not run_dirs:
        raise ValueError("a report needs at least one run directory")
    groups: dict[str, list[plots.Rows]] = {}
    views: list[RunView] = []
    for run_dir in run_dirs:
        if not (run_dir / RUN).exists():
            raise FileNotFoundError(f"{run_dir} holds no run ({RUN} is missing); give the directory that a training command printed")
        rows = read_metrics(run_dir / METRICS)
        recipe = str(read_json(run_dir / RUN).get("recipe", run_dir.name))
        groups.setdefault(comparison.method_label(recipe), []).append(rows)
        views.append(_view(run_dir, _label(run_dir, views), rows, alone=len(run_dirs) == 1))
    tables, figure, note = _methods(run_dirs) if len(run_dirs) > 1 else ((), "", "")
    environment = Environment(
        loader=PackageLoader("faithful_rl.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    css = resources.files("faithful_rl.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2").render(
        css=Markup(css),  # our own style sheet and SVG are the only raw text of the page
        runs=views,
        plots=[
            (plot.title, plot.caption, Markup(plot.svg))
            for plot in plots.draw_all({name: groups[name] for name in comparison.in_order(groups)})
        ],
        title=views[0].label if len(views) == 1 else f"{len(views)} runs, {len(groups)} methods",
        tables=tables,
        front=Markup(figure),
        note=note,
        meanings=MEANINGS,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(f".{out.name}.tmp")
    half.write_text(page, encoding="utf-8")
    os.replace(half, out)
    return out


def _label(run_dir: Path, taken: Sequence[RunView]) -> str:
    record = read_json(run_dir / RUN)
    label = f"{record.get('recipe', run_dir.name)}, seed {record.get('seed', '?')}"
    return label if label not in {view.label for view in taken} else f"{label} ({run_dir.name})"


def _methods(run_dirs: Sequence[Path]) -> tuple[tuple[MethodTable, ...], str, str]:
    """(tables, SVG of the front, what stood in the way): a comparison that cannot be made is said, and the rest of the page stays."""
    try:
        found = comparison.compare(run_dirs)
    except ValueError as error:
        return (), "", f"No table of methods: {error}."
    chosen = [quantity for quantity in QUANTITIES if quantity.name in comparison.COLUMNS]
    columns = tuple(f"{quantity.heading}{' %' if quantity.percent else ''}" for quantity in chosen)
    tables = []
    for decoding, by_method in found.estimates.items():
        rows = tuple(
            (method, plots.method_style(method)[0], tuple(comparison.cell(by_method[method][q.name], q.percent) for q in chosen))
            for method in found.methods
        )
        tables.append(MethodTable(DECODING_LABELS[decoding], columns, rows))
    figure = plots.as_svg(front.draw(found, run_dirs, plots.PAGE_STYLE), "front")
    return tuple(tables), figure, f"{found.questions} held-out questions, the same for every run."


def _view(run_dir: Path, label: str, rows: plots.Rows, alone: bool) -> RunView:
    results = read_results(run_dir)
    columns, table = heldout_table(results)
    record = read_json(run_dir / RUN)
    return RunView(
        label=label,
        record=record,
        duration=_duration(record),
        steps=int(rows[-1]["step"]) if rows else 0,
        headline=headline(results),
        questions=results.questions,
        cards=cards(results),
        columns=columns,
        table=table,
        constraints=tuple(_constraints(rows)),
        questions_shown=tuple(rollouts.choose(run_dir, rollouts.SHOWN if alone else 4)),
        group=rollouts.last_group(run_dir) if alone else (),
    )


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
    for name in CONSTRAINT_SIGNALS:
        threshold = last.get(constraint_metric(name, "threshold"))
        if threshold is None:
            continue
        numbers = [last.get(constraint_metric(name, field)) for field in ("threshold", "score", "multiplier")]
        violation = last.get(constraint_metric(name, "violation"), 0.0)
        frozen = sum(row.get(constraint_metric(name, "frozen"), 0.0) > 0 for row in rows)
        texts = ("–" if value is None else f"{value:.3f}" for value in numbers)
        found.append((name.replace("_", " "), SYMBOLS[name], *texts, "violated" if violation > 0 else "holds", str(frozen)))
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
