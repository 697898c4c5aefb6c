"""Gather a run's files and render them into one HTML page that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from faithful_rl.metrics import CONSTRAINT_SIGNALS, constraint_metric, read_metrics
from faithful_rl.report import plots, rollouts
from faithful_rl.results import SUMMARY, heldout_table
from faithful_rl.run_directory import HELDOUT, METRICS, RUN, read_json


@dataclass(frozen=True)
class RunView:
    """One run on the page: its record, its table (heading, cells), seconds per phase and rollouts."""

    label: str
    record: Mapping[str, Any]
    columns: tuple[str, ...]
    table: tuple[tuple[str, tuple[str, ...]], ...]
    constraints: tuple[tuple[str, str, str, str], ...]
    phases: tuple[tuple[str, str], ...]
    rollouts: tuple[rollouts.View, ...]


def build(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write the report of one run, or of several beside each other, to `out`; returns `out`.

    Raises:
        FileNotFoundError: if a directory holds no run.
    """
    metrics: dict[str, plots.Rows] = {}
    views = []
    for run_dir in run_dirs:
        if not (run_dir / RUN).exists():
            raise FileNotFoundError(f"{run_dir} holds no run ({RUN} is missing); give the directory that a training command printed")
        rows = read_metrics(run_dir / METRICS)
        label = _label(run_dir, metrics)
        metrics[label] = rows
        views.append(_view(run_dir, label, rows))
    template = resources.files("faithful_rl.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    drawn = [(plot.title, plot.caption, Markup(plot.svg)) for plot in plots.draw_all(metrics)]  # our own SVG, the only raw text
    page = environment.from_string(template).render(runs=views, plots=drawn, title=", ".join(view.label for view in views))
    out.parent.mkdir(parents=True, exist_ok=True)
    half = out.with_name(f".{out.name}.tmp")
    half.write_text(page, encoding="utf-8")
    os.replace(half, out)
    return out


def _label(run_dir: Path, taken: Mapping[str, object]) -> str:
    record = read_json(run_dir / RUN)
    label = f"{record.get('recipe', run_dir.name)}, seed {record.get('seed', '?')}"
    return label if label not in taken else f"{label} ({run_dir.name})"


def _view(run_dir: Path, label: str, rows: plots.Rows) -> RunView:
    columns, table = heldout_table(read_json(run_dir / HELDOUT / SUMMARY))
    return RunView(
        label=label,
        record=read_json(run_dir / RUN),
        columns=columns,
        table=table,
        constraints=tuple(_constraints(rows)),
        phases=tuple((phase, f"{seconds:.2f}") for phase, seconds in plots.phase_seconds(rows).items()),
        rollouts=tuple(rollouts.choose(run_dir)),
    )


def _constraints(rows: plots.Rows) -> list[tuple[str, str, str, str]]:
    """(name, threshold, score of the last step, multiplier of the last step) of each constraint in the run."""
    last = rows[-1] if rows else {}
    found = []
    for name in CONSTRAINT_SIGNALS:
        values = [last.get(constraint_metric(name, field)) for field in ("threshold", "score", "multiplier")]
        if values[0] is not None:
            threshold, score, multiplier = ("–" if value is None else f"{value:.3f}" for value in values)
            found.append((name.replace("_", " "), threshold, score, multiplier))
    return found
