"""Sizes and boxes of every resize chain: the table of the datasets' notes, hand-worked boxes, and citations in text."""

import sys

import pytest

from data_prep.frames import MAX_PIXELS, MIN_PIXELS, Frame, check_model, from_mapping, pad, processor_size, unpad, write_box
from faithful_rl.config import ConfigError
from faithful_rl.types import Box

DEFAULT = {"min_pixels": 3136, "max_pixels": 12_845_056}
OPEN = Frame("verl", **DEFAULT)
NOTEBOOK = Frame("verl", 3136, 1_003_520)
TREEVGR = Frame("verl", 1_003_520, 12_845_056)
EASYR1 = Frame("easyr1", 262_144, 4_194_304)
LLAMA_FACTORY = Frame("llama_factory", 1_024, 589_824)


# (height, width) as the notes give them
@pytest.mark.parametrize(
    ("frame", "original", "steps"),
    [
        (OPEN, (480, 640), [(476, 644)]),
        (OPEN, (512, 512), [(504, 504)]),
        (OPEN, (336, 500), [(336, 504)]),
        (OPEN, (1080, 1920), [(1092, 1932)]),
        (OPEN, (3000, 4000), [(2996, 4004)]),
        (OPEN, (5000, 8000), [(2828, 4508)]),
        (OPEN, (20, 20), [(56, 56)]),
        (NOTEBOOK, (1080, 1920), [(728, 1316)]),
        (NOTEBOOK, (3000, 4000), [(840, 1148)]),
        (TREEVGR, (480, 640), [(868, 1176)]),
        (TREEVGR, (336, 500), [(840, 1232)]),
        (EASYR1, (336, 500), [(419, 624), (420, 616)]),
        (EASYR1, (3000, 4000), [(1773, 2364), (1764, 2352)]),
        (LLAMA_FACTORY, (3000, 4000), [(665, 886), (672, 896)]),
        (LLAMA_FACTORY, (1080, 1920), [(576, 1024), (588, 1036)]),
        (Frame("processor", **DEFAULT), (480, 640), [(476, 644)]),
    ],
)
def test_table_of_sizes(frame: Frame, original: tuple[int, int], steps: list[tuple[int, int]]) -> None:
    height, width = original
    found = [(h, w) for w, h in frame.steps((width, height))]
    assert found == (steps if len(found) == len(steps) else [steps[0], steps[0]])  # in verl the second step changes nothing
    assert frame.size((width, height)) == (steps[-1][1], steps[-1][0])


def test_the_official_notebook_box() -> None:
    frame = Frame("processor", 56 * 56, 14 * 14 * 4 * 1280)
    assert frame.size((640, 428)) == (644, 420)
    assert frame.to_model(Box(146, 137, 615, 415), (640, 428)).as_list() == [147, 134, 619, 407]


def test_limits_that_differ_between_the_steps_take_two_steps() -> None:
    frame = Frame("verl", 3136, 12_845_056, 3136, 1_003_520)
    assert frame.steps((4000, 3000)) == [(4004, 2996), (1148, 840)]


def test_images_thinner_than_half_a_patch_differ_between_libraries() -> None:
    # transformers rounds 10 pixels to 0 and then enlarges to the minimum; qwen_vl_utils keeps the length
    assert processor_size((2000, 10), 3136, 1_003_520) == (812, 28)
    assert NOTEBOOK.size((2000, 10)) == (1988, 28)
    with pytest.raises(ValueError, match="aspect ratio"):
        processor_size((2001, 10), 3136, 1_003_520)


def test_citations_are_rewritten_in_the_models_frame() -> None:
    text = "A <bbox>[320,120,480,360]</bbox> and <bbox>[ 0, 0, 640.0, 480 ]</bbox>; <bbox> open"
    # 640 x 480 becomes 644 x 476
    assert Frame().cite(text, (640, 480)) == "A <bbox>[322,119,483,357]</bbox> and <bbox>[0,0,643,475]</bbox>; <bbox> open"
    assert write_box(Box(1.4, 2.6, 3.0, 4.0)) == "<bbox>[1,3,3,4]</bbox>"
    with pytest.raises(ValueError, match="not four numbers"):
        Frame().cite("<bbox>[1,2,3]</bbox>", (640, 480))


def test_unpadding_by_hand() -> None:
    # 640 x 427: side 640, nothing left and right, (640 - 427) // 2 = 106 above
    assert unpad((0.15625, 0.478125, 0.46875, 0.790625), (640, 427)).as_list() == [100, 200, 300, 400]
    assert pad(Box(100, 200, 300, 400), (640, 427)) == (0.15625, 0.478125, 0.46875, 0.790625)


def test_pinned_limits_and_wrong_ones() -> None:
    assert (MIN_PIXELS, MAX_PIXELS) == (3136, 1_003_520)
    assert from_mapping(Frame().as_dict()) == Frame()
    with pytest.raises(ConfigError, match="easyr1"):
        Frame("easy")
    with pytest.raises(ConfigError, match="minimum <= maximum"):
        Frame(min_pixels=10, max_pixels=9)
    with pytest.raises(ConfigError, match=r"frame\.pixels"):
        from_mapping({"pixels": 3})


def test_a_processor_whose_libraries_do_not_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it raises ImportError
    with pytest.raises(ConfigError, match=r"processor libraries that do not load .*leave model= out"):
        check_model("models/none", Frame())
