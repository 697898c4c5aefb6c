"""Files of predictions: how their ids are matched, what is left out with its name, and what is refused; and the questions for other tools."""

import json
from pathlib import Path
from typing import Any

import benchmark_sets as sets
import crafted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faithful_rl import evaluate
from faithful_rl.config import ConfigError
from faithful_rl.evaluation import benchmarks, servers
from faithful_rl.evaluation.predictions import read_predictions
from faithful_rl.evaluation.settings import parse

IDS = {"q0": "zero", "q1": "", "q2": "two", "q3": "two"}


def predictions(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_predictions_match_by_uid_or_by_the_benchmarks_own_id(tmp_path: Path) -> None:
    file = predictions(tmp_path / "p.jsonl", {"uid": "zero", "response": "a"}, {"uid": "q1", "answer": 3}, {"uid": "q2", "response": None})
    found = read_predictions(str(file), {}, IDS, "b")
    assert found.lines["q0"] == {"uid": "q0", "response": "a", "truncated": None, "response_tokens": None}
    assert found.lines["q1"]["answer"] == "3"
    assert found.lines["q2"] == {"uid": "q2", "failure": "an empty prediction"}
    assert found.lines["q3"] == {"uid": "q3", "failure": "no prediction"}
    assert found.remarks == ()


def test_numbers_as_tables_write_them(tmp_path: Path) -> None:
    file = predictions(tmp_path / "p.jsonl", {"uid": 7.0, "response": "a", "response_tokens": float("inf")}, {"uid": "q1", "response": "b"})
    found = read_predictions(str(file), {}, {"m-7": "7", "q1": ""}, "m")
    assert found.lines["m-7"] == {"uid": "m-7", "response": "a", "truncated": None, "response_tokens": None}


def test_predictions_from_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"uid": "m-1", "response": "A"}], indent=1))
    assert read_predictions(str(path), {}, {"m-1": ""}, "m").lines["m-1"]["response"] == "A"
    path.write_text('{"uid": "m-1", "response": "B"}\n')  # JSON Lines under that name
    assert read_predictions(str(path), {}, {"m-1": ""}, "m").lines["m-1"]["response"] == "B"
    path.write_text('["A"]')
    with pytest.raises(ConfigError, match="entry 0 is a JSON str"):
        read_predictions(str(path), {}, {"m-1": ""}, "m")


def test_predictions_from_parquet(tmp_path: Path) -> None:
    rows = [{"idx": uid, "text": "x", "tokens": 3.0, "cut": uid == "q1"} for uid in IDS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    columns = {"uid": "idx", "response": "text", "response_tokens": "tokens", "truncated": "cut"}
    found = read_predictions(str(tmp_path / "p.parquet"), columns, IDS, "b")
    assert [line["truncated"] for line in found.lines.values()] == [False, True, False, False]
    assert {line["response_tokens"] for line in found.lines.values()} == {3}


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"uid": "q0", "response": "a"}, {"uid": "q0", "response": "b"}], {}, r"two different responses to q0"),
        (
            [{"uid": "x", "response": "a"}, {"uid": "y", "response": "a"}, {"uid": "q0", "response": "a"}],
            {},
            r"2 of 3 ids that b does not know",
        ),
        ([{"id": "q0", "response": "a"}], {}, r"with the columns id, response"),
        ([{"id": "q0", "response": "a"}], {"uid": "key"}, r"^columns\.uid: found no column key"),
        ([{"uid": "q0", "response": ["a"]}], {}, r"line 1 with a response of type list"),
        ([], {}, r"which is empty"),
    ],
)
def test_predictions_that_cannot_be_scored(rows: list[dict[str, Any]], columns: dict[str, str], message: str, tmp_path: Path) -> None:
    file = predictions(tmp_path / "p.jsonl", *rows)
    with pytest.raises(ConfigError, match=message):
        read_predictions(str(file), columns, IDS, "b")


def test_prediction_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which does not exist"):
        read_predictions(str(tmp_path / "absent.jsonl"), {}, IDS, "b")
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="which cannot be read"):
        read_predictions(str(tmp_path / "p.parquet"), {}, IDS, "b")


def test_a_torn_last_line_is_named_and_another_bad_line_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"uid": "q0", "response": "a"}\n\n{"uid": "q1", "respo')
    found = read_predictions(str(file), {}, IDS, "b")
    assert found.remarks == ("1 torn last line, which is not JSON, left out: line 3",)
    assert found.left_out == {"not_json": ("line 3",), "missing": ("q1", "q2", "q3")}
    assert found.lines["q1"] == {"uid": "q1", "failure": "no prediction"}
    file.write_text('{"uid": "q0", "response": "a"}\n{"uid": "q1", "respo\n{"uid": "q2", "response": "b"}\n')
    with pytest.raises(ConfigError, match=r"line 2 is not JSON"):
        read_predictions(str(file), {}, IDS, "b")
    file.write_text('{"uid": "q0", "response": "a"}\n[1]\n')
    with pytest.raises(ConfigError, match=r"line 2 holds a JSON list"):
        read_predictions(str(file), {}, IDS, "b")
    file.write_text('{"uid": "q0')
    with pytest.raises(ConfigError, match=r"in which no line is whole \(line 1 is torn\)"):
        read_predictions(str(file), {}, IDS, "b")


@pytest.mark.parametrize("ending", ["csv", "CSV", "tsv", "xlsx"])
def test_tables_are_not_read_and_it_is_said_so(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"p.{ending}").write_text("uid,response\nq0,A\n")
    with pytest.raises(ConfigError, match=r"CSV and spreadsheets are not read: write one JSON object a line"):
        read_predictions(str(tmp_path / f"p.{ending}"), {}, IDS, "b")


@pytest.mark.parametrize("value", ["12", -1, True, [3]])
def test_a_count_of_tokens_that_is_none_is_refused_with_its_line(value: Any, tmp_path: Path) -> None:
    file = predictions(tmp_path / "p.jsonl", {"uid": "q0", "response": "a"}, {"uid": "q1", "response": "a", "response_tokens": value})
    with pytest.raises(ConfigError, match=r"line 2 with response_tokens .*expected a number >= 0, or null"):
        read_predictions(str(file), {}, IDS, "b")


def test_whether_a_response_was_cut_is_read_strictly(tmp_path: Path) -> None:
    said = [True, 0, "length", "stop", "", None]
    file = predictions(tmp_path / "p.jsonl", *({"uid": f"q{i}", "response": "a", "truncated": one} for i, one in enumerate(said)))
    found = read_predictions(str(file), {}, {f"q{i}": "" for i in range(6)}, "b")
    assert [found.lines[f"q{i}"]["truncated"] for i in range(6)] == [True, False, True, False, None, None]
    file = predictions(tmp_path / "p.jsonl", {"uid": "q0", "response": "a", "truncated": ["length"]})
    with pytest.raises(ConfigError, match=r"line 1 with truncated \['length'\]"):
        read_predictions(str(file), {}, IDS, "b")


def inspected(word: str, *words: str) -> tuple[benchmarks.Inspected, dict[str, str]]:
    chosen = parse(["model=m", "out=o", f"benchmarks={word}", "pins=note", *words])
    found = benchmarks.inspect(word, chosen)
    return found, {one.uid: str(one.record.metadata["source_id"]) for one in benchmarks.questions(found, chosen)}


def test_ids_that_the_benchmark_knows_and_does_not_ask_are_no_unknown_ones(tmp_path: Path) -> None:
    """MMVP with 1, 2, 99, 100 and two rows that cannot be asked, 5 and 7; limit=2 asks 1 and 2."""
    found, ids = inspected("mmvp", f"locations.mmvp={sets.mmvp(tmp_path / 'mmvp', bad=True)}", "limit=2")
    file = predictions(tmp_path / "p.jsonl", *({"uid": one, "response": "A"} for one in (1, 2, "mmvp-99", 100, 5, 7, "8")))
    said = read_predictions(str(file), {}, ids, "mmvp", found.others)
    assert said.remarks == (
        "1 prediction(s) of unknown ids left out: 8",
        "2 prediction(s) of questions that are not asked (limit): mmvp-99, 100",
        "2 prediction(s) of rows that cannot be asked: 5, 7",
    )
    assert said.left_out == {"unknown": ("8",), "limited": ("mmvp-99", "100"), "rejected": ("5", "7")}


def test_a_whole_file_and_a_limit_go_together_and_all_ids_are_kept(tmp_path: Path) -> None:
    questions = crafted.write_questions(tmp_path / "crafted.parquet")
    file = predictions(tmp_path / "whole.jsonl", *({"uid": uid, "response": "A"} for uid, _ in crafted.expanded()))
    assert evaluate.main([f"predictions={file}", f"benchmarks={questions}", f"out={tmp_path / 'out'}", "limit=2", "progress=false"]) == 1
    left_out = json.loads((tmp_path / "out" / "predictions_left_out.json").read_text())["crafted"]
    assert list(left_out) == ["limited"]
    assert len(left_out["limited"]) == 46
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["model"] == "whole"


def test_predictions_have_a_name_and_no_model() -> None:
    def name(*words: str) -> str:
        return servers.model_name(parse(["out=o", *words]))

    assert name("predictions=a/theirs.jsonl", "benchmarks=mmvp") == "theirs"
    assert name("predictions=a/theirs.jsonl", "benchmarks=mmvp", "name=Theirs 7B") == "Theirs 7B"
    assert name("predictions=a/theirs.jsonl", "benchmarks=mmvp", "model=as before") == "as before"
    assert name("predictions.mmvp=a.jsonl", "predictions.scenes=b.jsonl", "benchmarks=[mmvp,scenes]") == "a + b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predictions=p.jsonl", "out=o"], r"^benchmarks: found nothing beside predictions=FILE"),
        (["model=m", "name=n", "out=o", "benchmarks=mmvp"], r"^name: found 'n' without predictions="),
        (["questions=q.jsonl", "predictions=p.jsonl", "benchmarks=mmvp"], r"^questions: found a file beside predictions="),
        (["questions=q.jsonl"], r"^benchmarks: found none"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(words)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sets.build_all(tmp_path_factory.mktemp("benchmarks"))


EVERY = "cvbench_2d,cvbench_3d,mindcube,mmvp,omnispatial,realworldqa,sat_real,algopuzzlevqa"


def test_questions_for_another_tool_are_answered_and_scored(data: Path, tmp_path: Path) -> None:
    """Every benchmark: what is written has all that a tool needs, and its ids are those that predictions are matched by."""
    file = tmp_path / "questions.jsonl"
    assert evaluate.main([f"questions={file}", f"benchmarks=[{EVERY}]", f"data={data}", "pins=note"]) == 0
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert len(lines) == 29
    for line in lines:
        assert [turn["role"] for turn in line["messages"]] == ["system", "user"]
        assert line["messages"][1]["content"].count("<image>") == len(line["images"]) > 0
        for path in line["images"]:
            with Image.open(path) as image:
                image.load()
    ids: dict[str, tuple[str, str]] = {}
    for line in lines:
        ids.setdefault(line["benchmark"], (line["uid"], line["source_id"]))
    assert ids == {  # as docs/evaluation.md has them
        "cvbench_2d": ("cvbench-2d-0", "0"), "cvbench_3d": ("cvbench-3d-1438", "1438"), "mmvp": ("mmvp-1", "1"), "realworldqa": ("realworldqa-0", "0"),
        "mindcube": ("mindcube-among_group693_q1_5_2", "among_group693_q1_5_2"), "sat_real": ("sat_real-0-0", "0/0"),
        "omnispatial": ("omnispatial-Dynamic_Reasoning-Motion_Analysis-0_0", "Dynamic_Reasoning/Motion_Analysis/0_0"),
        "algopuzzlevqa": ("algopuzzlevqa-board_tile_0000", "board_tile_0000"),
    }  # fmt: skip
    turned = {line["uid"]: line for line in lines if line["benchmark"] == "sat_real"}
    assert (turned["sat_real-1-0"]["options"], turned["sat_real-1-1"]["options"]) == (["left", "right"], ["right", "left"])
    assert (turned["sat_real-1-1"]["source_id"], turned["sat_real-1-1"]["group"]) == ("1/1", "sat_real-1")
    assert turned["sat_real-1-1"]["messages"][1]["content"].endswith("A) right\nB) left")
    said = predictions(tmp_path / "p.jsonl", *({"uid": uid, "response": "B" if uid.endswith("-1") else "A"} for uid in turned))
    words = [f"predictions={said}", "benchmarks=sat_real", f"data={data}", "pins=note", f"out={tmp_path / 'out'}", "progress=false"]
    evaluate.main(words)
    # the right answer is the first of the source's options: A unturned, B turned by one
    entry = json.loads((tmp_path / "out" / "evaluation.json").read_text())["benchmarks"]["sat_real"]
    assert (entry["metrics"]["accuracy"]["value"], entry["metrics"]["accuracy"]["n"]) == (1.0, 6)


def test_no_right_answer_is_written_and_images_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = crafted.write_questions(tmp_path / "crafted.parquet")
    file = tmp_path / "q.jsonl"
    assert evaluate.main([f"questions={file}", f"benchmarks={questions}", "mode=text_instead_of_image"]) == 0
    (first, *_) = [json.loads(text) for text in file.read_text().splitlines()]
    assert first["images"] == []
    assert "a red circle at <bbox>[10, 10, 30, 30]</bbox>" in first["messages"][0]["content"]
    assert evaluate.main([f"questions={file}", f"benchmarks={questions}"]) == 0
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert not {"gold", "gold_index", "answer", "ground_truth"} & {key for line in lines for key in line}
    assert {path for line in lines for path in line["images"]} == {str(path) for path in (tmp_path / "q_images").iterdir()}
    assert len(list((tmp_path / "q_images").iterdir())) == 1
    assert "48 questions of crafted" in capsys.readouterr().out
    assert evaluate.main([f"questions={tmp_path}", f"benchmarks={questions}"]) == 2


def test_a_question_that_cannot_be_asked_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = crafted.row("q1")
    odd["prompt"] = [{"role": "user", "content": "no image"}]
    pq.write_table(pa.Table.from_pylist([crafted.row("q0"), odd]), tmp_path / "odd.parquet")
    assert evaluate.main([f"questions={tmp_path / 'q.jsonl'}", f"benchmarks={tmp_path / 'odd.parquet'}"]) == 1
    assert "q1 is left out, q1: its prompt has 0 <image> tags for 1 images" in capsys.readouterr().out
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1
