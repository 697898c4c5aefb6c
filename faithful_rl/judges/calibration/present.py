"""A calibration as a table for a terminal, as JSON, and as one HTML page that needs nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from faithful_rl.judges.calibration.attacks import AttackReport, FamilyResult
from faithful_rl.judges.calibration.reach import measured
from faithful_rl.judges.calibration.results import JudgeResult
from faithful_rl.judges.calibration.running import UNSCORED
from faithful_rl.judges.calibration.statistics import Estimate

REPORT, PAGE, VERDICTS = "calibration.json", "calibration.html", "verdicts.jsonl"
SHOWN_DISAGREEMENTS = 40
_MOODS = {"in reach": "good", "uncertain": "missing", "out of reach": "bad", "unknown": "missing"}


@dataclass(frozen=True, slots=True)
class Calibration:
    """What one command found out: the labelled set, the judges, and the attacks where they were run."""

    data: str
    data_sha256: str
    cases: int
    created: str  # ISO 8601, UTC
    judges: tuple[JudgeResult, ...]
    attacks: AttackReport | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "format_version": 1,
            "created": self.created,
            "data": {"name": self.data, "sha256": self.data_sha256, "cases": self.cases},
            "judges": {result.judge: result.as_json() for result in self.judges},
            "attacks": None if self.attacks is None else self.attacks.as_json(),
        }


def write(found: Calibration, directory: Path) -> Path:
    """Write JSON, page and single verdicts into `directory`; returns the page."""
    directory.mkdir(parents=True, exist_ok=True)
    _replace(directory / REPORT, json.dumps(found.as_json(), indent=2, allow_nan=False) + "\n")
    lines = [
        json.dumps({"judge": result.judge, "id": pair.case_id, "kind": pair.kind, "sentence": pair.sentence, "label": pair.label,
                    "verdict": pair.verdict, "reason": pair.reason.name})
        for result in found.judges for pair in result.pairs
    ]  # fmt: skip
    _replace(directory / VERDICTS, "".join(f"{line}\n" for line in lines))
    _replace(directory / PAGE, page(found))
    return directory / PAGE


def page(found: Calibration) -> str:
    """The HTML text. Everything that came from data or judges is escaped; the page may load nothing."""
    environment = Environment(
        loader=PackageLoader("faithful_rl.judges.calibration"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(estimate=_text, percent=_percent, number=_number, milliseconds=_milliseconds)
    css = resources.files("faithful_rl").joinpath("report/templates/report.css").read_text(encoding="utf-8")
    return environment.get_template(
        "calibration.html.j2"
    ).render(
        css=Markup(css),  # our own style sheet is the only raw text of the page
        found=found,
        views=[(result, _curve(result), result.disagreements[:SHOWN_DISAGREEMENTS]) for result in found.judges],
        unscored=UNSCORED,
        moods=_MOODS,
        attack_rows=[] if found.attacks is None else [*found.attacks.families, found.attacks.all],
    )


def show(found: Calibration, console: Console) -> None:
    """The tables on a terminal; nothing of the data is read as markup."""
    for result in found.judges:
        console.print(Text(f"\n{result.judge} judge, {result.description} (version {result.version})", style="bold"))
        console.print(_judge_table(result))
        style = {"good": "green", "bad": "bold red"}.get(_MOODS[result.reach.state], "yellow")
        console.print(Text(("warning: " if result.reach.warns else "") + result.reach.message, style=style), soft_wrap=True)
    if found.attacks is not None:
        console.print(Text("\nAttacks", style="bold"))
        console.print(_attack_table(found.attacks))


def _judge_table(result: JudgeResult) -> RenderableType:
    confusion = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("label \\ verdict", *result.labels, UNSCORED):
        confusion.add_column(heading, justify="left" if heading.startswith("label") else "right")
    for label, row in zip(result.labels, result.table, strict=True):
        confusion.add_row(label, *map(str, row))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(result):
        facts.add_row(name, value)
    kinds = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("kind", "label", "verdicts", "as labelled", "unscored"):
        kinds.add_column(heading, justify="left" if heading in ("kind", "label") else "right", no_wrap=True)
    for kind in result.kinds:
        kinds.add_row(Text(kind.name), kind.label, str(kind.verdicts), _text(kind.agreement, 2), str(kind.unscored))
    return Group(confusion, Text(), facts, Text(), kinds)


def _facts(result: JudgeResult) -> list[tuple[str, str]]:
    facts = [
        ("cases, verdicts", f"{result.cases}, {result.verdicts}"),
        ("Cohen's kappa", _text(result.kappa)),
        ("agreement", f"{_text(result.agreement)}; a constant judge gets {_number(result.constant_agreement)}"),
        (f"base rate ({result.labels[0]})", _number(result.base_rate)),
        ("sensitivity, specificity", f"{_text(result.sensitivity)}, {_text(result.specificity)}"),
        ("unscored", f"{result.unscored_share:.1%}" + "".join(f", {reason.lower()} {count}" for reason, count in result.unscored.items())),
        (
            "throughput",
            f"{_number(result.verdicts_per_second, 0)} verdicts/s; a call takes {_milliseconds(result.call_seconds[0])} ms (median)",
        ),
    ]
    if result.cost is not None:
        cost = result.cost
        price = "" if cost.price is None else f", price {cost.price:.2f}"
        facts.append(
            ("per 1,000 rollouts", f"{cost.calls:.0f} calls, {cost.prompt_tokens:.0f} + {cost.completion_tokens:.0f} tokens, "
             f"{cost.cache_hits + cost.shared:.0f} verdicts from the cache or shared{price}")
        )  # fmt: skip
    return facts


def _attack_table(report: AttackReport) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1))  # fits 80 columns
    for heading in ("family", "attacks", "held", "flipped", "evaded", "unscored", "success rate"):
        table.add_column(heading, justify="left" if heading == "family" else "right", no_wrap=True)
    for row in (*report.families, report.all):
        table.add_row(*_attack_cells(row))
    return table


def _attack_cells(row: FamilyResult) -> tuple[str, ...]:
    return (row.name, *(str(value) for value in (row.attacks, row.held, row.flipped, row.evaded, row.unscored)), _text(row.success, 2))


def _curve(result: JudgeResult) -> tuple[tuple[float, float], ...]:
    """(true share, measured score), both in [0, 1], of the judge's line; empty where it is not known."""
    table = np.array([row[: len(result.labels)] for row in result.table], dtype=np.float64)
    points = [(share, measured(share, table)) for share in np.linspace(0.0, 1.0, 21)]
    return tuple((float(share), score) for share, score in points) if all(np.isfinite(score) for _, score in points) else ()


def _text(estimate: Estimate, digits: int = 3) -> str:
    if estimate.value is None:
        return "–"
    interval = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return f"{estimate.value:.{digits}f}{interval}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2g}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _replace(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}.tmp")
    half.write_text(text, encoding="utf-8", errors="backslashreplace")  # a judge's text may hold lone surrogates
    os.replace(half, path)
