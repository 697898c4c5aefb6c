"""The names of every number that training logs, and the append-only file that holds them: `metrics.jsonl`.

One JSON object per training step, written with flush and fsync, so that the file is right up to the last finished step after
any crash. A value that is not finite is written as `null` (JSON knows no NaN) and read back as NaN. TensorBoard and other
trackers get the same names through verl's own tracking. `docs/metrics.md` is `markdown_table()`; a test keeps them equal.
Imports nothing but the standard library.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIGNALS = ("task", "accuracy", "format", "consistency", "semantic_grounding", "spatial_grounding")
CONSTRAINT_SIGNALS = ("consistency", "semantic_grounding", "spatial_grounding")
SYMBOLS = {"consistency": "C", "semantic_grounding": "S", "spatial_grounding": "G"}

TRAIN_ACCURACY = "train/accuracy"
TRAIN_INCONSISTENCY_RATE = "train/inconsistency_rate"
TRAIN_SENTENCE_COUNT = "train/sentence_count"
TRAIN_RESPONSE_TOKENS = "train/response_tokens"
TRAIN_COUPLED = "train/coupled"
ADVANTAGE_TOTAL_STD = "advantage/total_std"
TRAIN_BOX_COUNT = "train/predicted_box_count"
GUARD_NONFINITE_SKIPPED = "guard/nonfinite_skipped"
GUARD_IN_A_ROW = "guard/nonfinite_in_a_row"
STEP_TIME = "timing_s/step"
JUDGE_EXPOSED = "judge/exposed_seconds"
JUDGE_SECONDS = "judge/seconds"

CONSTRAINT_FIELDS = (
    "score",
    "threshold",
    "violation",
    "multiplier",
    "multiplier_next",
    "applicable",
    "coverage",
    "frozen",
    "updated",
    "saturated",
    "infeasible",
    "starved",
)


def train_metric(signal: str) -> str:
    """`train/<signal>`: the mean of one signal over the scored rollouts of the step."""
    return f"train/{_known(signal, SIGNALS, 'signal')}"


def constraint_metric(constraint: str, field: str) -> str:
    """`constraint/<constraint>/<field>`, for example `constraint/consistency/multiplier`."""
    return f"constraint/{constraint}/{_known(field, CONSTRAINT_FIELDS, 'constraint field')}"


def advantage_metric(signal: str) -> str:
    """`advantage/<signal>_abs_mean`: the mean absolute normalised advantage of one signal, before the multiplier."""
    return f"advantage/{signal}_abs_mean"


def weight_metric(signal: str) -> str:
    """`advantage/<signal>_weight`: what a signal of a weighted advantage (gdpo, hras) was weighed with in this step."""
    return f"advantage/{signal}_weight"


def heldout_metric(decoding: str, name: str) -> str:
    """`heldout/<T1|greedy>/<name>`, for evaluations on the held-out questions."""
    return f"heldout/{_known(decoding, ('T1', 'greedy'), 'decoding')}/{name}"


def constraint_names(rows: Iterable[Mapping[str, float]]) -> tuple[str, ...]:
    """The constraints that these rows of metrics tell of: the three of the paper in their order, then others by name."""
    names = {name.split("/")[1] for row in rows for name in row if name.startswith("constraint/") and name.count("/") == 2}
    return (*(name for name in CONSTRAINT_SIGNALS if name in names), *sorted(names - set(CONSTRAINT_SIGNALS)))


def _known(word: str, words: Sequence[str], what: str) -> str:
    if word not in words:
        raise ValueError(f"unknown {what} {word!r}, expected one of {', '.join(words)}")
    return word


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table of metrics: `name` may hold a placeholder in angle brackets."""

    name: str
    unit: str
    range: str
    meaning: str


METRICS: tuple[Metric, ...] = (
    Metric(TRAIN_ACCURACY, "share", "0 to 1", "rollouts of the step whose answer equals the ground truth"),
    Metric(TRAIN_INCONSISTENCY_RATE, "share", "0 to 1", "1 - mean consistency over all scored rollouts, right and wrong answers alike"),
    Metric("train/<signal>", "reward", "0 to 1", f"mean of a signal over its scored rollouts; signals: {', '.join(SIGNALS)}"),
    Metric("train/<tag>_tag", "reward", "-1 to 1", "mean score of a tag that the design pays for: description, think, rethink, visual"),
    Metric("train/answer_credit", "reward", "0 to 1", "mean score of the answer under a reward design, partial credit included"),
    Metric(TRAIN_SENTENCE_COUNT, "sentences", ">= 0", "mean number of non-trivial sentences per trace; shows padding"),
    Metric(TRAIN_BOX_COUNT, "boxes", ">= 0", "mean number of boxes per trace that could be read"),
    Metric(TRAIN_RESPONSE_TOKENS, "tokens", ">= 0", "mean response length"),
    Metric(
        TRAIN_COUPLED,
        "reward",
        "0 to sum of weights",
        "mean coupled reward (additive, multiplicative, summed) of rollouts for which it is known",
    ),
    Metric(f"{TRAIN_COUPLED}_scored", "share", "0 to 1", "rollouts for which the coupled reward is known; falls when a judge fails"),
    Metric("constraint/<k>/score", "the column's", "the column's", "c_k: masked batch mean of the constraint's column (Eq. 5)"),
    Metric(
        "constraint/<k>/threshold", "the column's", "the column's", "tau_k in force: what the score has to reach (at most: to stay below)"
    ),
    Metric("constraint/<k>/violation", "the column's", "any", "how far the score is on the wrong side of tau_k; positive: not met"),
    Metric("constraint/<k>/multiplier", "weight", "0 to maximum", "lambda_k used in this step's advantage (Eq. 6)"),
    Metric("constraint/<k>/multiplier_next", "weight", "0 to maximum", "lambda_k after this step's dual update (Eq. 4)"),
    Metric("constraint/<k>/applicable", "rollouts", ">= 0", "rollouts that the mask lets in and that are scored"),
    Metric("constraint/<k>/coverage", "share", "0 to 1", "scored / applicable; falls when a judge fails"),
    Metric("constraint/<k>/frozen", "flag", "0 or 1", "1: no dual update in this step: too few applicable rollouts, or low coverage"),
    Metric(
        "constraint/<k>/updated", "flag", "0 or 1", "1: the multiplier took a step; 0 also where first_step or update_every says to wait"
    ),
    Metric("constraint/<k>/saturated", "flag", "0 or 1", "1: the multiplier stands at its maximum"),
    Metric(
        "constraint/<k>/infeasible",
        "flag",
        "0 or 1",
        "1: at its maximum and violated, each on average over the last constraint_patience measured steps",
    ),
    Metric(
        "constraint/<k>/starved",
        "flag",
        "0 or 1",
        "1: frozen for constraint_patience steps in a row: too few rollouts applied, or judges failed",
    ),
    Metric("advantage/<signal>_abs_mean", "advantage", ">= 0", "mean |A_k| of one signal after group normalisation, before its multiplier"),
    Metric("advantage/<signal>_weight", "weight", ">= 0", "weight of one signal in this step, where weights are set (summed, gdpo, hras)"),
    Metric(ADVANTAGE_TOTAL_STD, "advantage", ">= 0", "standard deviation of the combined advantage before whitening"),
    Metric(GUARD_NONFINITE_SKIPPED, "flag", "0 or 1", "1: the update was skipped because a loss or an advantage was not finite"),
    Metric(
        JUDGE_EXPOSED, "seconds", ">= 0", "between the last generated text and the last reward: judge time that generation does not hide"
    ),
    Metric(JUDGE_SECONDS, "seconds", ">= 0", "sum over rollouts from their text to their reward; many run at once"),
    Metric(GUARD_IN_A_ROW, "steps", ">= 0", "how many steps in a row were skipped so"),
    Metric("time_s", "seconds", ">= 0", "since the run began, at the end of the step"),
    Metric("heldout/<decoding>/<name>", "as above", "as above", "the same number on the held-out questions; decoding is T1 or greedy"),
    Metric("timing_s/<phase>", "seconds", ">= 0", "verl's own: wall time of each phase of the step; timing_s/step is all of it"),
)


def markdown_table() -> str:
    """The text of `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Every number of a run stands under one name in `metrics.jsonl` and in the trackers that verl writes (TensorBoard and others).",
        "verl's own metrics (`actor/*`, `critic/*`, `response_length/*`, `perf/*`, ...) keep their names and are not listed.",
        "",
        f"`<k>` is a constraint: {', '.join(f'`{name}`' for name in CONSTRAINT_SIGNALS)}, or one of your own.",
        "",
        "| name | unit | range | meaning |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{m.name}` | {m.unit} | {m.range} | {m.meaning.replace('|', chr(92) + '|')} |" for m in METRICS]
    lines += [
        "",
        "This page is made from `faithful_rl/metrics.py`: `python -m faithful_rl.metrics > docs/metrics.md`.",
    ]
    return "\n".join(lines) + "\n"


class MetricsWriter:
    """Appends one JSON object per training step to `path`, each on the disk before `append` returns.

    Opening an existing file continues it; a last line torn by a crash is cut off first. To resume from a checkpoint, call
    `drop_after(path, checkpoint_step)` before opening.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        rows = read_metrics(path)
        self._last_step = int(rows[-1]["step"]) if rows else -1
        cut_torn_line(path)
        self._stream = path.open("a", encoding="utf-8")

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of `step`. Steps never go backwards: ValueError otherwise, because resuming must drop lines first."""
        if step < self._last_step:
            held = f"{self._path} already holds step {self._last_step}"
            raise ValueError(f"{held}, cannot append step {step}; call drop_after({step - 1}) first")
        row: dict[str, float | int | None] = {"step": int(step)}
        for name, value in values.items():
            if name == "step":
                continue
            number = float(value)
            row[name] = number if math.isfinite(number) else None
        self._stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._last_step = int(step)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All rows of a metrics file in order, `null` as NaN; [] when the file does not exist yet.

    Only the last line may be torn (the writer was killed in it) and is then left out. A bad line anywhere else is damage that
    nobody should plot around: ValueError with file and line number.
    """
    if not path.exists():
        return []
    rows = []
    for number, row in read_jsonl(path):
        step = row.get("step")
        if not isinstance(step, int | float):
            raise ValueError(f"{path}:{number} has no numeric `step`, found {step!r}; every line of a metrics file carries one")
        rows.append({name: _as_number(value) for name, value in row.items() if value is None or isinstance(value, int | float)})
    return rows


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) for each line of a JSON Lines file; a torn last line is left out, another bad line is a ValueError."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            complete = line.endswith(b"\n")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                if not complete:
                    return
                raise ValueError(f"{path}:{number} is not JSON ({error}); expected one object per line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number} holds a JSON {type(row).__name__}, expected an object")
            yield number, row


def drop_after(path: Path, step: int) -> int:
    """Rewrite a metrics file so that it ends with `step`, keeping the old one as `<name>.N` (the first free N); returns how many rows went.

    Called on resume: steps after the checkpoint will be trained again. Nothing is rewritten or copied when nothing has to go.
    """
    if not path.exists():
        return 0
    rows = [row for _, row in read_jsonl(path)]
    kept = [row for row in rows if row["step"] <= step]
    if len(kept) == len(rows):
        cut_torn_line(path)
        return 0
    copy_number = 1
    while (copy := path.with_name(f"{path.name}.{copy_number}")).exists():
        copy_number += 1
    half = path.with_name(f".{path.name}.tmp")
    _write_rows(half, kept)
    shutil.copy2(path, copy)
    os.replace(half, path)
    return len(rows) - len(kept)


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        stream.flush()
        os.fsync(stream.fileno())


def cut_torn_line(path: Path) -> None:
    """Cut the last line of a JSON Lines file off where a crash tore it, or end it where only its line break is missing."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        end = data.rfind(b"\n") + 1
        # A last line that is whole JSON and lacks only its line break was fully written: keep it.
        try:
            json.loads(data[end:])
        except ValueError:
            os.truncate(path, end)
        else:
            with path.open("ab") as stream:
                stream.write(b"\n")


def _as_number(value: float | None) -> float:
    return math.nan if value is None else float(value)


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown_table())
