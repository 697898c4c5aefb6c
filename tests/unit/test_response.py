"""The response parser on every shape of good and bad text."""

import pytest

from faithful_rl.response import MAX_COORDINATE, box_spans, parse, parse_box
from faithful_rl.types import Box

GOOD = "<think>The cup is at <bbox>[1, 2, 3.5, 4]</bbox>.</think>\n<answer>B</answer>"


def test_a_good_response_is_taken_apart():
    parsed = parse(GOOD)
    assert parsed.well_formed
    assert parsed.reasoning == "The cup is at <bbox>[1, 2, 3.5, 4]</bbox>."
    assert parsed.answer == "B"
    assert parsed.boxes == (Box(1.0, 2.0, 3.5, 4.0),)
    assert parsed.invalid_boxes == 0
    assert parsed.text == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>b</answer>",
        " \n<think>a</think>\n\n<answer>b</answer>\t\n",
        "<think></think><answer></answer>",
        "<think>a\nb</think><answer>\nb\n</answer>",
    ],
)
def test_exactly_think_then_answer_is_well_formed(text):
    assert parse(text).well_formed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "B",
        "<answer>b</answer>",
        "<think>a</think>",
        "<answer>b</answer><think>a</think>",
        "<think>a</think>so<answer>b</answer>",
        "well <think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer> done",
        "<think>a</think><answer>b</answer><|im_end|>",
        "<think>a<think>b</think></think><answer>b</answer>",
        "<think>a</think><think>b</think><answer>b</answer>",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "<think>a</think><answer>b<answer>c</answer></answer>",
        "<think>a<answer>b</answer></think>",
        "<think>a</think><answer>b",
        "<think>a<answer>b</answer>",
        "</think>a<think></answer>b<answer>",
        "<THINK>a</THINK><ANSWER>b</ANSWER>",
        "< think>a</think><answer>b</answer>",
    ],
)
def test_anything_else_is_malformed(text):
    assert not parse(text).well_formed


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("", "", None),
        ("just words", "", None),
        ("<think>cut at the limit", "cut at the limit", None),
        ("<think>no end<answer>C</answer>", "no end", "C"),
        ("<think>a</think><think>b</think><answer>C</answer>", "a", "C"),
        ("<answer>A</answer><think>late</think>", "late", "A"),
        ("<think>a</think><answer>A</answer><answer>B</answer>", "a", "B"),
        ("<think>a</think><answer>A<answer>B</answer></answer>", "a", "B"),
        ("<think>a</think><answer>A</answer><answer>B", "a", "A"),
        ("<think>a</think><answer>A", "a", None),
        ("<think>a</think><answer>  </answer>", "a", ""),
    ],
)
def test_malformed_text_is_read_as_far_as_it_goes(text, reasoning, answer):
    parsed = parse(text)
    assert (parsed.reasoning, parsed.answer) == (reasoning, answer)


@pytest.mark.parametrize(
    ("content", "box"),
    [
        ("[1,2,3,4]", Box(1, 2, 3, 4)),
        (" [ 1 , 2 ,\n3 , 4 ] ", Box(1, 2, 3, 4)),
        ("1, 2, 3, 4", Box(1, 2, 3, 4)),
        ("[.5,2.,3.25,1e1]", Box(0.5, 2, 3.25, 10)),
        ("[-3,-4,5,6]", Box(-3, -4, 5, 6)),
        ("[30,40,10,20]", Box(10, 20, 30, 40)),
        ("[10,40,30,20]", Box(10, 20, 30, 40)),
        ("[7,7,7,7]", Box(7, 7, 7, 7)),
        (f"[0,0,{MAX_COORDINATE:.0f},1]", Box(0, 0, MAX_COORDINATE, 1)),
    ],
)
def test_boxes_that_are_read(content, box):
    assert parse_box(content) == box


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[1,2,3]",
        "[1,2,3,4,5]",
        "[1 2 3 4]",
        "[1,2,3,four]",
        "[nan,2,3,4]",
        "[NaN,NaN,NaN,NaN]",
        "[1,2,inf,4]",
        "[1,2,-Infinity,4]",
        "[1,2,1e999,4]",
        "[1,2,1e7,4]",
        "[1,2,0x10,4]",
        "[1_0,2,3,4]",
        "[[1,2,3,4]]",
        "[1,2,3,4",
        "[\u0661,\u0662,\u0663,\u0664]",  # Arabic-Indic digits
        "[\uff11,2,3,4]",  # full-width one
        "[1\u00b2,2,3,4]",  # superscript two
        "[1,2,3," + "4" * 1000 + "]",
        "[1,2,3,4]" + " " * 1000,
    ],
)
def test_what_is_no_box(content):
    assert parse_box(content) is None


def test_boxes_count_only_inside_the_reasoning():
    parsed = parse("<bbox>[9,9,9,9]</bbox><think><bbox>[1,2,3,4]</bbox></think><answer><bbox>[5,6,7,8]</bbox></answer>")
    assert parsed.boxes == (Box(1, 2, 3, 4),)


def test_every_opening_without_a_box_is_counted_invalid():
    parsed = parse(
        "<think><bbox>[1,2,3,4]</bbox> <bbox>[a]</bbox> <bbox> <bbox>[5,6,7,8]</bbox> </bbox> <bbox>[1,2,3,4]</think><answer>A</answer>"
    )
    assert parsed.boxes == (Box(1, 2, 3, 4), Box(5, 6, 7, 8))
    assert parsed.invalid_boxes == 3  # [a], the outer one of the nested pair, the unclosed one


def test_box_spans_cover_the_tags():
    text = "at <bbox>[1,2,3,4]</bbox>, <bbox>x</bbox>"
    assert [text[start:end] for start, end in box_spans(text)] == ["<bbox>[1,2,3,4]</bbox>", "<bbox>x</bbox>"]


def test_ten_thousand_boxes():
    parsed = parse("<think>" + "<bbox>[1,2,3,4]</bbox>" * 10_000 + "</think><answer>A</answer>")
    assert parsed.well_formed
    assert len(parsed.boxes) == 10_000


@pytest.mark.timeout(60)  # quadratic reading of these takes minutes
@pytest.mark.parametrize(
    "piece", ["<bbox>", "<think>", "<answer>", "</think>", "<bbox>[1,", "<", "<think><answer>", "<bbox></bbox", "[1,2,3,4"]
)
def test_hostile_repetition_is_read_in_linear_time(piece):
    parsed = parse("<think>" + piece * 200_000)
    assert not parsed.well_formed
    assert parsed.boxes == ()
