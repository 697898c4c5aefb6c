"""The report: complete, self-contained, escaped, and the same for the same files."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faithful_rl.report import build
from faithful_rl.report.plots import draw_all, phase_seconds, running_mean
from faithful_rl.report.rollouts import choose, cut
from faithful_rl.run_directory import write_json

RESPONSE = "<think>The red circle is here <bbox>[0,0,56,28]</bbox>. It is blue. So the answer is left.</think><answer>B</answer>"
SENTENCES = [
    {"text": "The red circle is here <bbox>[0,0,56,28]</bbox>.", "start": 0, "end": 48, "verdict": "CORRECT", "why": ""},
    {"text": "It is blue.", "start": 49, "end": 60, "verdict": "INCORRECT", "why": "it is red"},
]


def record(step: int, uid: str, split: str = "heldout", decoding: str | None = "greedy", **changes: Any) -> dict[str, Any]:
    columns = {"accuracy": 0.0, "accuracy_scored": 1.0, "consistency": 0.0, "consistency_scored": 0.0}
    return {
        "uid": uid, "step": step, "split": split, "decoding": decoding, "question": "Where?", "options": ["left", "right"],
        "ground_truth": "A", "response": RESPONSE, "image_png_base64": "AAAA", "image_wh": [112, 112], "boxes_predicted": [[0, 0, 56, 28]],
        "boxes_reference": [], "sentences": SENTENCES, "columns": columns, "advantage": None, "advantages_by_signal": {}, **changes,
    }  # fmt: skip


def step(number: int, **changes: float) -> dict[str, float]:
    row = {"step": float(number), "train/accuracy": 0.5, "train/inconsistency_rate": 0.3, "train/consistency": 0.7, "timing_s/gen": 2.0}
    row |= {f"constraint/consistency/{name}": value for name, value in (("score", 0.8), ("threshold", 0.95), ("multiplier", 1.1))}
    return row | changes


def put_run(path: Path, recipe: str = "fgrpo_tiny", **response: Any) -> Path:
    run = {"recipe": recipe, "method": "fgrpo", "seed": 0, "command": ["python"], "code_version": "0.1.0 (abc)", "versions": {"verl": "0.9.1"},
           "machine": {"cpus": 2}, "started": "then", "finished": "later", "resumed": [], "status": "finished"}  # fmt: skip
    write_json(path / "run.json", run)
    numbers = {"questions": 100.0, "accuracy": 0.5, "inconsistency_rate": 0.1, "consistency_scored": 100.0}
    write_json(
        path / "heldout" / "summary.json", {"before": {"T1": numbers, "greedy": numbers}, "after": {"T1": numbers, "greedy": numbers}}
    )
    (path / "metrics.jsonl").write_text("".join(json.dumps(step(number)) + "\n" for number in range(1, 8)))
    (path / "rollouts").mkdir()
    for number in (0, 60):
        lines = [record(number, f"u{index}", **response) for index in range(30)]
        (path / "rollouts" / f"step_{number:06d}_heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    last = [record(60, f"t{index}", "train", None, advantage=0.5, advantages_by_signal={"task": -0.25}) for index in range(30)]
    (path / "rollouts" / "step_000060.jsonl").write_text("".join(json.dumps(line) + "\n" for line in last))
    return path


def test_one_page_with_table_curves_rollouts_and_provenance(tmp_path: Path) -> None:
    page = build([put_run(tmp_path / "run")], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "50.0 ± 9.6" in page
    assert page.count("<svg") == 3  # outcome, consistency, multipliers: nothing is drawn where nothing was measured
    assert page.count('class="card rollout"') == 20
    assert "0.950" in page
    assert "advantage task -0.25" in page
    assert "0.1.0 (abc)" in page
    assert "verl 0.9.1" in page


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = build([put_run(tmp_path / "run")], tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []
    assert "<script" not in page
    assert "@import" not in page


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run")
    assert build([run], tmp_path / "a.html").read_bytes() == build([run], tmp_path / "b.html").read_bytes()


def test_what_the_policy_writes_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", response="<think><script>alert(1)</script></think>", sentences=[])
    page = build([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_several_runs_stand_beside_each_other(tmp_path: Path) -> None:
    runs = [put_run(tmp_path / "a"), put_run(tmp_path / "b", recipe="grpo_tiny"), put_run(tmp_path / "c")]
    page = build(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>fgrpo_tiny, seed 0, grpo_tiny, seed 0, fgrpo_tiny, seed 0 (c)</h1>" in page
    assert page.count("Held-out questions before and after:") == 3


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no run \(run\.json is missing\)"):
        build([tmp_path], tmp_path / "report.html")


def test_a_run_that_has_just_begun_has_a_report_too(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"recipe": "fgrpo_tiny", "seed": 0, "command": None, "resumed": None, "finished": None, "method": "fgrpo",
                                       "status": "running", "started": "now", "code_version": "x", "versions": None, "machine": None})  # fmt: skip
    assert "Where this came from" in build([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")


def test_pieces_hold_the_whole_response_in_order() -> None:
    pieces = cut(RESPONSE, SENTENCES)
    assert "".join(piece.text for piece in pieces) == RESPONSE
    assert [(piece.text, piece.verdict) for piece in pieces if piece.verdict and not piece.tag] == [
        ("The red circle is here ", "true"),
        (".", "true"),
        ("It is blue.", "false"),
    ]
    assert {piece.why for piece in pieces if piece.verdict == "false"} == {"it is red"}
    assert [piece.text for piece in pieces if piece.tag] == ["<think>", "<bbox>[0,0,56,28]</bbox>", "</think>", "<answer>", "</answer>"]
    assert "".join(piece.text for piece in cut(RESPONSE, [{"text": "not there", "verdict": "CORRECT"}])) == RESPONSE
    assert cut("", []) == []


def test_the_same_question_stands_before_and_after_in_a_row(tmp_path: Path) -> None:
    views = choose(put_run(tmp_path / "run"), 20)
    assert [view.title for view in views[:4]] == ["step 0, held-out, greedy", "step 60, held-out, greedy"] * 2
    assert views[10].title == "step 60, training"  # no T=1 rollouts in these files
    frame = views[0].predicted[0]
    assert (frame.left, frame.top, frame.width, frame.height) == (0.0, 0.0, 50.0, 25.0)
    assert views[0].signals == (("accuracy", "0.00"),)  # unscored signals are not shown as zeros


def test_the_running_mean_leaves_gaps_out() -> None:
    np.testing.assert_allclose(running_mean(np.array([1.0, np.nan, 3.0, 5.0]), window=2), [1.0, 1.0, 3.0, 4.0])
    assert np.isnan(running_mean(np.array([np.nan]))).all()


def test_phases_leave_the_first_step_out() -> None:
    rows = [step(1, **{"timing_s/gen": 100.0}), step(2), step(3, **{"timing_s/gen": 4.0})]
    assert phase_seconds(rows) == {"gen": 3.0}
    assert phase_seconds([]) == {}


def test_runs_without_numbers_draw_nothing() -> None:
    assert draw_all({"empty": []}) == []
