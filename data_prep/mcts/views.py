"""What the teacher looks at: the whole image and, once a step has pointed somewhere, that region enlarged."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image as Pillow

from data_prep.images import opened
from data_prep.record import BoxTuple, Image
from faithful_rl.geometry import smart_resize

MARGIN = 0.5  # of the box's sides, added on each side: a thing is known by what surrounds it
LONGEST_RATIO = 199  # of the sides of what is shown
SMALLEST_SHARE = 0.125  # of the image's sides: a region is never narrower


@dataclass(frozen=True, slots=True)
class View:
    """A PNG for the teacher and its size in pixels."""

    png: bytes
    width: int
    height: int


def whole(image: Image, min_pixels: int, max_pixels: int) -> View:
    """The image resized to what Qwen2.5-VL's processor makes of it, so that its coordinates are pixels of this view.

    Raises:
        Unusable: the image cannot be read.
    """
    picture = opened(image)
    return _view(picture, min_pixels, max_pixels)


def zoomed(image: Image, box: BoxTuple, min_pixels: int, max_pixels: int) -> View:
    """The region around a box (original pixels), resized in the same way: a small region is enlarged to `min_pixels` at least.

    Raises:
        Unusable: the image cannot be read.
    """
    picture = opened(image)
    return _view(picture.crop(region(box, picture.size)), min_pixels, max_pixels)


def shown_size(wh: tuple[int, int], min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(width, height) in which an image of (width, height) pixels is shown, multiples of 28."""
    width, height = wh
    if max(width, height) > LONGEST_RATIO * min(width, height):  # a sliver: the model's processor would refuse it
        width, height = max(width, height // 100), max(height, width // 100)
    new_height, new_width = smart_resize(height, width, min_pixels=min_pixels, max_pixels=max_pixels)
    return new_width, new_height


def region(box: BoxTuple, wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box with its margin, in whole pixels inside an image of (width, height); nested boxes give regions that shrink."""
    (left, right), (top, bottom) = (_span(box[axis], box[axis + 2], wh[axis]) for axis in (0, 1))
    return left, top, right, bottom


def _span(low: float, high: float, side: int) -> tuple[int, int]:
    margin = max((high - low) * MARGIN, (side * SMALLEST_SHARE - (high - low)) / 2)
    start, end = max(round(low - margin), 0), min(round(high + margin), side)
    return (start, end) if end > start else (max(min(start, side - 1), 0), max(min(start, side - 1), 0) + 1)


def _view(picture: Pillow.Image, min_pixels: int, max_pixels: int) -> View:
    size = shown_size(picture.size, min_pixels, max_pixels)
    buffer = io.BytesIO()
    picture.resize(size, Pillow.Resampling.BICUBIC).save(buffer, "PNG")
    return View(buffer.getvalue(), *size)
