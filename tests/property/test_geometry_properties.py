"""CIoU against torchvision, matching against brute force, frames against each other."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from faithful_rl.geometry import as_array, ciou_matrix, smart_resize, to_original, to_resized
from faithful_rl.rewards import matched_ciou, spatial_grounding_score
from faithful_rl.types import Box


@pytest.fixture(scope="module")
def complete_box_iou(peer_stack):
    from torchvision.ops import complete_box_iou

    return complete_box_iou


side = st.floats(min_value=0.5, max_value=500.0)
corner = st.floats(min_value=-100.0, max_value=900.0)
boxes_with_area = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), corner, corner, side, side)
boxes = st.one_of(
    boxes_with_area,
    st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), *[st.integers(0, 6)] * 4),  # touching, nested, equal, flat
)


@given(st.lists(boxes_with_area, min_size=1, max_size=6), st.lists(boxes_with_area, min_size=1, max_size=6))
def test_ciou_equals_torchvisions(complete_box_iou, predicted, reference):
    p, r = as_array(predicted), as_array(reference)
    expected = complete_box_iou(torch.from_numpy(p), torch.from_numpy(r)).numpy()
    np.testing.assert_allclose(ciou_matrix(p, r), expected, rtol=0, atol=1e-12)


@given(st.lists(boxes, max_size=6), st.lists(boxes, max_size=6))
def test_ciou_is_finite_bounded_and_not_above_iou(predicted, reference):
    scores = ciou_matrix(as_array(predicted), as_array(reference))
    assert scores.shape == (len(predicted), len(reference))
    assert np.isfinite(scores).all()
    assert ((scores > -2.0) & (scores <= 1.0)).all()
    np.testing.assert_allclose(scores, ciou_matrix(as_array(reference), as_array(predicted)).T, atol=1e-12)


@given(boxes_with_area, corner, corner)
def test_ciou_does_not_depend_on_where_the_boxes_are(box, dx, dy):
    other = Box(box.x1 + 3, box.y1 - 2, box.x2 + 9, box.y2 + 1)
    moved = [Box(b.x1 + dx, b.y1 + dy, b.x2 + dx, b.y2 + dy) for b in (box, other)]
    assert matched_ciou([moved[0]], [moved[1]]) == pytest.approx(matched_ciou([box], [other]), abs=1e-7)


@given(st.lists(boxes, min_size=1, max_size=5), st.lists(boxes, min_size=1, max_size=5))
def test_matching_equals_brute_force_over_permutations(predicted, reference):
    scores = ciou_matrix(as_array(predicted), as_array(reference))
    if len(predicted) > len(reference):
        scores = scores.T
    few, many = scores.shape
    best = max(sum(scores[i, j] for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(many), few))
    assert matched_ciou(predicted, reference) == pytest.approx(best / many, abs=1e-12)


@given(st.lists(boxes, max_size=5), st.lists(boxes, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_spatial_grounding_lies_in_the_unit_interval_and_ignores_order(predicted, reference, random):
    score = spatial_grounding_score(predicted, reference).value
    assert score is not None
    assert 0.0 <= score <= 1.0
    shuffled, turned = list(predicted), list(reference)
    random.shuffle(shuffled)
    random.shuffle(turned)
    assert spatial_grounding_score(shuffled, turned).value == pytest.approx(score, abs=1e-12)


@given(st.lists(boxes_with_area, min_size=1, max_size=5, unique=True))
def test_repeating_a_perfect_answer_lowers_the_score(reference):
    assert spatial_grounding_score(reference, reference).value == pytest.approx(1.0, abs=1e-9)
    doubled = spatial_grounding_score(reference * 2, reference).value
    assert doubled == pytest.approx(0.5, abs=1e-9)


@given(st.integers(1, 6000), st.integers(1, 6000))
def test_resized_sides_are_multiples_within_the_limits(height, width):
    assume(max(height, width) / min(height, width) <= 200)
    h, w = smart_resize(height, width, min_pixels=3136, max_pixels=1_003_520)
    assert h % 28 == 0
    assert w % 28 == 0
    # Raising a side to one patch after scaling down may overshoot: a thin image keeps at least one patch row.
    assert h * w <= 1_003_520 or min(h, w) == 28
    assert h * w >= 3136


@settings(max_examples=200)
@given(st.integers(28, 3000), st.integers(28, 3000), st.tuples(*[st.floats(0, 1)] * 4))
def test_to_original_undoes_to_resized_within_a_pixel(height, width, shares):
    assume(max(height, width) / min(height, width) <= 200)
    (xa, xb), (ya, yb) = sorted(shares[:2]), sorted(shares[2:])
    box = Box(xa * width, ya * height, xb * width, yb * height)
    limits = {"min_pixels": 3136, "max_pixels": 1_003_520}
    h, w = smart_resize(height, width, **limits)
    back = to_original(to_resized(box, (width, height), **limits), (width, height), **limits)
    # rounding moves a corner by half a pixel of the model's frame, keeping it inside the image by up to one
    for value, returned, scale in zip(box.as_list(), back.as_list(), itertools.cycle((width / w, height / h))):
        assert math.isclose(value, returned, abs_tol=1.0001 * scale)
