"""What a run or an evaluation cost: hours of the machine, text that was generated, and what its judges were asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from faithful_rl.metrics import JUDGE_EXPOSED
from faithful_rl.run_directory import CONFIG, JUDGES, RUN, read_json

TOKENS = "perf/total_num_tokens"  # verl's: tokens of prompts and responses of a step
HEADINGS = (
    "wall hours",
    "CPU core hours",
    "GPU hours",
    "training tokens",
    "judge requests",
    "judge model calls",
    "judge tokens",
    "judges waited for",
)
EVALUATION_HEADINGS = (
    "generation hours",
    "GPU hours",
    "prompt tokens",
    "response tokens",
    "judging hours",
    "judge requests",
    "judge model calls",
    "judge tokens",
)
Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Costs:
    """One cell of text per heading; "–" where it was not recorded."""

    label: str
    cells: tuple[str, ...]


def costs(run_dir: Path, label: str, rows: Rows) -> Costs:
    """Costs of one run. Hours are of the last uninterrupted start for a resumed run's clock, of the steps otherwise."""
    record, judges = read_json(run_dir / RUN), read_json(run_dir / JUDGES)
    hours = wall_seconds(record, rows) / 3600
    cpus = float((record.get("machine") or {}).get("cpus") or math.nan)
    tokens = sum(row[TOKENS] for row in rows if math.isfinite(row.get(TOKENS, math.nan)))
    asked = _judge_totals(judges)
    waited = [row[JUDGE_EXPOSED] for row in rows if math.isfinite(row.get(JUDGE_EXPOSED, math.nan))]
    cells = (
        _number(hours, 2),
        _number(hours * cpus, 2),
        _number(hours * _gpus(run_dir), 2),
        _number(tokens or math.nan),
        _number(asked.get("requests", math.nan)),
        _number(asked.get("calls", math.nan)),
        _number(asked["prompt_tokens"] + asked["completion_tokens"] if asked else math.nan),
        f"{sum(waited):.0f} s" if waited else "–",
    )
    return Costs(label, cells)


def evaluation_costs(label: str, summary: Mapping[str, Any]) -> Costs:
    """Costs of one evaluation, from the summary in its `evaluation.json`, over all its starts; judges are summed, the extracting model
    among them."""
    found: Mapping[str, Any] = summary.get("costs") or {}
    judges = (found.get("judges") or {}).values()

    def hours(name: str) -> float:
        return _known(found.get(name)) / 3600

    def asked(*names: str) -> float:
        return sum(_known(counts.get(name)) for counts in judges for name in names) if judges else math.nan

    cells = (
        _number(hours("generation_seconds"), 2),
        _number(hours("gpu_seconds"), 2),
        _number(_known(found.get("prompt_tokens"))),
        _number(_known(found.get("response_tokens"))),
        _number(hours("judge_seconds"), 2),
        _number(asked("requests")),
        _number(asked("calls")),
        _number(asked("prompt_tokens", "completion_tokens")),
    )
    return Costs(label, cells)


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def note(run_dirs: Sequence[Path], rows: Sequence[Rows]) -> str:
    """What is missing and why, in one sentence each; "" where everything was recorded."""
    sentences = []
    if any(not any(JUDGE_EXPOSED in row for row in one) for one in rows):
        sentences.append(f"Runs without the metric {JUDGE_EXPOSED} do not know how long they waited for judges.")
    if any(not (run_dir / JUDGES).exists() for run_dir in run_dirs):
        sentences.append(f"Runs without {JUDGES} (ended before it was written, or by force) do not know what their judges were asked.")
    if any(read_json(run_dir / JUDGES).get("shared") for run_dir in run_dirs):
        sentences.append("A pool that serves several runs counts all of them.")
    return " ".join(sentences)


def wall_seconds(record: Mapping[str, Any], rows: Rows) -> float:
    """Seconds from start to end; of a run that was resumed or has not ended, the time its steps took."""
    stepped = float(rows[-1].get("time_s", math.nan)) if rows else math.nan
    try:
        whole = (datetime.fromisoformat(str(record["finished"])) - datetime.fromisoformat(str(record["started"]))).total_seconds()
    except (KeyError, ValueError):
        return stepped
    return stepped if record.get("resumed") else whole


def _gpus(run_dir: Path) -> float:
    """Devices of a GPU run, 0 on a CPU, NaN where the configuration does not say."""
    if not (run_dir / CONFIG).exists():
        return math.nan
    config = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
    try:
        if config["faithful_rl"]["hardware"]["world"] != "gpu":
            return 0.0
        return float(config["trainer"]["n_gpus_per_node"]) * float(config["trainer"]["nnodes"])
    except (KeyError, TypeError, ValueError):
        return math.nan


def _judge_totals(judges: Mapping[str, Any]) -> dict[str, float]:
    """Sums over the starts of a run and its judges; {} where nothing was recorded."""
    found = [counts for start in judges.get("starts") or () for counts in start["judges"].values()]
    names = ("requests", "calls", "prompt_tokens", "completion_tokens")
    return {name: float(sum(counts.get(name, 0) for counts in found)) for name in names} if found else {}


def _number(value: float, digits: int = 0) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
