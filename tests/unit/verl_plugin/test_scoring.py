"""From response text to reward columns: when judges are asked, and what their failures become."""

import asyncio
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("verl")
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.reward import request_from
from faithful_rl.rewards.designs import DESIGNS
from faithful_rl.rewards.suite import COLUMNS, columns
from faithful_rl.types import Reason, Score, SentenceVerdict, Verdict
from faithful_rl.verl_plugin.reward_manager import ExactJudge, RolloutScorer, details_json, prompt_images

RIGHT = "<think>The red circle is left of the blue square.</think><answer>A</answer>"
WRONG = "<think>The red circle is left of the blue square.</think><answer>B</answer>"
ROW = {"ground_truth": "A"}
EXTRA = {"uid": "q1", "question": "Where?", "options": ["left", "right"], "gold_index": 0, "scene_json": "{}"}
SENTENCE = "The red circle is left of the blue square."
CONSISTENT = Score(1.0)
VERDICTS = [SentenceVerdict(SENTENCE, 0, len(SENTENCE), Verdict.INCORRECT, "it is right of it")]


class Judge:
    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []  # type: ignore[var-annotated]

    async def ask(self, request: JudgeRequest) -> Any:
        self.asked.append(request)
        return self.answer


def score(text: str, *, consistency: Any = CONSISTENT, sentences: Any = VERDICTS, ask_masked: bool = False, heldout: bool = False) -> Any:
    judges = Judge(consistency), Judge(sentences)
    scorer = RolloutScorer(*judges, ask_masked)
    parsed, rollout = asyncio.run(scorer.score(text, ROW, EXTRA, heldout))
    return columns(rollout), [len(judge.asked) for judge in judges], parsed, rollout


def test_judges_are_asked_about_right_answers() -> None:
    row, asked, _, _ = score(RIGHT)
    assert asked == [1, 1]
    assert (row["task"], row["consistency"], row["semantic_grounding"], row["semantic_grounding_scored"]) == (1.0, 1.0, 0.0, 1.0)
    assert tuple(row) == COLUMNS


def test_judges_are_not_asked_where_the_mask_says_no() -> None:
    row, asked, _, _ = score(WRONG)
    assert asked == [0, 0]
    assert row["consistency_scored"] == 0.0
    assert row["consistency_reason"] == float(Reason.MASKED)


@pytest.mark.parametrize(("heldout", "asked"), [(False, 0), (True, 1)])
def test_the_grounding_judge_can_be_kept_for_held_out_questions(heldout: bool, asked: int) -> None:
    judges = Judge(CONSISTENT), Judge(VERDICTS)
    scorer = RolloutScorer(*judges, ask_masked=True, grounding_in_training=False)
    _, rollout = asyncio.run(scorer.score(RIGHT, ROW, EXTRA, heldout))
    assert [len(judge.asked) for judge in judges] == [1, asked]
    row = columns(rollout)
    assert (row["consistency"], row["semantic_grounding_scored"]) == (1.0, float(asked))
    assert row["semantic_grounding_reason"] == float(Reason.SCORED if heldout else Reason.MASKED)


@pytest.mark.parametrize("how", [{"ask_masked": True}, {"heldout": True}])
def test_judges_are_asked_about_wrong_answers_on_wish_and_always_on_held_out_questions(how: dict[str, bool]) -> None:
    row, asked, _, _ = score(WRONG, **how)
    assert asked == [1, 1]
    assert row["consistency_scored"] == 1.0


@pytest.mark.parametrize("reason", [Reason.JUDGE_ERROR, Reason.JUDGE_TIMEOUT, Reason.JUDGE_UNAVAILABLE])
def test_a_failed_judge_is_unscored_with_its_reason_and_never_zero_and_scored(reason: Reason) -> None:
    row, _, _, _ = score(RIGHT, consistency=Score(None, reason), sentences=Score(None, reason))
    assert tuple(row) == COLUMNS
    for signal in ("consistency", "semantic_grounding"):
        assert row[f"{signal}_scored"] == 0.0
        assert row[f"{signal}_reason"] == float(reason)
    assert row["task"] == 1.0  # the finished rollout is not thrown away


def test_what_judges_see_has_no_none() -> None:
    _, _, parsed, _ = score("")
    request = request_from(parsed, {"options": None, "scene_json": None})
    assert (request.uid, request.options, request.answer, request.scene_json) == ("", (), "", "")


def test_details_are_json_for_the_viewer() -> None:
    _, _, parsed, rollout = score(RIGHT)
    details = json.loads(details_json(parsed, rollout))
    assert details["sentences"] == [
        {"text": SENTENCE, "start": 0, "end": len(SENTENCE), "verdict": "INCORRECT", "why": "it is right of it"}
    ]


def test_only_the_grounding_judge_gets_the_images_and_the_frames_of_its_boxes() -> None:
    consistency, grounding = Judge(CONSISTENT), Judge(VERDICTS)
    extra = {**EXTRA, "img_wh": [[100, 60], [40, 40]], "min_pixels": 784, "max_pixels": 7840}
    asyncio.run(RolloutScorer(consistency, grounding, False).score(RIGHT, ROW, extra, False, images=[b"one", b"two"]))
    assert (consistency.asked[0].images, consistency.asked[0].frames) == ((), ())
    # 100 x 60 -> 112 x 56 (multiples of 28, 6272 pixels <= 7840); 40 x 40 -> 28 x 28
    assert (grounding.asked[0].images, grounding.asked[0].frames) == ((b"one", b"two"), ((112, 56), (28, 28)))


def test_images_of_a_prompt_keep_their_order_and_their_bytes() -> None:
    picture = Image.new("RGB", (3, 2), "red")
    messages = [
        {"role": "system", "content": "Look."},
        {
            "role": "user",
            "content": [
                {"type": "image", "bytes": b"file", "image": picture},
                {"type": "text", "text": "?"},
                {"type": "image", "image": picture},
            ],
        },
    ]
    first, second = prompt_images(np.array(messages, dtype=object))
    assert first == b"file"
    assert Image.open(io.BytesIO(second)).size == (3, 2)


def test_an_image_that_cannot_be_read_any_more_keeps_its_place() -> None:
    four_colours = Image.new("CMYK", (3, 2))  # which PNG does not know
    parts = [{"type": "image", "image": "file:///no/such.png"}, {"type": "image", "image": four_colours}, {"type": "image", "bytes": b"x"}]
    assert prompt_images([{"role": "user", "content": parts}]) == [b"", b"", b"x"]


def test_held_out_responses_can_be_judged_by_exact_rules_while_a_model_judges_training() -> None:
    """The model calls everything consistent; the reasoning concludes left and answers right."""
    text = "<think>So the answer is left.</think><answer>B</answer>"
    extra = {**EXTRA, "question": "Is the red circle left or right of the blue square?"}
    model = Judge(Score(0.99)), Judge([])
    scorer = RolloutScorer(*model, ask_masked=True, heldout_judges=(ExactJudge("consistency"), ExactJudge("grounding")))
    found = [columns(asyncio.run(scorer.score(text, ROW, extra, heldout))[1]) for heldout in (False, True)]
    assert [row["consistency"] for row in found] == [0.99, 0.0]
    assert [len(judge.asked) for judge in model] == [1, 1]


def test_a_design_reaches_the_task_reward() -> None:
    judges = Judge(CONSISTENT), Judge(VERDICTS)
    scorer = RolloutScorer(*judges, ask_masked=False, design=DESIGNS["only_accuracy"])
    parsed, rollout = asyncio.run(scorer.score("<answer>A</answer>", ROW, EXTRA, heldout=False))
    row = columns(rollout)
    assert parsed.well_formed
    assert (row["task"], row["format"], row["answer_credit"], row["think_tag"]) == (1.0, 1.0, 1.0, 0.0)
    assert tuple(row) == COLUMNS
