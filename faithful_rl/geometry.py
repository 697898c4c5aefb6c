"""Boxes in two frames and how well they agree: CIoU, and the original <-> resized frame of Qwen2.5-VL.

Qwen2.5-VL reads and writes absolute pixels of the image *after* `smart_resize`; data sets give pixels of the original.
Convert once, with the pixel limits of the run, and compare in the resized frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from faithful_rl.types import Box

FloatArray = npt.NDArray[np.float64]

# Same constant, in the same two places, as torchvision.ops.complete_box_iou: the numbers agree to float64 rounding.
CIOU_EPSILON = 1e-7

# Patch 14 x merge 2 of Qwen2.5-VL: sides of the resized image are multiples of it.
QWEN2_5_VL_FACTOR = 28

_MAX_ASPECT_RATIO = 200
_MAX_MAGNITUDE = 1e9  # pixels; squares of areas still fit float64


def as_array(boxes: Sequence[Box]) -> FloatArray:
    """Boxes as a (len(boxes), 4) float64 array of x1, y1, x2, y2; shape (0, 4) when empty."""
    return np.array([box.as_list() for box in boxes], dtype=np.float64).reshape(-1, 4)


def ciou_matrix(predicted: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    r"""Complete IoU of every predicted box with every reference box.

    $$\mathrm{CIoU} = \mathrm{IoU} - \frac{\rho^2}{d^2} - \alpha v, \qquad
      v = \frac{4}{\pi^2}\left(\arctan\frac{w_r}{h_r} - \arctan\frac{w_p}{h_p}\right)^2, \qquad
      \alpha = \frac{v}{1 - \mathrm{IoU} + v}$$

    with $\rho$ the distance of the centres and $d$ the diagonal of the smallest box around both.

    Args:
        predicted: (N, 4) of x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, any unit up to 1e9.
        reference: (M, 4), same unit.

    Returns:
        (N, M) float64 in (-2, 1]: 1 for equal boxes, below 0 for boxes that are far apart. Two boxes without area have IoU 0
        (torchvision gives NaN); a box without width and height has the aspect angle 0.

    Raises:
        ValueError: wrong shape, or a coordinate that is not finite, beyond 1e9, or with corners swapped.
    """
    first, second = _checked("predicted", predicted), _checked("reference", reference)
    p, r = first[:, None, :], second[None, :, :]
    p_wh, r_wh = p[..., 2:] - p[..., :2], r[..., 2:] - r[..., :2]

    overlap = np.clip(np.minimum(p[..., 2:], r[..., 2:]) - np.maximum(p[..., :2], r[..., :2]), 0.0, None).prod(axis=-1)
    union = p_wh.prod(axis=-1) + r_wh.prod(axis=-1) - overlap
    iou = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)

    around = np.maximum(p[..., 2:], r[..., 2:]) - np.minimum(p[..., :2], r[..., :2])
    diagonal = (around**2).sum(axis=-1) + CIOU_EPSILON
    centres = ((p[..., :2] + p[..., 2:] - r[..., :2] - r[..., 2:]) ** 2).sum(axis=-1) / 4.0

    # arctan2 is arctan(w / h) for h > 0 and is defined for flat boxes too.
    angle = np.arctan2(p_wh[..., 0], p_wh[..., 1]) - np.arctan2(r_wh[..., 0], r_wh[..., 1])
    v = (4.0 / math.pi**2) * angle**2
    alpha = v / (1.0 - iou + v + CIOU_EPSILON)
    result: FloatArray = iou - centres / diagonal - alpha * v
    return result


def smart_resize(height: int, width: int, *, min_pixels: int, max_pixels: int, factor: int = QWEN2_5_VL_FACTOR) -> tuple[int, int]:
    """Size that Qwen2.5-VL's image processor gives an image: (height, width), multiples of `factor`, area within the limits.

    The limits have no defaults: libraries disagree on them, and boxes are wrong when the run and the reward use different ones.

    Raises:
        ValueError: a side below 1, an aspect ratio above 200, or limits that are not 0 < min_pixels <= max_pixels.
    """
    if min(height, width) < 1:
        raise ValueError(f"image size must be at least 1 x 1 pixel, got height={height}, width={width}")
    if not 0 < min_pixels <= max_pixels:
        raise ValueError(f"pixel limits must satisfy 0 < min_pixels <= max_pixels, got min_pixels={min_pixels}, max_pixels={max_pixels}")
    if max(height, width) / min(height, width) > _MAX_ASPECT_RATIO:
        raise ValueError(f"aspect ratio must not exceed {_MAX_ASPECT_RATIO}, got height={height}, width={width}: crop or drop this image")
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


def to_resized(box: Box, image_wh: tuple[int, int], *, min_pixels: int, max_pixels: int, factor: int = QWEN2_5_VL_FACTOR) -> Box:
    """A box of the original image in the model's frame, rounded to whole pixels and kept inside the image, as the official
    fine-tuning notebook writes training targets. x and y have their own scale, because each side is rounded to `factor`.

    Args:
        box: pixels of the original image.
        image_wh: (width, height) of the original image.

    Raises:
        ValueError: see `smart_resize`.
    """
    width, height = image_wh
    new_height, new_width = smart_resize(height, width, min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)
    return Box(
        x1=_pixel(box.x1 * new_width / width, new_width),
        y1=_pixel(box.y1 * new_height / height, new_height),
        x2=_pixel(box.x2 * new_width / width, new_width),
        y2=_pixel(box.y2 * new_height / height, new_height),
    )


def to_original(box: Box, image_wh: tuple[int, int], *, min_pixels: int, max_pixels: int, factor: int = QWEN2_5_VL_FACTOR) -> Box:
    """A box of the model's frame in pixels of the original image (width, height), neither rounded nor clipped.

    Raises:
        ValueError: see `smart_resize`.
    """
    width, height = image_wh
    new_height, new_width = smart_resize(height, width, min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)
    return Box(
        x1=box.x1 * width / new_width, y1=box.y1 * height / new_height, x2=box.x2 * width / new_width, y2=box.y2 * height / new_height
    )


def _pixel(value: float, side: int) -> float:
    return float(max(0, min(side - 1, round(value))))


def _checked(name: str, boxes: npt.ArrayLike) -> FloatArray:
    array: FloatArray = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{name} boxes must have shape (count, 4), got {array.shape}")
    if not np.all(np.abs(array) <= _MAX_MAGNITUDE):  # also False for NaN
        raise ValueError(f"{name} boxes must hold finite pixel coordinates up to {_MAX_MAGNITUDE:.0e}")
    if np.any(array[:, 2:] < array[:, :2]):
        raise ValueError(f"{name} boxes must have x1 <= x2 and y1 <= y2: put the corners in order first")
    return array
