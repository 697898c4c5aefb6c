"""Random scenes on a 4 x 4 grid of 28 pixel cells, drawn so that each cell is one merged visual token of Qwen2.5-VL."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from faithful_rl.judges.scene_world import COLOURS, SHAPES, SceneImage, SceneObject
from faithful_rl.types import Box

GRID = 4
CELL = 28  # pixels: patch 14 x merge 2
SIDE = GRID * CELL
SIZES = (16, 24)  # pixels, centred in the cell; even, so that every box edge is an even number

_PAINT = {"red": (225, 30, 30), "green": (25, 165, 45), "blue": (35, 60, 235), "yellow": (245, 215, 30)}


@dataclass(frozen=True, slots=True)
class Shape:
    """A coloured shape in a cell; `row` and `column` count from the upper left."""

    colour: str
    shape: str
    row: int
    column: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def box(self) -> Box:
        """Tight box in pixels, `x2` and `y2` one past the last painted pixel."""
        x1 = self.column * CELL + (CELL - self.size) // 2
        y1 = self.row * CELL + (CELL - self.size) // 2
        return Box(x1, y1, x1 + self.size, y1 + self.size)

    @property
    def quarter(self) -> str:
        """The quarter of the image it is in, for example "upper left"; a cell never straddles two."""
        vertical = "upper" if self.row < GRID // 2 else "lower"
        return f"{vertical} {'left' if self.column < GRID // 2 else 'right'}"


Scene = tuple[Shape, ...]


def random_scene(rng: Random, count: int | None = None) -> Scene:
    """2 to 4 shapes (or `count`) with different names in different cells."""
    count = count if count is not None else rng.randint(2, 4)
    names = rng.sample([(colour, shape) for colour in COLOURS for shape in SHAPES], count)
    cells = rng.sample(range(GRID * GRID), count)
    return tuple(Shape(colour, shape, *divmod(cell, GRID), rng.choice(SIZES)) for (colour, shape), cell in zip(names, cells, strict=True))


def scene_image(scene: Iterable[Shape]) -> SceneImage:
    """The exact description of a scene that travels with the row."""
    return SceneImage(SIDE, SIDE, tuple(SceneObject(shape.colour, shape.shape, shape.box) for shape in scene))


@cache
def _background() -> Image.Image:
    # An absolute cue: red falls with x, blue with y. Without it the vision tower, which has only relative positions,
    # could not tell places apart.
    fall = np.linspace(170, 50, SIDE)
    pixels = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[..., 0] = fall[None, :]
    pixels[..., 1] = 110
    pixels[..., 2] = fall[:, None]
    return Image.fromarray(pixels)


def render(scene: Iterable[Shape]) -> Image.Image:
    """The 112 x 112 RGB image of a scene, without antialiasing."""
    image = _background().copy()
    draw = ImageDraw.Draw(image)
    for shape in scene:
        box = shape.box
        left, top, right, bottom = box.x1, box.y1, box.x2 - 1, box.y2 - 1
        match shape.shape:
            case "circle":
                draw.ellipse((left, top, right, bottom), fill=_PAINT[shape.colour])
            case "square":
                draw.rectangle((left, top, right, bottom), fill=_PAINT[shape.colour])
            case "triangle":
                draw.polygon([((left + right) / 2, top), (left, bottom), (right, bottom)], fill=_PAINT[shape.colour])
    return image


def encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
