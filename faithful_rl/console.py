"""What a person sees in the terminal: one live line while a run trains, and the before/after table when it has ended.

Reads only files of the run directory, so it works beside a run, after it and on a copy.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from faithful_rl.metrics import (
    CONSTRAINT_SIGNALS,
    SYMBOLS,
    TRAIN_ACCURACY,
    TRAIN_INCONSISTENCY_RATE,
    constraint_metric,
    read_metrics,
    train_metric,
)
from faithful_rl.results import decoding_rows, headline, read_results
from faithful_rl.run_directory import DECODING_LABELS, METRICS, RUN, read_json, read_status

POLL_SECONDS = 0.5
FLAGS = {"infeasible": "looks infeasible (logs/trainer.log)", "starved": "stands still (logs/trainer.log)"}  # of a constraint
PERCENT = 100.0


@contextmanager
def progress(run_dir: Path, total_steps: int | None, terminal: TextIO, enabled: bool = True) -> Iterator[None]:
    """Show the run in `run_dir` on `terminal` until the block ends.

    A terminal gets a live bar; anything else (a file, CI) gets one line per step. `enabled=False` shows nothing.
    """
    if not enabled:
        yield
        return
    stop = threading.Event()
    view = _LiveView(terminal, total_steps) if terminal.isatty() else _LineView(terminal, total_steps)
    watcher = threading.Thread(target=_watch, args=(run_dir, view, stop), name="progress", daemon=True)
    with view:
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join(timeout=10)


def _watch(run_dir: Path, view: _LineView | _LiveView, stop: threading.Event) -> None:
    """Hand new steps and phases to the view; the file may be rewritten when a run resumes."""
    shown, phase = 0, ""
    while True:
        last = stop.wait(POLL_SECONDS)
        status = read_status(run_dir)
        if status.phase and (status.phase != phase or status.phase == "training"):
            phase = status.phase
            view.say(phase, status.detail)
        for row in read_metrics(run_dir / METRICS):
            if row["step"] > shown:
                shown = int(row["step"])
                view.step(shown, row)
        if last:
            return


def describe(row: Mapping[str, float]) -> str:
    """One step in a few words: accuracy, IR, grounding and the multipliers by their symbols."""
    parts = [f"acc {_percent(row.get(TRAIN_ACCURACY))}", f"IR {_percent(row.get(TRAIN_INCONSISTENCY_RATE))}"]
    parts += [f"{SYMBOLS[name]} {_percent(row.get(train_metric(name)))}" for name in CONSTRAINT_SIGNALS if name != "consistency"]
    multipliers = [(SYMBOLS[name], row.get(constraint_metric(name, "multiplier"))) for name in CONSTRAINT_SIGNALS]
    shown = [f"{symbol} {value:.2f}" for symbol, value in multipliers if value is not None]
    told = [f"{name} {what}" for flag, what in FLAGS.items() for name in _flagged(row, flag)]
    return "  ".join(parts) + (f"  multipliers {', '.join(shown)}" if shown else "") + (f"  ! {', '.join(told)}" if told else "")


def _flagged(row: Mapping[str, float], flag: str) -> list[str]:
    """Constraints whose flag is up; any of the user's own too."""
    return [name.split("/")[1] for name, value in row.items() if name.startswith("constraint/") and name.endswith(f"/{flag}") and value > 0]


def _percent(value: float | None) -> str:
    return "   –" if value is None or math.isnan(value) else f"{PERCENT * value:3.0f}%"


class _LineView:
    """One plain line per step."""

    def __init__(self, terminal: TextIO, total_steps: int | None) -> None:
        self._terminal = terminal
        self._total = f" of {total_steps}" if total_steps else ""
        self._phase = ""

    def __enter__(self) -> _LineView:
        return self

    def __exit__(self, *_: object) -> None:
        self._terminal.flush()

    def say(self, phase: str, detail: str) -> None:
        if phase != self._phase and phase != "training":
            print(f"{phase} {detail}".strip(), file=self._terminal, flush=True)
        self._phase = phase

    def step(self, number: int, row: Mapping[str, float]) -> None:
        print(f"step {number}{self._total}  {describe(row)}", file=self._terminal, flush=True)


class _LiveView:
    """A bar with step, numbers of the last step, time and the time that is left."""

    def __init__(self, terminal: TextIO, total_steps: int | None) -> None:
        console = Console(file=terminal)
        self._progress = Progress(
            TextColumn("{task.fields[phase]}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._task: TaskID = self._progress.add_task("steps", total=total_steps, phase="starting", numbers="")

    def __enter__(self) -> _LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, phase: str, detail: str) -> None:
        self._progress.update(self._task, phase=phase if phase == "training" else f"{phase} {detail}".strip())

    def step(self, number: int, row: Mapping[str, float]) -> None:
        self._progress.update(self._task, completed=number, numbers=describe(row))


def result_table(run_dir: Path) -> Table | None:
    """Held-out questions before and after training, one block per decoding, 80 columns wide; None where nothing was evaluated."""
    results = read_results(run_dir)
    if not results.numbers:
        return None
    run = read_json(run_dir / RUN)
    title = f"{run.get('recipe', run_dir.name)}, seed {run.get('seed', '?')}: {results.questions} held-out questions"
    table = Table(
        title=title,
        title_justify="left",
        caption=_caption(" ".join(headline(results))),
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
    )
    moments = tuple(dict.fromkeys(moment for columns in results.numbers.values() for moment in columns))
    table.add_column("", no_wrap=True)
    for moment in moments:
        table.add_column(moment, justify="right", no_wrap=True)
    for decoding in results.numbers:
        table.add_section()
        table.add_row(Text(DECODING_LABELS[decoding], style="bold"))
        for heading, cells in decoding_rows(results, decoding, moments):
            table.add_row(heading, *map(Text, cells))
    return table


def _caption(sentence: str) -> str:
    notes = (
        "IR: answers that contradict their reasoning. R_S: true sentences. R_G: boxes on their things. False reason: right answers with a "
        "false sentence. All in %, sentences and tokens per response. Brackets: 95% bootstrap interval over questions; changes are paired."
    )
    return escape(f"{sentence}\n{notes}".strip())


def print_result_table(run_dir: Path, stream: TextIO | None = None) -> None:
    """Print the table of `run_dir` (standard output unless told), or say that no evaluation was made."""
    console = Console(file=stream or sys.stdout)
    table = result_table(run_dir)
    console.print("No held-out evaluation in this run (faithful_rl.evaluation)." if table is None else table)
