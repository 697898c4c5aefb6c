"""The report: complete, self-contained, escaped, and the same for the same files."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import put_lines, put_run

from faithful_rl.report import build
from faithful_rl.report.__main__ import main
from faithful_rl.report.plots import draw_all, phase_seconds, running_mean
from faithful_rl.report.rollouts import choose, cut, last_group, view
from faithful_rl.run_directory import write_json

RESPONSE = "<think>The red circle is here <bbox>[0,0,56,28]</bbox>. It is blue. So the answer is left.</think><answer>B</answer>"
SENTENCES = [
    {"text": "The red circle is here <bbox>[0,0,56,28]</bbox>.", "start": 0, "end": 48, "verdict": "CORRECT", "why": ""},
    {"text": "It is blue.", "start": 49, "end": 60, "verdict": "INCORRECT", "why": "it is red"},
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_run(tmp_path_factory.mktemp("runs") / "run", questions=100, steps=12)


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    return build([run_dir], run_dir / "report.html").read_text(encoding="utf-8")


def test_the_first_screen_says_what_happened(page: str) -> None:
    # rates of the synthetic run: IR 33% -> 5% and accuracy 58% -> 79% at T=1
    assert "answers that contradict their own reasoning fell from 33.0% to 5.0% and accuracy rose from 58.0% to 79.0%." in page
    assert page.count('<section class="card metric">') == 4
    assert '<span class="pill good">✓ -28.0</span>' in page


def test_everything_of_a_run_is_on_the_page(page: str) -> None:
    for heading in ("Before and after", "Training", "Constraints at the last step", "What the policy writes", "Inside one group"):
        assert f"<h2>{heading}</h2>" in page
    for plot in ("Accuracy and inconsistency", "Consistency (C)", "Multipliers", "Sentences per trace", "Where the time goes"):
        assert f"<h3>{plot}</h3>" in page
    assert page.count('class="side rollout"') == 20
    assert page.count('class="side sibling"') == 5
    for fact in (
        "0.1.0 (abc)",
        "verl 0.9.1",
        "Linux x86_64",
        "python -m faithful_rl.main recipe=fgrpo_tiny faithful_rl.seed=0",
        "8 min 20 s",
    ):
        assert fact in page


def test_the_page_needs_nothing_else(page: str) -> None:
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []
    for forbidden in ("http://", "https://", "<script", "@import", "url(http"):
        assert forbidden not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_ids_are_unique_and_references_meet_them(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_same_files_give_the_same_page(run_dir: Path, page: str, tmp_path: Path) -> None:
    assert build([run_dir], tmp_path / "again.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("field", ["response", "question", "ground_truth", "options", "consistency_why", "why"])
def test_what_the_policy_writes_is_shown_and_not_obeyed(tmp_path: Path, field: str) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    for path in (run / "rollouts").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if field == "why":
                line["sentences"] = [{**sentence, "why": attack} for sentence in line["sentences"]]
            else:
                line[field] = [attack, "b"] if field == "options" else attack
        put_lines(path, lines)
    page = build([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&gt;&lt;img src=x" in page


def test_methods_stand_beside_each_other(tmp_path: Path) -> None:
    runs = [put_run(tmp_path / f"{recipe}{seed}", recipe, seed, 60, 6) for recipe in ("grpo_tiny", "fgrpo_tiny") for seed in (0, 1)]
    page = build(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "4 runs, 2 methods" in page
    assert page.count('<span class="key"') == 6  # warm start and two methods, T=1 and greedy
    assert page.count('aria-label="front"') == 1
    assert page.count(": before and after</summary>") == 4


def test_runs_that_cannot_be_compared_still_get_a_page_that_says_so(tmp_path: Path) -> None:
    runs = [put_run(tmp_path / "a", "grpo_tiny", questions=20, steps=3), put_run(tmp_path / "b", questions=30, steps=3)]
    page = build(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No table of methods:" in page
    assert "10 questions differ" in page


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no run \(run\.json is missing\)"):
        build([tmp_path], tmp_path / "report.html")


def test_a_run_that_has_just_begun_has_a_report_too(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"recipe": "fgrpo_tiny", "seed": 0, "command": None, "resumed": None, "finished": None, "method": "fgrpo",
                                       "status": "running", "started": "now", "code_version": "x", "versions": None, "machine": None})  # fmt: skip
    page = build([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No before and after yet" in page
    assert "Where this came from" in page


def test_the_command_writes_page_tables_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [put_run(tmp_path / recipe, recipe, questions=30, steps=4) for recipe in ("grpo_tiny", "fgrpo_tiny")]
    wanted = {"out": tmp_path / "report.html", "markdown": tmp_path / "table.md", "figure": tmp_path / "front.png"}
    assert main([*(f"run={run}" for run in runs), *(f"{key}={path}" for key, path in wanted.items())]) == 0
    assert wanted["figure"].read_bytes().startswith(b"\x89PNG")
    assert "| FGRPO, adaptive |" in wanted["markdown"].read_text()
    capsys.readouterr()
    assert main(["run=a", "outt=b"]) == 2
    assert "'outt=b' is not one of run=..., out=..." in capsys.readouterr().err
    assert main([f"run={tmp_path}", f"out={tmp_path / 'x.html'}"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_sentences_hold_the_whole_response_in_order() -> None:
    found = cut(RESPONSE, SENTENCES)
    assert "".join(piece.text for sentence in found for piece in sentence.pieces) == RESPONSE
    judged = [(sentence.verdict, sentence.symbol, sentence.why) for sentence in found if sentence.verdict]
    assert judged == [("true", "✓", "true of the image"), ("false", "✗", "it is red")]
    tags = [piece.text for sentence in found for piece in sentence.pieces if piece.tag]
    assert tags == ["<think>", "<bbox>[0,0,56,28]</bbox>", "</think>", "<answer>", "</answer>"]
    assert [piece.box for sentence in found for piece in sentence.pieces if piece.box] == [1]
    lost = cut(RESPONSE, [{"text": "not there", "verdict": "CORRECT"}])
    assert "".join(piece.text for sentence in lost for piece in sentence.pieces) == RESPONSE
    assert cut("", []) == []


def test_unscored_signals_are_named_and_not_shown_as_zeros() -> None:
    columns = {"accuracy": 0.0, "accuracy_scored": 1.0, "consistency": 0.0, "consistency_scored": 0.0, "consistency_reason": 5.0}
    record: dict[str, Any] = {"uid": "u", "step": 3, "split": "train", "columns": columns, "boxes_predicted": [[10, 20, 40, 30]]}
    shown = view(record, Path())
    assert [(chip.name, chip.value, chip.state) for chip in shown.signals] == [
        ("accuracy", "0.00", "bad"),
        ("consistency", "judge timeout", "missing"),
    ]
    assert shown.consistency == ""
    frame = shown.predicted[0]
    assert (frame.x, frame.y, frame.width, frame.height) == (10, 20, 30, 10)


def test_the_truth_is_shown_with_its_text(run_dir: Path) -> None:
    assert choose(run_dir, 2)[0].views[0].ground_truth == "A (left)"
    number: dict[str, Any] = {"uid": "u", "step": 3, "ground_truth": "3", "options": ["1", "2"]}
    assert view(number, Path()).ground_truth == "3"


def test_questions_are_shown_before_and_after(run_dir: Path) -> None:
    questions = choose(run_dir, 20)
    assert len(questions) == 10
    for question in questions:
        assert [shown.step for shown in question.views] == [0, 12]
        assert {shown.uid for shown in question.views} == {question.views[0].uid}
        assert all(shown.where == "held-out, T=1" for shown in question.views)
    telling = [question for question in questions if question.why_shown == "right for a wrong reason at first"]
    assert 1 <= len(telling) <= 5
    assert all(question.views[0].right for question in telling)


def test_a_group_is_shown_whole(run_dir: Path) -> None:
    group = last_group(run_dir)
    assert len(group) == 5
    assert {chip.name for chip in group[0].advantages} == {"total", "task", "consistency"}


def test_the_running_mean_leaves_gaps_out() -> None:
    np.testing.assert_allclose(running_mean(np.array([1.0, np.nan, 3.0, 5.0]), window=2), [1.0, 1.0, 3.0, 4.0])
    assert np.isnan(running_mean(np.array([np.nan]))).all()


def test_phases_leave_the_first_step_out() -> None:
    rows = [{"step": 1.0, "timing_s/gen": 100.0}, {"step": 2.0, "timing_s/gen": 2.0}, {"step": 3.0, "timing_s/gen": 4.0}]
    assert phase_seconds(rows) == {"gen": 3.0}
    assert phase_seconds([]) == {}


def test_runs_without_numbers_draw_nothing() -> None:
    assert draw_all({"empty": [[]]}) == []
