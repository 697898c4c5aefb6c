"""Reference data from a row, signals by name, and the fixed columns."""

import math

import numpy as np
import pytest

from faithful_rl.response import parse
from faithful_rl.rewards import COLUMNS, SIGNALS, Reference, assemble, columns, needs_judge, rule_scores
from faithful_rl.types import Box, Reason, Score, SentenceVerdict, Verdict

EXTRA = {
    "uid": "row-7",
    "options": ["left", "right"],
    "gold_index": 0,
    "gt_boxes": [[14, 14, 28, 28], [42, 14, 56, 28]],
    "img_wh": [[112, 112]],
    "min_pixels": 3136,
    "max_pixels": 12544,
}
TEXT = "<think>The red circle is at <bbox>[14,14,28,28]</bbox>. So the answer is left.</think><answer>A</answer>"


def reference(**changes) -> Reference:
    return Reference.from_row({"ground_truth": "A"}, {**EXTRA, **changes})


def test_reference_from_a_row():
    assert reference() == Reference("A", ("left", "right"), 0, (Box(14, 14, 28, 28), Box(42, 14, 56, 28)))


def test_reference_from_numpy_as_parquet_readers_give_it():
    boxes = np.empty(2, dtype=object)
    boxes[:] = [np.array(box, dtype=np.float64) for box in EXTRA["gt_boxes"]]
    assert reference(gt_boxes=boxes, options=np.array(EXTRA["options"], dtype=object), img_wh=np.array([[112, 112]])) == reference()


def test_reference_boxes_are_mapped_to_the_resized_image():
    mapped = reference(gt_boxes=[[146, 137, 615, 415]], img_wh=[[640, 428]], max_pixels=1_003_520)
    assert mapped.boxes == (Box(147, 134, 619, 407),)


def test_boxes_of_several_images_use_their_own_size():
    mapped = reference(gt_boxes=[[0, 0, 56, 56], [0, 0, 56, 56]], img_wh=[[56, 56], [112, 112]], box_image_idx=[1, 0])
    assert mapped.boxes == (Box(0, 0, 56, 56), Box(0, 0, 55, 55))


@pytest.mark.parametrize(("truth", "gold"), [("B", 1), ("(b)", 1), ("right", 1), ("B. right", 1), ("A", 0)])
def test_gold_is_found_from_letter_or_text(truth, gold):
    assert Reference.from_row({"ground_truth": truth}, {"options": ["left", "right"]}).gold_index == gold


def test_gold_index_decides_what_a_letter_among_letters_means():
    assert Reference.from_row({"ground_truth": "A"}, {"options": ["B", "A"], "gold_index": 1}).gold_index == 1


def test_open_question():
    assert Reference.from_row({"ground_truth": "two"}, {}) == Reference("two")


@pytest.mark.parametrize(
    ("truth", "changes", "message"),
    [
        (None, {}, "ground_truth must be non-empty text"),
        ("  ", {}, "ground_truth must be non-empty text"),
        ("B", {}, "disagree"),
        ("left or right", {"gold_index": -1}, "names 0 of the options"),
        ("A", {"gold_index": 2}, "expected -1 or 0 to 1"),
        ("A", {"options": []}, "options is empty"),
        ("A", {"options": ["x"] * 27}, "at most 26"),
        ("A", {"img_wh": None}, "needs extra_info.img_wh"),
        ("A", {"min_pixels": None, "max_pixels": None}, "needs extra_info.min_pixels, extra_info.max_pixels"),
        ("A", {"gt_boxes": [[1, 2, 3]]}, "expected finite"),
        ("A", {"gt_boxes": [[3, 2, 1, 4]]}, "expected finite"),
        ("A", {"gt_boxes": [[1, 2, math.nan, 4]]}, "expected finite"),
        ("A", {"gt_boxes": [[1, 2, math.inf, 4]]}, "expected finite"),
        ("A", {"img_wh": [[0, 5]]}, "at least 1 x 1"),
        ("A", {"img_wh": [[112, 112], [112, 112]]}, "box_image_idx"),
        ("A", {"box_image_idx": [0, 3]}, "box_image_idx"),
    ],
)
def test_a_bad_row_is_refused_by_name(truth, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        Reference.from_row({"ground_truth": truth}, {**EXTRA, **changes})
    assert "row-7" in str(caught.value)


def test_rule_scores():
    scores = rule_scores(parse(TEXT), reference())
    assert {name: score.value for name, score in scores.items()} == {
        "task": 1.0,
        "accuracy": 1.0,
        "format": 1.0,
        "spatial_grounding": pytest.approx(0.5),
    }


@pytest.mark.parametrize(
    ("accuracy", "ask_masked", "needed"), [(1.0, False, True), (0.0, False, False), (0.0, True, True), (1.0, True, True)]
)
def test_judges_are_needed_where_the_answer_counts(accuracy, ask_masked, needed):
    assert needs_judge({"accuracy": Score(accuracy)}, ask_masked) is needed


def test_columns_of_a_judged_rollout():
    parsed, row = parse(TEXT), reference()
    sentences = [
        SentenceVerdict("a", 0, 1, Verdict.CORRECT),
        SentenceVerdict("b", 0, 1, Verdict.INCORRECT),
        SentenceVerdict("c", 0, 1, Verdict.SKIP),
    ]
    rollout = assemble(parsed, row, rule_scores(parsed, row), Score(1.0), sentences)
    found = columns(rollout)
    assert tuple(found) == COLUMNS
    assert list(rollout.scores) == list(SIGNALS)
    assert found["consistency"] == 1.0
    assert found["semantic_grounding"] == 0.5
    assert found["spatial_grounding"] == pytest.approx(0.5)
    assert all(found[f"{signal}_scored"] == 1.0 for signal in SIGNALS)
    assert all(found[f"{signal}_reason"] == 0.0 for signal in SIGNALS)
    counts = {name: found[name] for name in COLUMNS if name.endswith("_count") or name == "has_reference_boxes"}
    assert counts == {
        "has_reference_boxes": 1.0,
        "sentence_count": 1.0,
        "correct_sentence_count": 1.0,
        "judged_sentence_count": 2.0,
        "predicted_box_count": 1.0,
        "reference_box_count": 2.0,
        "invalid_box_count": 0.0,
    }


FAILURES = [Reason.MASKED, Reason.JUDGE_ERROR, Reason.JUDGE_TIMEOUT, Reason.JUDGE_UNAVAILABLE, Reason.NOTHING_TO_JUDGE]


@pytest.mark.parametrize("consistency", FAILURES)
@pytest.mark.parametrize("grounding", FAILURES)
@pytest.mark.parametrize("text", ["", TEXT])
def test_columns_are_the_same_for_every_pattern_of_failure(consistency, grounding, text):
    parsed, row = parse(text), reference(gt_boxes=[])
    found = columns(assemble(parsed, row, rule_scores(parsed, row), Score(None, consistency), Score(None, grounding)))
    assert tuple(found) == COLUMNS
    assert all(type(value) is float and math.isfinite(value) for value in found.values())
    assert (found["consistency"], found["consistency_scored"], found["consistency_reason"]) == (0.0, 0.0, float(consistency))
    assert (found["semantic_grounding_scored"], found["semantic_grounding_reason"]) == (0.0, float(grounding))
    assert (found["spatial_grounding_scored"], found["spatial_grounding_reason"]) == (0.0, float(Reason.NO_REFERENCE))
    assert found["has_reference_boxes"] == 0.0


def test_no_column_collides_with_what_verl_counts_twice():
    assert "reward" not in COLUMNS
    assert "score" not in COLUMNS
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_assemble_refuses_what_cannot_be():
    parsed, row = parse(TEXT), reference()
    scores = rule_scores(parsed, row)
    with pytest.raises(ValueError, match="unscored Score"):
        assemble(parsed, row, scores, Score(1.0), Score(1.0))
    with pytest.raises(ValueError, match="consistency must lie"):
        assemble(parsed, row, scores, Score(1.5))
    with pytest.raises(ValueError, match="spatial_grounding"):
        assemble(parsed, row, {name: score for name, score in scores.items() if name != "spatial_grounding"})
