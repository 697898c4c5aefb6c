"""A part is never printed as a whole: what applies, what was measured, and of how many, for every figure."""

import io
import json
from pathlib import Path
from typing import Any

import benchmark_sets as sets
import crafted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from test_figures import row, rows

from faithful_rl import evaluate
from faithful_rl.evaluation import figures, present
from faithful_rl.evaluation.rows import ADDED, SCHEMA, read_rows, rows_file, write_rows


def score(folder: Path, questions: list[dict[str, Any]], said: list[dict[str, Any]], *words: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, the summary, what the terminal shows) of predictions on rows in verl's format."""
    pq.write_table(pa.Table.from_pylist(questions), folder / "set.parquet")
    (folder / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    base = [f"benchmarks={folder / 'set.parquet'}", f"predictions={folder / 'said.jsonl'}", f"out={folder / 'out'}", "judges=scene"]
    code = evaluate.main([*base, "progress=false", "rollouts=false", *words])
    summary = json.loads((folder / "out" / "evaluation.json").read_text())
    return code, summary, shown(summary)


def shown(summary: dict[str, Any]) -> str:
    text = io.StringIO()
    present.show(summary, Console(file=text, width=200, highlight=False))
    return text.getvalue()


def lines(text: str, count: int) -> list[dict[str, Any]]:
    return [{"uid": f"q{i}", "response": text} for i in range(count)]


def photograph(uid: str) -> dict[str, Any]:
    """A row that no exact judge knows anything about: no scene, no boxes."""
    found = crafted.row(uid)
    found["extra_info"] |= {"scene_json": "", "gt_boxes": [], "box_labels": [], "box_image_idx": []}
    return found


def test_a_judge_that_can_say_nothing_about_half_of_a_set_makes_its_figures_a_part(tmp_path: Path) -> None:
    """Two scenes and two photographs: the exact judge knows the scenes, boxes are drawn in the scenes only."""
    questions = [crafted.row("q0"), crafted.row("q1"), photograph("q2"), photograph("q3")]
    code, summary, text = score(tmp_path, questions, lines(crafted.tagged(crafted.FULL, "A"), 4))
    entry = summary["benchmarks"]["set"]
    assert (code, entry["generated"], entry["scored"], entry["coverage"]) == (1, 4, 2, 0.5)
    known = {name: (one["n"], one["of"]) for name, one in entry["metrics"].items()}
    assert known["accuracy"] == known["format_rate"] == (4, 4)
    assert known["inconsistency_rate"] == known["semantic_grounding"] == known["right_for_a_false_reason"] == (2, 4)
    assert known["spatial_grounding"] == (2, 2), "photographs have no boxes: it does not apply to them"
    assert entry["reasons"] == {
        "consistent": {"cannot_judge": 2},
        "semantic_grounding": {"cannot_judge": 2},
        "spatial_grounding": {"no_reference": 2},
    }
    assert text.splitlines()[1] == "PARTIAL evaluation of said, mode reasoning"
    assert text.count("2 of 4") == 4  # below IR, R_S and the false reasons, and in the heading
    assert "2 response(s) that the exact judge of scenes cannot judge, because they are about other images" in entry["notes"]


def test_a_judge_that_can_say_nothing_at_all_leaves_no_figure_and_no_part(tmp_path: Path) -> None:
    code, summary, _ = score(tmp_path, [photograph("q0"), photograph("q1")], lines("<think>x</think><answer>A</answer>", 2))
    entry = summary["benchmarks"]["set"]
    assert (code, entry["coverage"], entry["metrics"]["inconsistency_rate"]["value"]) == (0, 1.0, None)
    assert (entry["metrics"]["inconsistency_rate"]["n"], entry["metrics"]["inconsistency_rate"]["of"]) == (0, 2)


def test_boxes_in_a_frame_that_nobody_knows_are_not_scored(tmp_path: Path) -> None:
    question = crafted.row("q0")
    question["extra_info"] |= {"min_pixels": None, "max_pixels": None}
    words = ("min_pixels=null", "max_pixels=null")
    _, summary, _ = score(tmp_path, [question], lines(crafted.tagged(crafted.FULL, "A"), 1), *words)
    found = summary["benchmarks"]["set"]
    assert (found["metrics"]["spatial_grounding"]["value"], found["reasons"]["spatial_grounding"]) == (None, {"cannot_judge": 1})


def test_without_reasoning_the_form_is_one_answer_block_and_grounding_does_not_apply(tmp_path: Path) -> None:
    said = ["<answer>A</answer>", " <answer>B</answer>\n", "<answer>A</answer><answer>A</answer>", "A", crafted.tagged(crafted.FULL, "A")]
    answers = [{"uid": f"q{i}", "response": text} for i, text in enumerate(said)]
    code, summary, _ = score(tmp_path, [crafted.row(f"q{i}") for i in range(5)], answers, "mode=no_reasoning")
    entry = summary["benchmarks"]["set"]
    assert [one["format"] for one in read_rows(tmp_path / "out", "set")] == [True, True, False, False, False]
    assert (code, entry["coverage"], entry["metrics"]["accuracy"]["value"]) == (0, 1.0, 0.8)
    for name in ("inconsistency_rate", "semantic_grounding", "spatial_grounding", "right_for_a_false_reason"):
        assert (entry["metrics"][name]["value"], entry["metrics"][name]["of"]) == (None, 0), name
    assert entry["notes"][0] == "no reasoning was asked for: inconsistency and grounding do not apply"


def test_an_answer_alone_has_no_boxes_and_no_form(tmp_path: Path) -> None:
    _, summary, _ = score(tmp_path, [crafted.row("q0")], [{"uid": "q0", "answer": "A"}])
    found = summary["benchmarks"]["set"]["metrics"]
    assert (found["accuracy"]["value"], found["spatial_grounding"]["value"], found["format_rate"]["value"]) == (1.0, None, None)


def test_what_is_known_of_some_responses_says_of_how_many(tmp_path: Path) -> None:
    said = lines("<answer>A</answer>", 3)
    said[0] |= {"truncated": "length", "response_tokens": 7}
    _, summary, text = score(tmp_path, [crafted.row(f"q{i}") for i in range(3)], said)
    found = summary["benchmarks"]["set"]["metrics"]
    assert [(found[name]["value"], found[name]["n"], found[name]["of"]) for name in ("truncated_rate", "response_tokens")] == [
        (1.0, 1, 3),
        (7.0, 1, 3),
    ]
    assert text.count("1 of 3") == 2


def test_a_few_rows_of_a_benchmark_are_a_part_of_it_and_not_the_pinned_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four of MMVP's 300 questions, both pairs right in one question each but one, which has no prediction."""
    data = sets.build_all(tmp_path / "data")
    (tmp_path / "said.jsonl").write_text("".join(json.dumps({"uid": n, "response": "A"}) + "\n" for n in (1, 2, 99)))
    words = [f"predictions={tmp_path / 'said.jsonl'}", f"data={data}", "pins=note", f"out={tmp_path / 'out'}", "progress=false"]
    assert evaluate.main(["benchmarks=mmvp", "name=theirs", *words]) == 1
    summary = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    entry = summary["benchmarks"]["mmvp"]
    assert (summary["model"], summary["not_pinned"], entry["pinned"]) == ("theirs", ["mmvp"], False)
    assert (entry["questions"], entry["generated"], entry["coverage"]) == (300, 3, 3 / 300)
    assert entry["notes"][0] == "not the pinned benchmark: 4 rows instead of 300; 4 of type pair instead of 300"
    assert len([note for note in entry["notes"] if "pinned" in note]) == 1
    text = capsys.readouterr().out
    assert "PARTIAL evaluation of theirs, mode reasoning; not the pinned set: mmvp" in text
    # A is right for 1 and wrong for 2; 99 is known and 100 is not: one pair of 150
    assert "per pair 0.0 [0.0, 97.5] (1 of 150 pairs)" in text


def test_pairs_rows_and_strata_say_of_how_many_they_are() -> None:
    found = figures.conventions(rows("11-1", groups="aabb"), ["per_pair", "circular_mean", "all_orders"], 4)
    assert {kind: present.counted(one) for kind, one in found.items()} == {
        "per_question": "3 of 4 questions", "per_pair": "1 of 2 pairs", "circular_mean": "3 of 4 trials", "all_orders": "1 of 2 rows",
    }  # fmt: skip
    whole = figures.conventions(rows("1101", groups="aabb"), ["per_pair"])
    assert present.counted(whole["per_pair"]) == "2 pairs"
    strata = figures.conventions(rows("11-1", strata="ACAC"), ["mean_of_strata"])
    assert present.counted(strata["stratum A"]) == "1 of 2 questions"
    assert present.counted({"n": 3}) == "3", "an evaluation of before does not say of how many"


def test_half_a_pair_is_no_pair() -> None:
    """The other half was rejected and is not among the rows."""
    found = figures.conventions(rows("111", groups="aab"), ["per_pair"], 4)
    assert (found["per_pair"]["value"], found["per_pair"]["n"], found["per_pair"]["of"]) == (1.0, 1, 2)
    unread = [row("q0", True, group="a"), {**row("q1", True, group="a"), "correct": None, "answer_reason": "judge_error"}]
    assert figures.groups_right(unread) == {}


def test_the_mean_of_strata_is_not_known_where_a_stratum_is_not() -> None:
    found = figures.conventions(rows("11--", strata="AACC"), ["mean_of_strata"])
    assert (found["stratum A"]["value"], found["stratum C"]["value"], found["mean_of_strata"]["value"]) == (1.0, None, None)


def test_a_task_type_says_of_how_many_it_is() -> None:
    types = [row("q0", True), row("q1", True, generated=False, failure="no answer: gone"), row("q2", True, task_type="u")]
    text = shown({"model": "m", "mode": "reasoning", "benchmarks": {"b": figures.benchmark_summary(types, 3, ())}})
    assert "accuracy by task type: t 100.0 [2.5, 100.0] (1 of 2); u 100.0 [2.5, 100.0] (1)" in text


def test_rows_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path, "b", [{**row("q0", True), "benchmark": "b"}])
    table = pq.read_table(rows_file(tmp_path, "b"))
    pq.write_table(table.drop_columns(list(ADDED)), rows_file(tmp_path, "b"))
    (found,) = read_rows(tmp_path, "b")
    assert list(found) == SCHEMA.names
    assert {found[name] for name in ADDED} == {None}
    assert figures.metrics([found])["accuracy"]["value"] == 1.0
