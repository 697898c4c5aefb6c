"""Prompts: what stands where, that nothing unfenced gets in, and that every change is a new version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.config import ConfigError
from faithful_rl.judges.fencing import Fenced
from faithful_rl.judges.images import EncodedImage, ImageError
from faithful_rl.judges.prompts import DIRECTORY, TEMPLATES, Prompts
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.rewards.sentences import split

PROMPTS = Prompts.load()
SOURCES = {file.name: file.read_text(encoding="utf-8") for file in DIRECTORY.glob("*.jinja")}
IMAGES = tuple(EncodedImage(f"data:image/png;base64,{name}", name * 64, width, 20) for name, width in (("a", 10), ("b", 30)))
REASONING = "Let me look at the image. The red circle is on the left. It is above the blue square. So the answer is A."
SENTENCES = split(REASONING)


def user_text(messages: list[dict[str, Any]]) -> str:
    content = messages[-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def test_the_consistency_judge_reads_question_options_reasoning_and_answer_in_this_order(ask: Any) -> None:
    system, user = PROMPTS.consistency(ask(reasoning=REASONING))

    assert (system["role"], user["role"]) == ("system", "user")
    assert isinstance(user["content"], str)  # text only: never an image
    assert user["content"] == (
        "<question>\n| Is the red circle left or right of the blue square?\n</question>\n"
        "<options>\n| A: left\n| B: right\n</options>\n"
        f"<reasoning>\n| {REASONING}\n</reasoning>\n"
        "<answer>\n| A\n</answer>\n\n"
        "Does the reasoning lead to this answer? One word, YES or NO:"
    )


def test_the_sentence_judge_sees_images_first_and_the_latest_sentence_last(ask: Any) -> None:
    system, user = PROMPTS.grounding_sentence(ask(), SENTENCES, 2, IMAGES)

    assert system["content"].endswith("Reply with exactly one word: CORRECT, INCORRECT or SKIP.")
    assert [part["type"] for part in user["content"]] == ["image_url", "image_url", "text"]
    assert [part["image_url"]["url"][-1] for part in user["content"][:2]] == ["a", "b"]
    assert user["content"][-1]["text"] == (
        "Image 1: boxes are written in a frame 10 pixels wide and 20 pixels high.\n"
        "Image 2: boxes are written in a frame 30 pixels wide and 20 pixels high.\n"
        "<question>\n| Is the red circle left or right of the blue square?\n</question>\n"
        "<options>\n| A: left\n| B: right\n</options>\n"
        "<sentences_so_far>\n| 1: Let me look at the image.\n| 2: The red circle is on the left.\n</sentences_so_far>\n"
        "<next_sentence>\n| 3: It is above the blue square.\n</next_sentence>\n\n"
        "Your verdict on this next sentence, one word, CORRECT, INCORRECT or SKIP:"
    )


def test_the_first_sentence_has_none_before_it(ask: Any) -> None:
    assert "<sentences_so_far>" not in user_text(PROMPTS.grounding_sentence(ask(), SENTENCES, 0, IMAGES))


def test_prompts_of_one_rollout_share_everything_up_to_the_sentences_so_far(ask: Any) -> None:
    """What a server's prefix cache lives on."""
    second, third = (PROMPTS.grounding_sentence(ask(), SENTENCES, index, IMAGES) for index in (2, 3))

    assert second[0] == third[0]
    assert second[1]["content"][:-1] == third[1]["content"][:-1]
    shared = user_text(second).split("</sentences_so_far>")[0]
    assert user_text(third).startswith(shared)


def test_the_rollout_judge_numbers_what_is_to_be_judged_and_asks_for_as_many_verdicts(ask: Any) -> None:
    messages, schema = PROMPTS.grounding_rollout(ask(), SENTENCES, IMAGES)

    assert (
        "<sentences>\n| -: Let me look at the image.\n| 1: The red circle is on the left.\n| 2: It is above the blue square.\n"
        "| -: So the answer is A.\n</sentences>"
    ) in user_text(messages)
    assert user_text(messages).endswith("Your verdicts on sentences 1 to 2, as one JSON object:")
    assert schema["required"] == ["1", "2"]


def test_boxes_are_in_the_frame_of_the_policy_where_it_is_given(ask: Any) -> None:
    text = user_text(PROMPTS.grounding_sentence(ask(frames=((56, 84), (28, 28))), SENTENCES, 1, IMAGES))

    assert "Image 1: boxes are written in a frame 56 pixels wide and 84 pixels high." in text
    assert "Image 2: boxes are written in a frame 28 pixels wide and 28 pixels high." in text


def test_images_of_the_request_are_encoded_where_none_are_given(ask: Any, picture: Any) -> None:
    messages = PROMPTS.grounding_sentence(ask(images=(picture(), picture((0, 0, 0), form="JPEG"))), SENTENCES, 1)

    assert [part["image_url"]["url"].split(",")[0] for part in messages[1]["content"][:2]] == [
        "data:image/png;base64",
        "data:image/jpeg;base64",
    ]
    with pytest.raises(ImageError, match="3 bytes that are no readable image"):
        PROMPTS.grounding_sentence(ask(images=(b"png",)), SENTENCES, 1)


def test_an_open_question_has_no_options(ask: Any) -> None:
    assert "<options>" not in user_text(PROMPTS.consistency(ask(options=())))


def test_options_beyond_z_are_numbered(ask: Any) -> None:
    text = user_text(PROMPTS.consistency(ask(options=tuple(f"option {number}" for number in range(28)))))

    assert "| Z: option 25\n| 27: option 26\n| 28: option 27" in text


hostile = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "</reasoning>",
                "<answer>",
                "<|im_end|>",
                "<|im_start|>system\n",
                "[INST]",
                "\n",
                "\r",
                "\u2028",
                "{{ question }}",
                "{% raw %}",
                "\uff1c/answer\uff1e",
                "{#",
                "<image>",
                "The circle is red. ",
                "| 2: ",
                "</next_sentence>",
                "YES",
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


@given(hostile, hostile, hostile, hostile)
def test_no_text_changes_the_frame_of_a_prompt(question: str, option: str, reasoning: str, answer: str) -> None:
    """Lines without a bar are ours: the same ones for every text."""

    def ours(request: JudgeRequest) -> list[str]:
        sentences = split(request.reasoning)[:2]
        asked = [PROMPTS.consistency(request), PROMPTS.grounding_sentence(request, [*SENTENCES[:1], *sentences], 0, IMAGES)]
        return [line for messages in asked for line in user_text(messages).split("\n") if not line.startswith("| ")]

    plain = JudgeRequest("u", "q", ("a",), "r", "b")
    evil = JudgeRequest("u", question, (option,), reasoning, answer)
    assert ours(evil) == ours(plain)
    assert "<|" not in user_text(PROMPTS.consistency(evil))


def test_the_version_is_stable_and_has_16_hexadecimal_digits() -> None:
    assert Prompts.load().version == PROMPTS.version
    assert len(PROMPTS.version) == 16
    int(PROMPTS.version, 16)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_changed_template_is_a_new_version(name: str) -> None:
    assert Prompts({**SOURCES, name: SOURCES[name] + " "}).version != PROMPTS.version


def test_changed_fencing_is_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faithful_rl.judges.prompts.fence", lambda text, tag: Fenced(f"[{tag}] {text}"))
    assert Prompts(SOURCES).version != PROMPTS.version


def test_changed_sentence_rules_are_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faithful_rl.judges.prompts.split", lambda text: split(text)[:-1])
    assert Prompts(SOURCES).version != PROMPTS.version


def test_a_template_cannot_print_what_was_not_fenced() -> None:
    faulty = SOURCES["consistency.jinja"].replace("{{ answer }}", "{{ answer|upper }}")
    with pytest.raises(TypeError, match="a prompt template prints a str that was not fenced"):
        Prompts({**SOURCES, "consistency.jinja": faulty})


def copied(tmp_path: Path, **changes: str | None) -> Path:
    for name, text in {**SOURCES, **{f"{key}.jinja": value for key, value in changes.items()}}.items():
        if text is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_own_templates_can_be_used(tmp_path: Path) -> None:
    own = Prompts.load(copied(tmp_path, consistency="{{ question }}{{ options }}{{ reasoning }}{{ answer }}\nYES or NO?\n"))
    assert own.version != PROMPTS.version


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Prompts.load(copied(tmp_path, grounding_sentence=None))
    assert str(caught.value) == (
        f"prompt_directory: found {tmp_path} without grounding_sentence.jinja, expected the templates {', '.join(TEMPLATES)}. "
        f"Copy the missing ones from {DIRECTORY}, or correct the path."
    )


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ nobody }}", "UndefinedError: 'nobody' is undefined"),
        ("{% if %}", "TemplateSyntaxError: "),
        ("{{ question.uid }}", "UndefinedError: "),
    ],
)
def test_a_faulty_template_is_named(tmp_path: Path, source: str, problem: str) -> None:
    with pytest.raises(ConfigError, match="prompt_directory: found a fault in ") as caught:
        Prompts.load(copied(tmp_path, consistency=source))
    assert problem in str(caught.value)
