"""CIoU by hand, and the two frames of Qwen2.5-VL against published sizes."""

import math

import numpy as np
import pytest

from faithful_rl.geometry import as_array, ciou_matrix, smart_resize, to_original, to_resized
from faithful_rl.types import Box

QWEN_DEFAULT = {"min_pixels": 3136, "max_pixels": 12_845_056}


def test_ciou_of_shifted_squares_by_hand():
    # overlap 1 of union 7; centres sqrt(2) apart, enclosing diagonal sqrt(18); same aspect
    assert ciou_matrix([[0, 0, 2, 2]], [[1, 1, 3, 3]])[0, 0] == pytest.approx(1 / 7 - 2 / 18, abs=1e-7)


def test_ciou_with_another_aspect_by_hand():
    # overlap 4 of union 8; centres 1 apart, diagonal sqrt(20); square against 2 : 1
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    expected = 0.5 - 1 / 20 - v * v / (0.5 + v)
    assert expected == pytest.approx(0.446752, abs=1e-6)
    assert ciou_matrix([[0, 0, 2, 2]], [[0, 0, 4, 2]])[0, 0] == pytest.approx(expected, abs=1e-6)


def test_ciou_is_one_for_equal_boxes_and_negative_for_distant_ones():
    scores = ciou_matrix([[0, 0, 10, 10], [90, 90, 100, 100]], [[0, 0, 10, 10]])
    assert scores[0, 0] == pytest.approx(1.0, abs=1e-12)
    assert scores[1, 0] == pytest.approx(-(90**2) / 100**2, abs=1e-6)


def test_ciou_of_boxes_without_area_is_defined():
    point, line = [5, 5, 5, 5], [0, 5, 10, 5]
    scores = ciou_matrix([point, line], [point, line])
    assert np.isfinite(scores).all()
    assert scores[0, 0] == 0.0
    assert (scores <= 0.0).all()


def test_ciou_shapes():
    assert ciou_matrix(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)
    assert ciou_matrix([[0, 0, 1, 1]] * 3, [[0, 0, 1, 1]] * 2).shape == (3, 2)
    assert ciou_matrix([], []).shape == (0, 0)
    assert as_array([]).shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 1]], "shape"),
        ([0, 0, 1, 1], "shape"),
        ([[0, 0, math.nan, 1]], "finite"),
        ([[0, 0, math.inf, 1]], "finite"),
        ([[0, 0, 1e10, 1]], "finite"),
        ([[2, 0, 1, 1]], "corners"),
    ],
)
def test_ciou_refuses_what_is_no_box(boxes, message):
    with pytest.raises(ValueError, match=message):
        ciou_matrix(boxes, [[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("height", "width", "limits", "expected"),
    [
        (480, 640, QWEN_DEFAULT, (476, 644)),
        (512, 512, QWEN_DEFAULT, (504, 504)),
        (336, 500, QWEN_DEFAULT, (336, 504)),
        (1080, 1920, QWEN_DEFAULT, (1092, 1932)),
        (3000, 4000, QWEN_DEFAULT, (2996, 4004)),
        (5000, 8000, QWEN_DEFAULT, (2828, 4508)),
        (20, 20, QWEN_DEFAULT, (56, 56)),
        (1080, 1920, {"min_pixels": 3136, "max_pixels": 1_003_520}, (728, 1316)),
        (3000, 4000, {"min_pixels": 3136, "max_pixels": 1_003_520}, (840, 1148)),
        (480, 640, {"min_pixels": 1_003_520, "max_pixels": 12_845_056}, (868, 1176)),
        (336, 500, {"min_pixels": 1_003_520, "max_pixels": 12_845_056}, (840, 1232)),
        (419, 624, QWEN_DEFAULT, (420, 616)),
        (1773, 2364, QWEN_DEFAULT, (1764, 2352)),
        (665, 886, QWEN_DEFAULT, (672, 896)),
        (112, 112, QWEN_DEFAULT, (112, 112)),
    ],
)
def test_smart_resize_gives_the_published_sizes(height, width, limits, expected):
    assert smart_resize(height, width, **limits) == expected


@pytest.mark.parametrize(
    ("height", "width", "limits", "message"),
    [
        (0, 10, QWEN_DEFAULT, "at least 1"),
        (10, 2010, QWEN_DEFAULT, "aspect ratio"),
        (10, 10, {"min_pixels": 10, "max_pixels": 9}, "pixel limits"),
        (10, 10, {"min_pixels": 0, "max_pixels": 9}, "pixel limits"),
    ],
)
def test_smart_resize_refuses(height, width, limits, message):
    with pytest.raises(ValueError, match=message):
        smart_resize(height, width, **limits)


def test_to_resized_gives_the_numbers_of_the_official_notebook():
    limits = {"min_pixels": 56 * 56, "max_pixels": 14 * 14 * 4 * 1280}
    assert to_resized(Box(146, 137, 615, 415), (640, 428), **limits) == Box(147, 134, 619, 407)


def test_to_resized_stays_inside_the_image():
    assert to_resized(Box(-5, -5, 700, 500), (640, 480), **QWEN_DEFAULT) == Box(0, 0, 643, 475)


def test_to_original_undoes_the_scale():
    assert to_original(Box(0, 0, 644, 476), (640, 480), **QWEN_DEFAULT) == Box(0, 0, 640, 480)
