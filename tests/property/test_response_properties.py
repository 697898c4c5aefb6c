"""The parser over text that a policy might write, and text that nobody would."""

import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from faithful_rl.response import MAX_COORDINATE, parse, parse_box
from faithful_rl.types import Box

PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<bbox>",
    "</bbox>",
    "[1,2,3,4]",
    "[nan,1,2,3]",
    "[9,9,1,1]",
    "[\u0661,2,3,4]",
    " ",
    "\n",
    "A",
    "left. ",
]
ragged = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=40).map("".join)
plain = st.text(max_size=60).filter(lambda text: not re.search(r"</?(think|answer|bbox)>", text))
space = st.text(alphabet=" \n\t", max_size=3)
coordinate = st.floats(min_value=-MAX_COORDINATE, max_value=MAX_COORDINATE)


@settings(max_examples=300)
@given(ragged)
def test_no_text_raises_and_every_box_is_ordered_and_finite(text):
    parsed = parse(text)
    assert parsed.text == text
    assert parsed.reasoning in text
    assert parsed.answer is None or parsed.answer in text
    assert len(parsed.boxes) + parsed.invalid_boxes == parsed.reasoning.count("<bbox>")
    for box in parsed.boxes:
        assert all(math.isfinite(value) for value in box.as_list())
        assert box.x1 <= box.x2
        assert box.y1 <= box.y2


@settings(max_examples=300)
@given(ragged)
def test_well_formed_is_what_the_definition_says(text):
    block = r"\s*<think>((?:(?!</?(?:think|answer)>).)*)</think>\s*<answer>((?:(?!</?(?:think|answer)>).)*)</answer>\s*"
    assert parse(text).well_formed == (re.fullmatch(block, text, re.DOTALL) is not None)


@given(plain, plain, space, space, space)
def test_a_well_formed_response_reads_back(reasoning, answer, before, between, after):
    parsed = parse(f"{before}<think>{reasoning}</think>{between}<answer>{answer}</answer>{after}")
    assert parsed.well_formed
    assert parsed.reasoning == reasoning
    assert parsed.answer == answer.strip()


@given(plain, plain, plain.filter(str.strip))
def test_any_text_outside_the_blocks_is_malformed(reasoning, answer, outside):
    good = f"<think>{reasoning}</think><answer>{answer}</answer>"
    assert not parse(outside + good).well_formed
    assert not parse(good + outside).well_formed


@given(coordinate, coordinate, coordinate, coordinate)
def test_a_box_reads_back_with_its_corners_in_order(xa, ya, xb, yb):
    assert parse_box(f"[{xa!r}, {ya!r}, {xb!r}, {yb!r}]") == Box(min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb))


@given(st.text(alphabet="0123456789.,[]+-eEnaif \u0660\u0966\uff10\u00b2", max_size=40))
def test_what_parses_as_a_box_uses_ascii_only(content):
    if parse_box(content) is not None:
        assert content.isascii()
