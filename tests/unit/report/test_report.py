"""The report: complete, self-contained, escaped, and the same for the same files."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import put_lines, put_run

from faithful_rl.report import build, costs
from faithful_rl.report.__main__ import main
from faithful_rl.report.front import way
from faithful_rl.report.plots import draw_all, phase_seconds, running_mean
from faithful_rl.report.rollouts import SHOWN, choose, cut, view
from faithful_rl.report.styles import legend_columns, method_styles, row_major
from faithful_rl.report.viewer import script_hash
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
    for heading in (
        "Before and after",
        "Training",
        "Constraints at the last step",
        "What the policy writes",
        "Every rollout",
        "What it cost",
    ):
        assert f"<h2>{heading}</h2>" in page
    for plot in ("Accuracy against inconsistency", "Accuracy and inconsistency", "Consistency (C)", "Violations", "Multipliers", "Valid coverage",
                 "Sentences per trace", "Where the time goes"):  # fmt: skip
        assert f"<h3>{plot}</h3>" in page
    assert page.count('class="side rollout"') == SHOWN
    assert "hold no <code>judge/exposed_seconds</code>" in page  # this run was made before that metric
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
    drawn = page.replace('const SVG = "http://www.w3.org/2000/svg"', "")  # a name, not an address
    for forbidden in ("http://", "https://", "@import", "url(http", "src="):
        assert forbidden not in drawn
    assert page.count("<script") == 2  # the packed rollouts, and the one script that the policy allows
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1].replace("&#39;", "'")
    assert f"script-src '{script_hash()}'" in policy[1].replace("&#39;", "'")
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    assert script_hash() == f"sha256-{base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()}"


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
    assert page.count("<script") == 2
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&gt;&lt;img src=x" in page


def test_methods_stand_beside_each_other(tmp_path: Path) -> None:
    runs = [put_run(tmp_path / f"{recipe}{seed}", recipe, seed, 60, 6) for recipe in ("grpo_tiny", "fgrpo_tiny") for seed in (0, 1)]
    page = build(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "4 runs, 2 methods" in page
    assert page.count('<span class="key"') == 6 + 2  # warm start and two methods, T=1 and greedy; and the legend of the plots
    assert "of the answers of FGRPO, adaptive contradict their own reasoning, against 25.0% of GRPO" in page
    assert page.count('class="arrow better"') >= 2
    assert page.count('aria-label="front"') == 1
    assert page.count(": before and after</summary>") == 4


def test_runs_that_cannot_be_compared_still_get_a_page_that_says_so(tmp_path: Path) -> None:
    runs = [put_run(tmp_path / "a", "grpo_tiny", questions=20, steps=3), put_run(tmp_path / "b", questions=30, steps=3)]
    page = build(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No table of methods:" in page
    assert "10 questions differ" in page


def test_a_run_that_still_trains_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [put_run(tmp_path / name, recipe, questions=20, steps=3) for name, recipe in (("a", "grpo_tiny"), ("b", "fgrpo_tiny"))]
    training = put_run(tmp_path / "training", "grpo_tiny", 1, 20, 3)
    for file in (training / "heldout").glob("after_*"):
        file.unlink()
    words = [f"run={run}" for run in (*runs, training)]
    assert main([*words, f"out={tmp_path / 'report.html'}", f"markdown={tmp_path / 'tables.md'}"]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not evaluated after training, and not in the tables: training." in page
    assert "Held-out questions, T=1" in page
    assert "| FGRPO, adaptive |" in (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert f"note: {training} is not evaluated after training" in capsys.readouterr().err


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
    wanted = {
        "out": tmp_path / "report.html",
        "markdown": tmp_path / "table.md",
        "figure": tmp_path / "front.png",
        "figures": tmp_path / "pictures",
    }
    assert main([*(f"run={run}" for run in runs), *(f"{key}={path}" for key, path in wanted.items())]) == 0
    assert wanted["figure"].read_bytes().startswith(b"\x89PNG")
    assert "| FGRPO, adaptive |" in wanted["markdown"].read_text()
    pictures = {path.name for path in wanted["figures"].iterdir()}
    assert {"front.png", "front.svg", "way.png", "multipliers.svg", "time.png"} <= pictures
    assert "<svg" in (wanted["figures"] / "way.svg").read_text()
    assert "var(--" not in (wanted["figures"] / "way.svg").read_text()  # a file has no page to take colours from
    capsys.readouterr()
    assert main(["run=a", "outt=b"]) == 2
    assert "'outt=b', expected one of run=..., evaluation=..., out=..." in capsys.readouterr().err
    assert main([f"run={runs[0]}", "out=a", "rollouts=many"]) == 2
    assert "rollouts: found 'many', expected a whole number" in capsys.readouterr().err
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
    shown = view(record)
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
    assert view(number).ground_truth == "3"


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


def test_names_make_methods_of_any_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [put_run(tmp_path / f"run{seed}", "fgrpo_tiny", seed, 40, 4) for seed in (0, 1)] + [
        put_run(tmp_path / "other", "grpo_tiny", 0, 40, 4)
    ]
    words = [f"run=ours={runs[0]}", f"run=ours={runs[1]}", f"run=theirs={runs[2]}", "baseline=theirs"]
    assert main([*words, f"out={tmp_path / 'report.html'}", f"markdown={tmp_path / 'table.md'}"]) == 0
    text = (tmp_path / "table.md").read_text()
    assert "**Difference to theirs**" in text
    assert "| ours, T=1 |" in text
    capsys.readouterr()
    assert main([*words[:3], "baseline=nobody", f"out={tmp_path / 'report.html'}", f"markdown={tmp_path / 'table.md'}"]) == 2
    assert "the baseline 'nobody' is none of the methods ours, theirs" in capsys.readouterr().err


def test_unknown_methods_keep_apart_in_colour_and_marker() -> None:
    styles = method_styles(["GRPO", "a", "b", "c"])
    assert len(set(styles.values())) == 4
    assert method_styles(["GRPO"])["GRPO"] == styles["GRPO"]


def test_the_way_of_a_method_by_hand() -> None:
    rows = [{"step": float(step), "train/accuracy": step / 20, "train/inconsistency_rate": 1 - step / 20} for step in range(1, 21)]
    inconsistency, accuracy = way([rows, rows])
    np.testing.assert_allclose(accuracy, (np.arange(10) * 2 + 1.5) / 20)
    np.testing.assert_allclose(inconsistency, 1 - accuracy)
    assert way([[]])[0].size == 0
    gaps = [{**row, "train/accuracy": np.nan} if row["step"] < 3 else row for row in rows]
    assert len(way([gaps])[0]) == 9


def test_waiting_for_judges_stands_apart_from_generation() -> None:
    rows = [{"step": step, "timing_s/gen": 5.0, "judge/exposed_seconds": 2.0} for step in (1.0, 2.0)]
    assert phase_seconds(rows) == {"gen": 3.0, "waiting for judges": 2.0}


def test_costs_by_hand(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=4)
    (run / "config.yaml").write_text("faithful_rl: {hardware: {world: gpu}}\ntrainer: {n_gpus_per_node: 8, nnodes: 2}\n")
    counts = {"requests": 10, "calls": 8, "prompt_tokens": 100, "completion_tokens": 20}
    write_json(
        run / "judges.json", {"starts": [{"judges": {"consistency": counts, "grounding": counts}}, {"judges": {"consistency": counts}}]}
    )
    rows = [{"step": 1.0, "perf/total_num_tokens": 1000.0, "judge/exposed_seconds": 1.5}, {"step": 2.0, "perf/total_num_tokens": 500.0}]
    # 500 s from start to end, 2 processors, 16 devices
    assert costs.costs(run, "r", rows).cells == ("0.14", "0.28", "2.22", "1,500", "30", "24", "360", "2 s")
    assert costs.note([run], [rows]) == ""
    assert "judges.json" in costs.note([tmp_path], [[]])


def test_the_running_mean_leaves_gaps_out() -> None:
    np.testing.assert_allclose(running_mean(np.array([1.0, np.nan, 3.0, 5.0]), window=2), [1.0, 1.0, 3.0, 4.0])
    assert np.isnan(running_mean(np.array([np.nan]))).all()


def test_phases_leave_the_first_step_out() -> None:
    rows = [{"step": 1.0, "timing_s/gen": 100.0}, {"step": 2.0, "timing_s/gen": 2.0}, {"step": 3.0, "timing_s/gen": 4.0}]
    assert phase_seconds(rows) == {"gen": 3.0}
    assert phase_seconds([]) == {}


def test_runs_without_numbers_draw_nothing() -> None:
    assert draw_all({"empty": [[]]}) == []


def unjudged(run: Path, moment: str = "after") -> Path:
    """The judge of consistency failed on every second held-out question."""
    for path in (run / "heldout").glob(f"{moment}_*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        put_lines(
            path,
            [{**line, "consistency_scored": 0.0, "consistency_reason": 4.0} if number % 2 else line for number, line in enumerate(lines)],
        )
    return run


def test_figures_of_a_part_of_the_answers_say_so_for_one_run(tmp_path: Path) -> None:
    page = build([unjudged(put_run(tmp_path / "run", questions=60, steps=3))], tmp_path / "report.html").read_text(encoding="utf-8")
    assert (
        "Partial, because some answers could not be judged: IR after training, T=1: 30 of 60; IR after training, greedy: 30 of 60." in page
    )
    assert page.count('<small class="partial">30 of 60</small>') == 4  # after and change, both decodings
    assert page.count('<span class="partial">30 of 60</span>') == 2  # the card
    assert "n = 35" in page  # right answers before training with a judged sentence: no failure, another n
    whole = build([put_run(tmp_path / "whole", questions=60, steps=3)], tmp_path / "whole.html").read_text(encoding="utf-8")
    assert 'class="partial"' not in whole


def test_figures_of_a_part_of_the_answers_say_so_for_methods(tmp_path: Path) -> None:
    runs = [put_run(tmp_path / "grpo", "grpo_tiny", questions=60, steps=3), unjudged(put_run(tmp_path / "a|b", questions=60, steps=3))]
    words = [
        f"run=GRPO={runs[0]}",
        f"run=a|b={runs[1]}",
        f"out={tmp_path / 'r.html'}",
        f"markdown={tmp_path / 't.md'}",
        f"figures={tmp_path / 'f'}",
    ]
    assert main(words) == 0
    page, text = (tmp_path / "r.html").read_text(encoding="utf-8"), (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "Partial, because some answers could not be judged: IR of a|b, T=1: 30 of 60; IR of a|b, greedy: 30 of 60." in page
    assert page.count('<small class="partial">30 of 60</small>') == 2 + 4  # the two tables, and the folded before and after
    assert "| a\\|b |" in text
    assert text.count("(30 of 60)") == 2 + 2  # tables and differences
    assert "IR 30 of 60" in (tmp_path / "f" / "front.svg").read_text()


def test_plots_are_called_by_words() -> None:
    """Files without stray signs, each constraint's violation beside the sum, phases in words, shares within 0 and 100."""
    row = {
        "step": 1.0,
        "train/accuracy": 1.0,
        "train/inconsistency_rate": 0.0,
        "train/consistency": 1.0,
        "timing_s/gen": 1.0,
        "timing_s/old_log_prob": 1.0,
    }
    for name, score in (("consistency", 0.9), ("semantic_grounding", 0.5)):
        row |= {f"constraint/{name}/score": score, f"constraint/{name}/threshold": 0.95, f"constraint/{name}/violation": 0.95 - score}
    made = {plot.name: plot for plot in draw_all({"a": [[row]], "b": [[row]]})}
    assert {"consistency", "semantic-grounding", "violation", "violation-consistency", "violation-semantic-grounding", "time"} <= set(made)
    assert not [name for name in made if name != name.strip("-")]
    assert "log-probabilities" in made["time"].svg
    assert "old log prob" not in made["time"].svg
    (axis,) = made["accuracy"].figure.axes
    assert axis.get_ylim()[1] <= 101
    (axis,) = made["consistency"].figure.axes
    (told,) = [text for text in axis.texts if text.get_text().startswith("τ")]
    assert (told.get_text(), told.xy[0] > 1, told.get_ha()) == ("τ = 95", True, "left")  # beside the panel


def test_a_legend_reads_from_left_to_right() -> None:
    # four columns, the first of two: matplotlib fills column by column
    assert row_major(["a", "b", "c", "d", "e"], 4) == ["a", "e", "b", "c", "d"]
    assert row_major(["a", "b", "c", "d"], 2) == ["a", "c", "b", "d"]
    # 70 signs below a figure of seven inches: three labels of 16 signs, with five for each handle
    assert (legend_columns(["x" * 16] * 6, 7.0), legend_columns(["x" * 90] * 2, 7.0), legend_columns(["x"] * 6, 7.0)) == (3, 1, 4)
