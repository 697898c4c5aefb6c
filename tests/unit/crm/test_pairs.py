"""Premise and hypothesis of a rollout; pairs from dumps of runs, labelled by their own judge; splits by question."""

import json
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.config import ConfigError
from faithful_rl.crm import pairs
from faithful_rl.crm.pairs import Pair
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.response import parse
from faithful_rl.rewards.designs import DESIGNS

OPTIONS = ("left", "right")


def request(reasoning: str = "So the answer is left.", answer: str = "A") -> JudgeRequest:
    return JudgeRequest("q1", "Is the red circle left or right of the blue square?", OPTIONS, reasoning, answer)


def test_the_question_carries_its_lettered_options_and_the_hypothesis_letter_and_text() -> None:
    question, thinking, answer = pairs.of_request(request())
    assert question == "Is the red circle left or right of the blue square?\nA) left\nB) right"
    assert thinking == "So the answer is left."
    assert pairs.hypothesis(answer) == "The final answer is A) left"


@pytest.mark.parametrize(
    ("answer", "stated"),
    [
        ("A", "A) left"),
        ("(b).", "B) right"),
        ("right", "B) right"),
        ("A. left", "A) left"),
        ("A or B", "A or B"),  # hedged: no one option
        ("E", "E"),
        ("  it is \n purple ", "it is purple"),
        ("", ""),
    ],
)
def test_an_answer_is_stated_as_the_option_that_it_names(answer: str, stated: str) -> None:
    assert pairs.stated(answer, OPTIONS) == stated


def test_an_open_answer_stays_and_an_endless_one_is_cut() -> None:
    assert pairs.stated("3:05", ()) == "3:05"
    assert len(pairs.stated("x" * 5000, ())) == pairs.ANSWER_CHARACTERS


def test_boxes_are_left_out_of_the_thinking() -> None:
    text = "The red circle is in the upper left <bbox>[2,2,26,26]</bbox>.\n It is <bbox>broken."
    assert pairs.without_boxes(text) == "The red circle is in the upper left. It is <bbox>broken."


def test_a_swapped_answer_is_another_option() -> None:
    other = pairs.swapped(request(), Random(0))
    assert other is not None
    assert (other.answer, other.reasoning) == ("B", "So the answer is left.")
    assert pairs.swapped(request(answer="E"), Random(0)) is None


def test_a_label_lies_between_0_and_1() -> None:
    with pytest.raises(ValueError, match=r"a label lies in \[0, 1\], got 1.5"):
        Pair("q", "?", "t", "a", 1.5)


def row(**values: object) -> dict[str, object]:
    columns = {"consistency": 1.0, "consistency_scored": 1.0}
    base = {
        "uid": "q1",
        "question": "Left or right?",
        "options": list(OPTIONS),
        "response": "<think>So the answer is left.</think><answer>A</answer>",
    }
    return {**base, "columns": columns, **values}


def test_a_dump_of_a_run_gives_requests_and_its_own_judges_labels(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    unscored = row(columns={"consistency": 0.0, "consistency_scored": 0.0})
    (tmp_path / "rollouts" / "step_000001.jsonl").write_text("\n".join(json.dumps(one) for one in (row(), unscored)) + "\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    rows = pairs.read_rows([tmp_path])
    assert len(rows) == 2
    asked = pairs.request_of(rows[0])
    assert (asked.uid, asked.options, asked.reasoning, asked.answer) == ("q1", OPTIONS, "So the answer is left.", "A")
    assert [pairs.own_label(one) for one in rows] == [1.0, None]


@pytest.mark.parametrize(
    ("response", "thinking"),
    [
        (
            "<description>A red circle.</description><think>It is left.</think><rethink>Yes, left.</rethink><answer>A</answer>",
            "A red circle. It is left. Yes, left.",
        ),
        ("<think>It is left.</think><rethink>Yes, left.</rethink><answer>A</answer>", "It is left. Yes, left."),
        ("<think>It <visual>is left</visual>.</think><answer>A</answer>", "It <visual>is left</visual>."),
        ("<description>A red circle. <think>It is left.", "It is left."),  # never closed: the think rule, as in the run
        ("<think>So <rethink>no</rethink>.</think><answer>A</answer>", "So <rethink>no</rethink>."),
    ],
)
def test_the_thinking_is_what_the_judges_of_a_reward_design_read(response: str, thinking: str) -> None:
    """The premise of a pair is the premise that the model gets in a run of that design."""
    asked = pairs.request_of(row(response=response))
    assert pairs.of_request(asked)[1] == thinking
    in_the_run = parse(response, DESIGNS["mixture"].blocks)
    assert asked.reasoning == in_the_run.reasoning


def test_lines_of_a_held_out_evaluation_find_their_question_in_the_data_file(tmp_path: Path) -> None:
    info = {"uid": "q1", "question": "Left or right?", "options": list(OPTIONS)}
    pq.write_table(pa.Table.from_pylist([{"extra_info": info}]), tmp_path / "test.parquet")
    line = {
        "uid": "q1",
        "response": "<think>So the answer is left.</think><answer>B</answer>",
        "consistency": 0.0,
        "consistency_scored": 1.0,
    }
    questions = pairs.read_questions(tmp_path / "test.parquet")
    pair = pairs.labelled(pairs.request_of(line, questions), pairs.own_label(line) or 0.0, "own")
    assert pair == Pair("q1", "Left or right?\nA) left\nB) right", "So the answer is left.", "B) right", 0.0, "own")
    with pytest.raises(ConfigError, match="without its question"):
        pairs.request_of(line, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "one JSON object per line"), ('{"uid": "a"}', "row 1 of .* without text in `response`"), ("[1]", "without text in `response`")],
)
def test_a_bad_dump_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "rollouts.jsonl"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        pairs.read_rows([file])
    with pytest.raises(ConfigError, match="no file"):
        pairs.read_rows([tmp_path / "absent.jsonl"])


def test_pairs_survive_a_file(tmp_path: Path) -> None:
    made = [Pair("q1", "?\nA) x", "So the answer is x.", "A) x", 1.0, "own"), Pair("q2", "é", "", "", 0.0)]
    file = pairs.write_pairs(made, tmp_path / "deep" / "pairs.parquet")
    assert pairs.read_pairs([file]) == made
    assert pairs.content_hash(made) == pairs.content_hash(pairs.read_pairs([file])) != pairs.content_hash(made[::-1])
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    with pytest.raises(ConfigError, match=r"faithful_rl.crm.pairs"):
        pairs.read_pairs([tmp_path / "other.parquet"])


@given(st.text(max_size=20))
def test_a_question_is_on_one_side_of_the_split(uid: str) -> None:
    assert pairs.split_of(uid) == pairs.split_of(uid)
    assert pairs.split_of(uid) in ("train", "valid", "test")


def test_the_split_keeps_its_shares() -> None:
    sides = [pairs.split_of(f"q{index}") for index in range(4000)]
    assert 0.07 < sides.count("test") / 4000 < 0.13
    assert 0.07 < sides.count("valid") / 4000 < 0.13


@given(st.text(max_size=200), st.lists(st.text(max_size=10), max_size=5), st.text(max_size=200), st.text(max_size=50))
def test_any_text_makes_a_pair(question: str, options: list[str], reasoning: str, answer: str) -> None:
    texts = pairs.of_request(JudgeRequest("u", question, tuple(options), reasoning, answer))
    assert all(isinstance(text, str) for text in texts)
    assert len(texts[2]) <= max(pairs.ANSWER_CHARACTERS, 13)
