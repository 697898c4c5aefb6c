"""The terminal: a line per step while a run trains, the before/after table when it has ended."""

import io
import json
from pathlib import Path
from typing import Any

from faithful_rl import console, results
from faithful_rl.run_directory import heldout_file, write_json, write_status

ROW = {
    "step": 3,
    "train/accuracy": 0.5,
    "train/inconsistency_rate": 0.25,
    "train/semantic_grounding": 0.755,
    "train/spatial_grounding": None,
    "constraint/consistency/multiplier": 1.25,
}


def put_heldout(run_dir: Path, moment: str, decoding: str, right: int, inconsistent: int, questions: int = 100) -> None:
    """Questions of which the first `right` are answered right and the last `inconsistent` contradict themselves."""
    lines: list[dict[str, Any]] = []
    for index in range(questions):
        row = {"accuracy": float(index < right), "consistency": float(index < questions - inconsistent), "sentence_count": 3.25}
        row |= {"semantic_grounding": 0.0, "spatial_grounding": 0.5, "format": 1.0, "response_tokens": 50.0}
        row |= {f"{name}_scored": 1.0 for name in ("accuracy", "consistency", "spatial_grounding", "format")}
        row |= {"semantic_grounding_scored": 0.0, "judged_sentence_count": 0.0, "correct_sentence_count": 0.0}
        lines.append({"uid": f"q{index}", **row})
    path = heldout_file(run_dir, moment, decoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


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
    write_json(tmp_path / "run.json", {"recipe": "fgrpo_tiny", "seed": 2})
    put_heldout(tmp_path, "before", "T1", right=50, inconsistent=30)
    put_heldout(tmp_path, "after", "T1", right=75, inconsistent=10)
    put_heldout(tmp_path, "before", "greedy", right=80, inconsistent=20)
    stream = io.StringIO()
    console.print_result_table(tmp_path, stream)
    text = stream.getvalue()
    assert "fgrpo_tiny, seed 2: 100 held-out questions" in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    sampled, greedily = (line for line in lines if "accuracy  " in line)
    assert [sampled.find(value) > 0 for value in ("50.0 [", "75.0 [", "+25.0 [")] == [True] * 3
    assert "80.0 [" in greedily
    assert [line.count("3.25") for line in lines if "3.25" in line] == [6, 3]  # each with its interval
    assert "R_S  " not in text  # nothing measured, no row
    squeezed = " ".join(text.split())
    assert "own reasoning fell from 30.0% to 10.0% and accuracy rose from 50.0% to 75.0%" in squeezed


def test_a_change_within_its_interval_is_not_called_one(tmp_path: Path) -> None:
    put_heldout(tmp_path, "before", "T1", right=50, inconsistent=10)
    put_heldout(tmp_path, "after", "T1", right=51, inconsistent=10)
    (sentence,) = results.headline(results.read_results(tmp_path))
    assert "accuracy did not change measurably (50.0% to 51.0%)" in sentence


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    stream = io.StringIO()
    console.print_result_table(tmp_path, stream)
    assert "No held-out evaluation in this run" in stream.getvalue()
