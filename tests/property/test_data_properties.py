"""Round trips of frames and options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.frames import CHAINS, Frame, pad, unpad
from data_prep.record import Unusable
from data_prep.sources.fields import clean_box, gold_position, inline_options, shuffled
from faithful_rl.types import Box

SIDES = st.integers(28, 4000)


@st.composite
def boxed(draw: st.DrawFn) -> tuple[tuple[int, int], Box]:
    width, height = draw(SIDES), draw(SIDES)
    x1, y1 = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
    return (width, height), Box(x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))


@given(boxed(), st.sampled_from(CHAINS))
def test_original_to_model_and_back_is_within_rounding(case: tuple[tuple[int, int], Box], chain: str) -> None:
    wh, box = case
    frame = Frame(chain)
    width, height = frame.size(wh)
    assert width % 28 == 0
    assert height % 28 == 0
    inside = frame.to_model(box, wh)
    assert 0 <= inside.x1 <= inside.x2 < width
    assert 0 <= inside.y1 <= inside.y2 < height
    back = frame.to_original(inside, wh)
    # half a pixel of rounding in the model's frame, a whole one at the far edge, which is kept inside
    for found, wanted, scale in zip(back.as_list(), box.as_list(), (wh[0] / width, wh[1] / height) * 2, strict=True):
        assert abs(found - wanted) <= scale * 1.0 + 1e-6


@given(boxed())
def test_the_second_step_of_verl_changes_nothing(case: tuple[tuple[int, int], Box]) -> None:
    first, second = Frame().steps(case[0])
    assert first == second


@given(boxed())
def test_padding_round_trip(case: tuple[tuple[int, int], Box]) -> None:
    wh, box = case
    assert unpad(pad(box, wh), wh).as_list() == pytest.approx(box.as_list(), abs=1e-6)
    x1, y1, x2, y2 = (round(value, 3) for value in pad(box, wh))
    assert unpad((x1, y1, x2, y2), wh).as_list() == pytest.approx(box.as_list(), abs=max(wh) / 2000 + 1e-6)


@given(st.lists(st.text(min_size=1), min_size=2, max_size=8, unique_by=str.casefold), st.data())
def test_shuffled_options_keep_the_gold(options: list[str], data: st.DataObject) -> None:
    gold = data.draw(st.integers(0, len(options) - 1))
    order, position = shuffled(options, gold, data.draw(st.text()))
    assert sorted(order) == sorted(options)
    assert order[position] == options[gold]


@given(
    st.lists(st.from_regex(r"[a-z]{2,8}( [a-z]{2,8})?", fullmatch=True), min_size=2, max_size=6, unique=True),
    st.sampled_from(["\n", " "]),
    st.sampled_from(["{}. ", "({}) ", "{}) "]),
)
def test_inline_options_are_read_back(options: list[str], between: str, label: str) -> None:
    text = between.join(label.format("ABCDEF"[i]) + option for i, option in enumerate(options))
    assert inline_options(f"Which is it?{between}{text}") == ("Which is it?", tuple(options))
    assert gold_position(options[-1].upper() + ".", options) == len(options) - 1


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.integers(-10, 5000) | st.none() | st.booleans(), max_size=6), SIDES, SIDES
)
def test_a_clean_box_is_inside_and_has_area(values: list, width: int, height: int) -> None:
    try:
        (x1, y1, x2, y2), _ = clean_box(values, (width, height))
    except Unusable:
        return
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
