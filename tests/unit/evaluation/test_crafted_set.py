"""The whole path from predictions to figures on the crafted set: every row, and every figure worked by hand."""

import json
from pathlib import Path
from typing import Any

import crafted
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix

from faithful_rl import evaluate
from faithful_rl.evaluation.figures import METRICS
from faithful_rl.evaluation.rows import SCHEMA, read_rows

COLUMNS = ["columns.uid=id", "columns.response=output", "columns.response_tokens=tokens", "columns.truncated=finish_reason"]


def run(folder: Path, out: str, *more: str, change: dict[str, str] | None = None) -> tuple[int, dict[str, Any], Path]:
    folder.mkdir(exist_ok=True)
    questions = crafted.write_questions(folder / "crafted.parquet")
    predictions = crafted.write_predictions(folder / f"{out}.jsonl", change)
    words = [
        f"model={out}",
        f"benchmarks={questions}",
        f"predictions={predictions}",
        f"out={folder / out}",
        "judges=scene",
        "progress=false",
    ]
    code = evaluate.main([*words, *COLUMNS, *more])
    file = folder / out / "evaluation.json"
    return code, json.loads(file.read_text()) if file.exists() else {}, folder / out


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], Path]:
    return run(tmp_path_factory.mktemp("crafted"), "first")


def test_every_row_is_worth_what_it_was_made_to_be(evaluated) -> None:
    rows = {row["uid"]: row for row in read_rows(evaluated[2], "crafted")}
    assert list(rows) == [uid for uid, _ in crafted.expanded()]
    for uid, case in crafted.expanded():
        row = rows[uid]
        assert row["generated"] is (case.response is not None), case.name
        if case.response is None:
            assert row["failure"] == "no prediction"
            continue
        found = (
            row["parsed"],
            row["correct"],
            row["consistent"],
            row["correct_sentence_count"],
            row["judged_sentence_count"],
            row["format"],
        )
        assert found == (case.parsed, case.correct, case.consistent, *case.grounding, case.form), case.name
        assert row["spatial_grounding"] == pytest.approx(case.boxes, abs=1e-6), case.name
        assert row["truncated"] is (case.finish == "length")
        assert row["response_tokens"] == case.tokens
        correct, judged = case.grounding
        assert row["semantic_grounding"] == (correct / judged if judged else None), case.name
        assert row["semantic_grounding_reason"] == ("scored" if judged else "nothing_to_judge")


def test_figures_equal_those_worked_by_hand(evaluated) -> None:
    code, summary, _ = evaluated
    assert code == 1, "a question without a prediction makes it a partial evaluation"
    entry = summary["benchmarks"]["crafted"]
    assert len(crafted.expanded()) == 48
    assert (entry["questions"], entry["generated"], entry["scored"], entry["coverage"]) == (48, 46, 46, 46 / 48)
    found = {name: (one["value"], one["n"]) for name, one in entry["metrics"].items()}
    # 8 perfect + 4 false reason + 2 luck + 2 phrase + boxed + word + two answers + letter with text + bracket + full width + text
    # + nothing to judge + shiny + before + half + markup = 28
    assert found["accuracy"] == (pytest.approx(28 / 46), 46)
    # consistent: 8 perfect + 3 wrong + 4 false reason + two answers + with text + bracket + text + nothing + shiny + before + markup = 23
    assert found["inconsistency_rate"] == (pytest.approx(23 / 46), 46)
    # scored: 8 + 4 + 3 + 4 + 2 + hedge 2 + empty block + cut 2 + two + against + with + bracket + wide + beyond + text + before + half
    # + markup = 36, of which 3 are 0 and 4 are 0.5: 29 + 2 = 31
    assert found["semantic_grounding"] == (pytest.approx(31 / 36), 36)
    # 8 + 4 at 1, 4 + 2 at 0.5, the rest at 0
    assert found["spatial_grounding"] == (pytest.approx(15 / 46), 46)
    # not well-formed: phrase 2, boxed, word, among words, empty, white, cut 2, two answers, before, markup, for ever = 13
    assert found["format_rate"] == (pytest.approx(33 / 46), 46)
    # empty, white, hedge 2, empty block, cut 2, against, beyond, for ever
    assert found["unparsed_rate"] == (pytest.approx(10 / 46), 46)
    assert found["truncated_rate"] == (pytest.approx(3 / 46), 46)
    # 720 + 60 + 160 + 40 + 8 + 6 + 1 + 9 + 0 + 1 + 50 + 20 + 192 + 25 + 22 + 22 + 20 + 20 + 20 + 20 + 10 + 12 + 20 + 20 + 30 + 4096
    assert found["response_tokens"] == (pytest.approx(5604 / 46), 46)
    # right with a judged sentence: 8 + 4 + 2 + two + with text + bracket + wide + text + before + half + markup = 22, of which 4
    # say a falsehood
    assert found["right_for_a_false_reason"] == (pytest.approx(4 / 22), 22)
    assert entry["cells"] == {
        "correct_consistent": 20, "correct_inconsistent": 8, "wrong_consistent": 3, "wrong_inconsistent": 15, "unscored": 0,
    }  # fmt: skip
    assert entry["by_task_type"] == {"left_right": entry["metrics"]}
    assert list(entry["metrics"]) == [quantity.name for quantity in METRICS]


def test_what_was_odd_about_the_file_is_said(evaluated) -> None:
    notes = evaluated[1]["benchmarks"]["crafted"]["notes"]
    assert notes[0] == "1 prediction(s) of unknown ids left out: q99"
    assert notes[1] == "1 prediction(s) twice with the same text, counted once: q00"
    assert notes[2] == "1 torn last line, which is not JSON, left out: line 49"
    assert notes[3] == "2 question(s) without a response (no prediction): q46, q47"
    assert notes[4].startswith("small set: accuracy is known to within 1")
    left_out = json.loads((evaluated[2] / "predictions_left_out.json").read_text())
    assert left_out == {"crafted": {"unknown": ["q99"], "repeated": ["q00"], "not_json": ["line 49"], "missing": ["q46", "q47"]}}


def test_accuracy_and_cells_agree_with_sklearn(evaluated) -> None:
    rows = [row for row in read_rows(evaluated[2], "crafted") if row["generated"]]
    entry = evaluated[1]["benchmarks"]["crafted"]
    said = [row["choice"] if row["parsed"] else -1 for row in rows]
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(accuracy_score([row["gold_index"] for row in rows], said))
    table = confusion_matrix([row["correct"] for row in rows], [row["consistent"] > 0 for row in rows])
    cells = entry["cells"]
    assert table.tolist() == [
        [cells["wrong_inconsistent"], cells["wrong_consistent"]],
        [cells["correct_inconsistent"], cells["correct_consistent"]],
    ]


def test_an_unparsed_answer_is_never_a(evaluated) -> None:
    """All gold answers are A here: counting what cannot be read as "A" would add 10 right answers."""
    rows = [row for row in read_rows(evaluated[2], "crafted") if row["generated"] and not row["parsed"]]
    assert len(rows) == 10
    assert not any(row["correct"] for row in rows)
    assert {row["choice"] for row in rows} == {-1}


def test_comparison_equals_scipys_binomial_test_and_hand_counts(evaluated, tmp_path: Path) -> None:
    """The second model answers B where the first said A in 6 perfect responses, and A where 3 wrong and consistent ones said B."""
    cases = crafted.expanded()
    perfect = [uid for uid, case in cases if case.name == "perfect"][:6]
    wrong = [uid for uid, case in cases if case.name == "wrong and consistent"]
    change = dict.fromkeys(perfect, crafted.tagged(crafted.FULL, "B")) | dict.fromkeys(wrong, crafted.tagged(crafted.FULL, "A"))
    _, summary, _ = run(tmp_path, "second", f"against={evaluated[2]}", change=change)
    pairs = {entry["metric"]: entry for entry in summary["paired"]}
    accuracy, inconsistency = pairs["accuracy"], pairs["inconsistency_rate"]
    assert (accuracy["n"], accuracy["only_a"], accuracy["only_b"]) == (46, 6, 3)
    assert accuracy["p"] == pytest.approx(stats.binomtest(3, 9, 0.5).pvalue)
    assert accuracy["difference"]["value"] == pytest.approx(-3 / 46)
    assert (inconsistency["only_a"], inconsistency["only_b"]) == (0, 6)
    assert inconsistency["p"] == pytest.approx(2 * 0.5**6)
    # Holm: the smallest of eight p values times 8 (accuracy, IR, R_S, R_G, format, unparsed, truncated, right for a false reason)
    assert inconsistency["p_holm"] == pytest.approx(8 * 2 * 0.5**6)
    assert accuracy["p_holm"] == 1.0
    # three of 36 moved, all up: 1 of 8 ways of signs on each side
    assert (pairs["semantic_grounding"]["test"], pairs["semantic_grounding"]["p"]) == ("sign flips over questions", pytest.approx(0.25))
    # three responses from 0 to 1 among the 36 with judged sentences on both sides
    assert pairs["semantic_grounding"]["n"] == 36
    assert pairs["semantic_grounding"]["difference"]["value"] == pytest.approx(3 / 36)
    low, high = (pairs["semantic_grounding"]["difference"][end] for end in ("low", "high"))
    assert 0.0 <= low <= 3 / 36 <= high
    assert evaluate.main(["compare", f"a={evaluated[2]}", f"b={tmp_path / 'second'}", f"out={tmp_path / 'compared.json'}"]) == 0
    assert json.loads((tmp_path / "compared.json").read_text())["paired"] == summary["paired"]


def test_a_second_start_asks_nothing_again_and_gives_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, directory = run(tmp_path, "same")
    verdicts = (directory / "state" / "crafted.verdicts.jsonl").read_bytes()
    rows = (directory / "rows" / "crafted.parquet").read_bytes()

    async def never(*_: Any) -> Any:
        raise AssertionError("a kept verdict was asked for again")

    monkeypatch.setattr("faithful_rl.evaluation.judging.Judging.judge", never)
    _, second, _ = run(tmp_path, "same")
    assert second == first
    assert (directory / "state" / "crafted.verdicts.jsonl").read_bytes() == verdicts
    assert (directory / "rows" / "crafted.parquet").read_bytes() == rows


def test_rows_have_the_columns_that_readers_rely_on(evaluated) -> None:
    promised = [
        "uid",
        "benchmark",
        "task_type",
        "question",
        "gold",
        "response",
        "answer",
        "parsed",
        "correct",
        "consistent",
        "consistent_scored",
        "consistent_reason",
        "semantic_grounding",
        "semantic_grounding_scored",
        "semantic_grounding_reason",
        "spatial_grounding",
        "spatial_grounding_scored",
        "spatial_grounding_reason",
        "format",
        "truncated",
        "response_tokens",
        "sentences",
        "boxes",
    ]
    assert set(promised) <= set(SCHEMA.names)
    row = read_rows(evaluated[2], "crafted")[0]
    assert [one["verdict"] for one in json.loads(row["sentences"])] == ["CORRECT"] * 3
    assert json.loads(row["boxes"])["predicted"] == [crafted.CIRCLE, crafted.SQUARE]


def test_untagged_reasoning_can_be_judged_where_a_user_asks_for_it(tmp_path: Path) -> None:
    uid = crafted.expanded()[0][0]
    text = f"{crafted.LEFT} So the answer is left.\nAnswer: A"
    for untagged, expected in (("none", 0.0), ("text", 1.0)):
        _, _, directory = run(tmp_path, f"untagged_{untagged}", f"untagged={untagged}", change={uid: text})
        row = next(row for row in read_rows(directory, "crafted") if row["uid"] == uid)
        assert (row["consistent"], row["format"], row["correct"]) == (expected, False, True)
