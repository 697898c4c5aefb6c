"""What a chat teacher is shown and how its answers are read."""

import asyncio
import base64
import io
import json
from typing import Any

import pytest
from mcts_scripted import png, record
from PIL import Image as Pillow

from data_prep.mcts.chat_teacher import MAX_TEXT, ChatTeacher, TeacherSettings, one_spelling, read_next, read_rest
from data_prep.mcts.step import Step
from data_prep.mcts.teacher import TeacherFailure
from data_prep.mcts.views import View, region
from data_prep.record import Image
from data_prep.sampling import EndpointSampler, endpoint_sampler
from faithful_rl.config import ConfigError
from faithful_rl.judges.backend import JudgeFailure
from faithful_rl.judges.chat import Completion
from faithful_rl.types import Reason

QUESTION = record(images=(Image(png(200, 100), None, 200, 100),))
VIEW = View(b"", 400, 200)  # twice the image


class FakeSampler:
    model = "fake"

    def __init__(self, *answers: str | JudgeFailure) -> None:
        self.answers, self.asked = list(answers), []  # type: ignore[var-annotated]

    async def sample(
        self, messages: list[dict[str, Any]], *, max_tokens: int, seed: int, json_schema: dict[str, Any] | None = None
    ) -> Completion:
        self.asked.append((messages, max_tokens, seed, json_schema))
        answer = self.answers.pop(0)
        if isinstance(answer, JudgeFailure):
            raise answer
        return Completion(answer, 100, 20)

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def picture(part: dict[str, Any]) -> Pillow.Image:
    return Pillow.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",", 1)[1])))


def test_a_step_is_read_into_original_pixels() -> None:
    text = json.dumps({"thought": "A  cup\n<bbox>[1,2,3,4]</bbox> <think>here", "box": [40, 20, 100, 400], "answer": None})
    assert read_next(text, QUESTION, VIEW, "pixels") == (Step("A cup here", (20.0, 10.0, 50.0, 100.0)),)
    text = json.dumps({"thought": "x", "box": [0, 0, 500, 500], "answer": " B "})
    assert read_next(text, QUESTION, VIEW, "thousandths") == (Step("x", (0.0, 0.0, 100.0, 50.0), "B"),)
    assert read_next('```json\n{"thought": "x", "box": null, "answer": null}\n```', QUESTION, VIEW, "pixels") == (Step("x"),)


@pytest.mark.parametrize("thought", ["a <|im_end|> turn", "a <|vision_start|> view", "half \ud800"])
def test_what_no_file_or_tokenizer_may_hold_is_no_step(thought: str) -> None:
    good = {"thought": "x", "box": None, "answer": "A"}
    assert read_next(json.dumps({**good, "thought": thought}), QUESTION, VIEW, "pixels") == ()
    assert read_next(json.dumps({**good, "answer": thought}), QUESTION, VIEW, "pixels") == ()


@pytest.mark.parametrize(
    ("said", "kept"), [("B", "B"), ("(b)", "B"), ("two", "B"), ("B. two", "B"), ("neither", "neither"), ("A or B", "A or B")]
)
def test_an_answer_has_one_spelling(said: str, kept: str) -> None:
    assert one_spelling(said, QUESTION) == kept
    (step,) = read_next(json.dumps({"thought": "x", "box": None, "answer": said}), QUESTION, VIEW, "pixels")
    assert step.answer == kept


def test_an_open_answer_is_spelled_as_the_gold_one() -> None:
    open_one = record(options=(), gold_index=-1, gold_text="dark red")
    assert [one_spelling(said, open_one) for said in ("Dark red.", "blue", "...")] == ["dark red", "blue", "..."]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        '{"thought": ""}',
        '{"thought": "<image>"}',
        '{"thought": 3}',
        json.dumps({"thought": "x" * (MAX_TEXT + 1)}),
        '{"thought": "x", "box": [1, 2, 3]}',
        '{"thought": "x", "box": "here"}',
        '{"thought": "x", "box": [900, 0, 990, 10]}',
        '{"thought": "x", "box": [5, 5, 5, 9]}',
        '{"thought": "x", "box": [NaN, 0, 1, 1]}',
        '{"thought": "x", "answer": 3}',
        '{"thought": "x", "answer": ""}',
        "[" * 100_000,
    ],
)
def test_an_unusable_answer_is_a_fault_and_no_step(text: str) -> None:
    assert read_next(text, QUESTION, VIEW, "pixels") == ()
    assert read_rest(text, QUESTION, VIEW, "pixels") == ()


def test_the_rest_ends_with_the_answer() -> None:
    text = json.dumps({"steps": [{"thought": "a", "box": None}, {"thought": "b", "box": [0, 0, 400, 200]}], "answer": "A"})
    assert read_rest(text, QUESTION, VIEW, "pixels") == (Step("a"), Step("b", (0.0, 0.0, 200.0, 100.0), "A"))
    assert read_rest(json.dumps({"steps": [{"thought": "a"}, {"thought": ""}], "answer": "A"}), QUESTION, VIEW, "pixels") == ()
    assert read_rest(json.dumps({"steps": [{"thought": "a"}]}), QUESTION, VIEW, "pixels") == ()


def test_the_teacher_sees_the_image_then_the_region_of_the_latest_step() -> None:
    sampler = FakeSampler(
        json.dumps({"thought": "a", "box": None, "answer": None}), json.dumps({"steps": [{"thought": "b"}], "answer": "A"})
    )
    teacher = ChatTeacher(sampler, TeacherSettings(min_pixels=28 * 28, max_pixels=200 * 28 * 28))
    asyncio.run(teacher.next_step(QUESTION, (), seed=5))
    messages, max_tokens, seed, schema = sampler.asked[0]
    content = messages[1]["content"]
    assert (len(content), max_tokens, seed) == (2, 256, 5)
    assert picture(content[0]).size == (196, 112)  # 200 x 100 on the grid of 28
    assert "196 x 112 pixels" in content[-1]["text"]
    assert "A) one\nB) two" in content[-1]["text"]
    assert schema is not None
    reply = asyncio.run(teacher.rest(QUESTION, (Step("there", (50.0, 50.0, 100.0, 100.0)),), seed=6))
    content = sampler.asked[1][0][1]["content"]
    assert len(content) == 3
    assert picture(content[1]).size == (112, 84)  # the region of 100 x 75 around the box
    assert '1. {"thought": "there", "box": [49, 56, 98, 112]}' in content[-1]["text"]  # in the pixels of the first view
    assert reply.steps == (Step("b", answer="A"),)
    assert reply.tokens == 120


def test_regions_shrink_with_their_boxes_and_stay_inside() -> None:
    assert region((50.0, 50.0, 100.0, 100.0), (200, 100)) == (25, 25, 125, 100)
    assert region((0.0, 0.0, 1.0, 1.0), (800, 400)) == (0, 0, 50, 26)  # never narrower than an eighth, as far as the border allows
    assert region((800.0, 400.0, 800.0, 400.0), (800, 400)) == (750, 375, 800, 400)


def test_a_silent_endpoint_is_a_teachers_failure() -> None:
    teacher = ChatTeacher(FakeSampler(JudgeFailure(Reason.JUDGE_TIMEOUT, "late")))
    with pytest.raises(TeacherFailure, match="q: late"):
        asyncio.run(teacher.next_step(QUESTION, (), seed=1))


class FlakyChat:
    model = "m"

    def __init__(self, *failures: JudgeFailure) -> None:
        self.failures, self.seeds = list(failures), []  # type: ignore[var-annotated]

    async def complete(self, messages: Any, *, choices: Any, json_schema: Any, max_tokens: int, deadline: float, seed: int) -> Completion:
        self.seeds.append(seed)
        if self.failures:
            raise self.failures.pop(0)
        return Completion("yes")


def test_passing_failures_are_tried_again() -> None:
    busy = JudgeFailure(Reason.JUDGE_UNAVAILABLE, "busy")
    chat = FlakyChat(busy, busy)
    sampler = EndpointSampler(chat, pause=0.0)  # type: ignore[arg-type]
    assert asyncio.run(sampler.sample([], max_tokens=8, seed=7)).text == "yes"
    assert chat.seeds == [7, 7, 7]
    final = JudgeFailure(Reason.JUDGE_ERROR, "wrong", retryable=False)
    with pytest.raises(JudgeFailure, match="wrong"):
        asyncio.run(EndpointSampler(FlakyChat(final), pause=0.0).sample([], max_tokens=8, seed=7))  # type: ignore[arg-type]
    with pytest.raises(JudgeFailure, match="busy"):
        asyncio.run(EndpointSampler(FlakyChat(*[busy] * 9), attempts=3, pause=0.0).sample([], max_tokens=8, seed=7))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"base_url": ""}, "base_url"),
        ({"model": ""}, "model"),
        ({"temperature": 0.0}, "temperature"),
        ({"guided": "magic"}, "guided"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_a_samplers_mistakes_are_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        endpoint_sampler(**{"base_url": "http://127.0.0.1:1/v1", "model": "m", **changes})
    assert caught.value.key == key
