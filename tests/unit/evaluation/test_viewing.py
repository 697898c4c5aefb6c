"""What the viewer gets of an evaluation: one line for each response, with boxes in the frame of the image that it shows."""

import base64
import io
import json
from pathlib import Path

import benchmark_sets as sets
import crafted
import pytest
from PIL import Image

from data_prep.record import Image as RecordImage
from data_prep.record import Record
from faithful_rl import evaluate
from faithful_rl.evaluation.questions import Question
from faithful_rl.evaluation.rows import read_rows
from faithful_rl.evaluation.viewing import line, picture, rollouts_file
from faithful_rl.report import records
from faithful_rl.report.__main__ import main
from faithful_rl.report.serve import Source
from faithful_rl.report.viewer_data import ViewedRun, collect


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crafted set, scored with the exact judge."""
    root = tmp_path_factory.mktemp("viewing")
    questions = crafted.write_questions(root / "crafted.parquet")
    words = [f"predictions={crafted.write_predictions(root / 'p.jsonl')}", "columns.uid=id", "columns.response=output", "judges=scene"]
    # the two questions without a prediction make it a partial one
    assert evaluate.main(["model=models/crafted", f"benchmarks=[{questions}]", f"out={root / 'out'}", "progress=false", *words]) == 1
    return root / "out"


def read(directory: Path, name: str) -> list[dict]:
    return [json.loads(text) for text in rollouts_file(directory, name).read_text().splitlines()]


def test_every_response_is_there_with_its_verdicts(evaluated: Path) -> None:
    rows = [row for row in read_rows(evaluated, "crafted") if row["generated"]]
    lines = read(evaluated, "crafted")
    assert [one["uid"] for one in lines] == [row["uid"] for row in rows]
    assert len(lines) == 46
    first = lines[0]
    assert (first["question"], first["ground_truth"], first["answer"]) == (crafted.QUESTION, "A", "A")
    assert first["boxes_reference"] == first["boxes_predicted"] == [crafted.CIRCLE, crafted.SQUARE]  # 112 x 112 is not resized
    assert [sentence["verdict"] for sentence in first["sentences"]] == ["CORRECT"] * 3
    assert (first["columns"]["accuracy"], first["columns"]["consistency"], first["columns"]["semantic_grounding"]) == (1.0, 1.0, 1.0)
    phrase = next(one for one in lines if one["response"] == "Answer: A")
    assert phrase["answer"] == "A"  # found by rule, where no tag says it
    assert Image.open(io.BytesIO(base64.b64decode(first["image_base64"]))).size == (112, 112)


def test_the_viewer_reads_an_evaluation_as_it_reads_a_run(evaluated: Path, tmp_path: Path) -> None:
    bundle = collect([ViewedRun("crafted", evaluated, evaluation=True)])
    assert (bundle.kept, bundle.data["evaluations"], bundle.data["wheres"]) == (46, [True], ["crafted"])
    assert len(bundle.data["images"]) == 1
    assert bundle.data["images"][0].startswith("data:image/png;base64,")
    out = tmp_path / "viewer.html"
    assert main(["view", f"evaluation=mine={evaluated}", f"out={out}"]) == 0
    assert "<title>Rollouts · mine" in out.read_text()
    assert main(["view", f"evaluation={tmp_path}", f"out={out}"]) == 2
    assert main([f"evaluation={evaluated}", f"out={tmp_path / 'report.html'}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Every response" in page
    assert "46 of 48 (partial)" in page
    assert "correct but inconsistent" in page


def test_the_local_page_serves_an_evaluations_images(evaluated: Path) -> None:
    source = Source([evaluated], {evaluated: "mine"})
    assert b"Rollouts \xc2\xb7 mine" in source.page()
    content = source.image(0)
    assert content is not None
    assert content.startswith(b"\x89PNG")
    assert source.image(1) is None  # one scene, one image


def test_rollouts_may_be_left_out(tmp_path: Path) -> None:
    questions = crafted.write_questions(tmp_path / "crafted.parquet")
    words = [
        f"predictions={crafted.write_predictions(tmp_path / 'p.jsonl')}",
        "columns.uid=id",
        "columns.response=output",
        "rollouts=false",
    ]
    evaluate.main(["model=m", f"benchmarks=[{questions}]", f"out={tmp_path / 'out'}", "progress=false", *words])
    assert not (tmp_path / "out" / "rollouts").exists()


def question(*sizes: tuple[int, int], boxes: tuple = ()) -> Question:
    images = tuple(RecordImage(sets.png(*size), None, *size) for size in sizes)
    labels, owners = ("",) * len(boxes), (0,) * len(boxes)
    return Question("b", Record("q", "b", "test", "Where?", ("l", "r"), 0, "l", images, boxes, labels, owners), "q")


ROW = {
    "uid": "q", "group": "q", "generated": True, "response": "<answer>A</answer>", "answer": "A", "correct": True, "format": None, "sentences": "[]",
    "boxes": json.dumps({"predicted": [[28.0, 28.0, 56.0, 56.0]], "reference": [], "invalid": 0}),
    "sentence_count": 0, "correct_sentence_count": 0, "judged_sentence_count": 0,
    "consistent": None, "consistent_scored": False, "consistent_reason": "judge_timeout",
    "semantic_grounding": None, "semantic_grounding_scored": False, "semantic_grounding_reason": "masked",
    "spatial_grounding": 0.5, "spatial_grounding_scored": True, "spatial_grounding_reason": "scored",
}  # fmt: skip


def test_boxes_stand_where_the_model_meant_them() -> None:
    # 200 x 100 within 56 x 56 to 6,272 pixels: 112 x 56, so that x shrinks by 200 / 112 and y by 100 / 56
    made = line(question((200, 100), boxes=((10.0, 20.0, 30.0, 40.0),)), ROW, (3136, 6272))
    assert (made["image_wh"], made["image_resized_wh"]) == ([200, 100], [112, 56])
    assert records.predicted_boxes(made) == [[50.0, 50.0, 100.0, 100.0]]
    assert records.reference_boxes(made) == [[10.0, 20.0, 30.0, 40.0]]
    assert (made["columns"]["consistency_scored"], made["columns"]["consistency_reason"]) == (0.0, 5.0)
    # without the limits nobody knows the frame of the predicted boxes
    assert line(question((200, 100)), ROW, None)["boxes_predicted"] == []


def test_several_images_stand_side_by_side_and_carry_no_boxes() -> None:
    two = question((600, 300), (50, 100))
    made = line(two, ROW, (3136, 6272))
    # 448 x 224 and 50 x 100, at the height of the lower one: 200 x 100 and 50 x 100, 6 pixels apart
    assert made["image_wh"] == [256, 100]
    assert made["boxes_predicted"] == made["boxes_reference"] == []
    large, size = picture(question((900, 300)))
    assert size == (448, 149)
    assert Image.open(io.BytesIO(base64.b64decode(large))).size == (448, 149)


def test_an_image_that_has_gone_is_none() -> None:
    gone = Record("q", "b", "test", "Where?", ("l", "r"), 0, "l", (RecordImage(None, "/absent.png", 10, 10),))
    assert picture(Question("b", gone, "q")) == ("", (0, 0))
