"""The terminal: a line per step while a run trains, the before/after table when it has ended."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from faithful_rl import console, results
from faithful_rl.run_directory import write_json, write_status

ROW = {
    "step": 3,
    "train/accuracy": 0.5,
    "train/inconsistency_rate": 0.25,
    "train/semantic_grounding": 0.755,
    "train/spatial_grounding": None,
    "constraint/consistency/multiplier": 1.25,
}


def numbers(**changes: float) -> dict[str, float]:
    return {"questions": 100.0, "accuracy": 0.5, "inconsistency_rate": 0.1, "consistency_scored": 90.0, "sentence_count": 3.25, **changes}


def put_summary(run_dir: Path, **summary: Any) -> None:
    write_json(run_dir / "run.json", {"recipe": "fgrpo_tiny", "seed": 2})
    write_json(run_dir / "heldout" / "summary.json", summary)


def test_wilson_by_hand() -> None:
    # z = 1.959964, p = 0.5, n = 100: z * sqrt(0.0025 + z^2 / 40000) / (1 + z^2 / 100) = 1.959964 * 0.0509513 / 1.0384146
    assert results.wilson_half_width(0.5, 100) == pytest.approx(0.096168, abs=1e-6)
    assert results.wilson_half_width(0.0, 100) > 0  # unlike the normal interval


def test_a_step_in_a_few_words() -> None:
    row = {name: float("nan") if value is None else float(value) for name, value in ROW.items()}
    assert console.describe(row) == "acc  50%  IR  25%  S  76%  G    –  multipliers C 1.25"


def test_steps_and_phases_become_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    write_status(tmp_path, "evaluating", "held-out questions before training")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    with console.progress(tmp_path, 60, stream):
        pass
    assert stream.getvalue() == (
        "evaluating held-out questions before training\nstep 3 of 60  acc  50%  IR  25%  S  76%  G    –  multipliers C 1.25\n"
    )


def test_progress_can_be_switched_off(tmp_path: Path) -> None:
    stream = io.StringIO()
    with console.progress(tmp_path, 60, stream, enabled=False):
        pass
    assert stream.getvalue() == ""


def test_the_table_shows_both_decodings_before_and_after(tmp_path: Path) -> None:
    both = {"T1": numbers(), "greedy": numbers(accuracy=0.8)}
    put_summary(tmp_path, before=both, after={"T1": numbers(accuracy=0.75), "greedy": numbers(accuracy=0.9)})
    stream = io.StringIO()
    console.print_result_table(tmp_path, stream)
    text = stream.getvalue()
    assert "fgrpo_tiny, seed 2: 100 held-out questions" in text
    (accuracy,) = [line for line in text.splitlines() if "accuracy %" in line]
    assert [accuracy.find(value) > 0 for value in ("50.0 ± 9.6", "75.0", "80.0", "90.0")] == [True] * 4
    (sentences,) = [line for line in text.splitlines() if "sentences per trace" in line]
    assert sentences.count("3.25") == 4
    assert "well-formed" not in text  # nothing measured, no row


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    stream = io.StringIO()
    console.print_result_table(tmp_path, stream)
    assert "No held-out evaluation in this run" in stream.getvalue()
