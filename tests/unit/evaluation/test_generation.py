"""Responses: messages in each mode, retries, failures by kind, and what a crash leaves."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import crafted
import pytest
from model_doubles import ModelDouble, lost, refused, text_of

from data_prep.prompts import system_prompt
from data_prep.record import Image
from faithful_rl.config import ConfigError
from faithful_rl.evaluation.append_log import AppendLog
from faithful_rl.evaluation.generation import GenerationError, ask, generate, probe
from faithful_rl.evaluation.questions import Question, describe_scene, extra_info, from_row, messages
from faithful_rl.evaluation.settings import EvaluationSettings
from faithful_rl.judges.chat import Completion
from faithful_rl.judges.openai_chat import _completion

SETTINGS = EvaluationSettings(model="double", benchmarks=["crafted"], out="out", concurrency=2, max_new_tokens=7)
URL = "data:image/png;base64,"


def question(number: int = 0, **changes: Any) -> Question:
    made = from_row("crafted", crafted.row(f"q{number}"))
    return replace(made, prompt=None, record=replace(made.record, **changes))


def test_messages_with_reasoning_put_images_in_front_and_use_the_trained_prompt() -> None:
    system, user = messages(question(), "reasoning", "think")
    assert system == {"role": "system", "content": system_prompt("think")}
    image, text = user["content"]
    assert image["image_url"]["url"].startswith(URL)
    assert text == {"type": "text", "text": f"{crafted.QUESTION}\nA) left\nB) right"}
    assert [message["role"] for message in messages(question(), "reasoning", "none")] == ["user"]


def test_messages_without_reasoning_send_no_system_turn() -> None:
    (user,) = messages(question(), "no_reasoning", "think")
    assert user["content"][1]["text"].startswith(f"{crafted.QUESTION}\nA) left\nB) right\nDo not reason.")


def test_text_instead_of_an_image_is_an_exact_description() -> None:
    described = (
        "The image is 112 by 112 pixels and shows 2 things: a blue square at <bbox>[70, 70, 100, 100]</bbox>; "
        "a red circle at <bbox>[10, 10, 30, 30]</bbox>."
    )
    assert describe_scene(crafted.SCENE) == described
    _, user = messages(question(), "text_instead_of_image", "think")
    assert user["content"] == f"{described}\n{crafted.QUESTION}\nA) left\nB) right"
    stated = question(metadata={"description": " A dial that shows 3:40. "})
    assert text_of(messages(stated, "text_instead_of_image", "none")).startswith("A dial that shows 3:40.\n")
    with pytest.raises(ValueError, match="no exact description"):
        messages(question(metadata={}), "text_instead_of_image", "none")


def test_a_row_of_data_prep_brings_its_description_in_its_metadata() -> None:
    row = crafted.row("q0")
    row["extra_info"] |= {"scene_json": "", "meta_json": json.dumps({"description": "A dial.", "content": {"hour": 3}})}
    assert text_of(messages(from_row("puzzles", row), "text_instead_of_image", "none")).startswith("A dial.\n")
    row["extra_info"]["meta_json"] = "{"
    assert from_row("puzzles", row).record.metadata == {}


def test_a_rows_own_prompt_is_used_word_by_word() -> None:
    own = from_row("crafted", crafted.row("q0"))
    own = replace(own, prompt=(("system", "Be brief."), ("user", "<image>Look: <image>")))
    two = replace(own, record=replace(own.record, images=own.record.images * 2))
    system, user = messages(two, "reasoning", "think")
    assert system["content"] == "Be brief."
    assert [part["type"] for part in user["content"]] == ["image_url", "text", "image_url"]
    with pytest.raises(ValueError, match="2 <image> tags for 1 images"):
        messages(own, "reasoning", "think")


def test_pixel_limits_of_the_row_stand_before_those_of_the_model() -> None:
    facts = extra_info(question(), (3136, 1003520))
    assert (facts["min_pixels"], facts["max_pixels"], len(facts["gt_boxes"])) == (112 * 112, 112 * 112, 2)
    free = replace(question(), limits=None)
    assert extra_info(free, (3136, 1003520))["max_pixels"] == 1003520
    assert extra_info(free, None)["gt_boxes"] == [], "boxes of an unknown frame are not compared"


def one(chat: ModelDouble, *more: ModelDouble, asked: Question | None = None) -> dict[str, Any]:
    return asyncio.run(ask(asked or question(), [chat, *more], SETTINGS))


def test_a_line_says_what_came_back() -> None:
    line = one(ModelDouble(lambda messages, tokens: Completion("text", 40, tokens, "length")))
    assert line == {"uid": "q0", "response": "text", "truncated": True, "response_tokens": 7, "prompt_tokens": 40}
    assert one(ModelDouble(lambda messages, tokens: Completion("text")))["truncated"] is None


def test_an_endpoint_says_whether_it_cut_the_response() -> None:
    def answer(**choice: Any) -> bytes:
        return json.dumps({"choices": [{"message": {"content": "text"}, **choice}], "usage": {"completion_tokens": 7}}).encode()

    assert _completion(answer(finish_reason="length")).finish_reason == "length"
    assert _completion(answer(finish_reason=None)).finish_reason == ""
    assert _completion(answer()) == Completion("text", 0, 7)


def test_a_lost_replica_is_made_up_for_by_the_next() -> None:
    line = one(ModelDouble(lambda *_: lost()), ModelDouble())
    assert line["response"] == "<think>x</think><answer>A</answer>"
    assert one(ModelDouble(lambda *_: lost()))["failure"] == "no answer: no connection"


def test_a_refused_prompt_is_not_asked_again() -> None:
    chat = ModelDouble(lambda *_: refused())
    assert one(chat, ModelDouble())["failure"] == "the model refused the prompt: answered 400: prompt is too long"
    assert len(chat.asked) == 1


def test_an_unreadable_image_is_a_failure_of_its_question(tmp_path: Path) -> None:
    broken = question(images=(Image(crafted.picture()[:40], None, 112, 112),))
    assert one(ModelDouble(), asked=broken)["failure"].startswith("unreadable image: ")
    gone = question(images=(Image(None, str(tmp_path / "gone.png"), 112, 112),))
    assert "gone.png" in one(ModelDouble(), asked=gone)["failure"]


def run(chats: list[ModelDouble], log: Path, numbers: Iterator[int] | range) -> None:
    with AppendLog(log) as kept:
        asyncio.run(generate((question(number) for number in numbers), chats, kept, SETTINGS, lambda: None, lambda: "out of memory"))


def test_every_question_is_asked_once_and_kept(tmp_path: Path) -> None:
    chats = [ModelDouble(), ModelDouble()]
    run(chats, tmp_path / "log.jsonl", range(40))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(line["uid"] for line in lines) == sorted(f"q{number}" for number in range(40))
    assert min(len(chat.asked) for chat in chats) > 0, "both replicas work"


def test_gone_replicas_end_the_generation_with_the_reason_and_keep_what_there_was(tmp_path: Path) -> None:
    answers = iter(range(5))

    def say(*_: Any) -> Any:
        return lost() if next(answers, None) is None else Completion("fine", 1, 1, "stop")

    with pytest.raises(GenerationError, match="no replica of the model answers: out of memory"):
        run([ModelDouble(say, healthy=False)], tmp_path / "log.jsonl", range(100))
    with AppendLog(tmp_path / "log.jsonl") as log:
        assert sum("response" in line for line in log.lines.values()) == 5
        assert len(log.lines) < 100


def test_a_torn_line_is_cut_and_a_later_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"uid": "a", "failure": "no answer"}\n{"uid": "a", "response": "x"}\n{"uid": "b", "resp')
    with AppendLog(path) as log:
        assert log.lines == {"a": {"uid": "a", "response": "x"}}
        log.append({"uid": "b", "response": "y"})
    assert path.read_text().splitlines()[-1] == '{"uid": "b", "response": "y"}'
    path.write_text('{"uid": "a"\n{"uid": "b"}\n')
    with pytest.raises(ConfigError, match="a damaged file"):
        AppendLog(path)
    path.write_text('{"id": "a"}\n')
    with pytest.raises(ConfigError, match="has no uid"):
        AppendLog(path)


def test_a_template_that_does_not_take_the_first_question_is_refused_before_generation() -> None:
    chat = ModelDouble(lambda *_: refused("answered 400: System role not supported"))
    with pytest.raises(ConfigError, match=r"did not take the first question \(answered 400: System role not supported\)"):
        asyncio.run(probe(question(), [chat], SETTINGS))
    asyncio.run(probe(question(), [ModelDouble()], SETTINGS))
