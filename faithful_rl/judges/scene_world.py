"""The exact content of a synthetic scene: what the generator drew and what the exact judge knows.

The JSON text is canonical (objects sorted, compact, sorted keys), so equal scenes have equal text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from faithful_rl.types import Box

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A coloured shape and its tight box in pixels of the original image. Colour and shape together name it."""

    colour: str
    shape: str
    box: Box

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box.x1 + self.box.x2) / 2, (self.box.y1 + self.box.y2) / 2


@dataclass(frozen=True, slots=True)
class SceneImage:
    """One image: its size in pixels and its objects, no two with the same name."""

    width: int
    height: int
    objects: tuple[SceneObject, ...]

    def find(self, name: str) -> SceneObject | None:
        return next((thing for thing in self.objects if thing.name == name), None)


def write_scene(images: Iterable[SceneImage]) -> str:
    """Canonical JSON text of the images of one question."""
    data = {"images": [_image_dict(image) for image in images], "version": FORMAT_VERSION}
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def read_scene(text: str) -> tuple[SceneImage, ...]:
    """Inverse of `write_scene`.

    Raises ValueError, naming the part at fault, on anything that is not a scene: bad JSON, another version, no image,
    unknown colours or shapes, boxes that are not four finite ordered numbers, two objects of one name.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"scene_json is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("version") != FORMAT_VERSION:
        raise ValueError(f"scene_json must be an object with version {FORMAT_VERSION}, found {text[:80]!r}")
    images = data.get("images")
    if not isinstance(images, list) or not images:
        raise ValueError("scene_json has no list 'images' with at least one image")
    return tuple(_read_image(image, index) for index, image in enumerate(images))


def _image_dict(image: SceneImage) -> dict[str, Any]:
    objects = sorted(
        (
            {"box": [_number(value) for value in thing.box.as_list()], "colour": thing.colour, "shape": thing.shape}
            for thing in image.objects
        ),
        key=lambda entry: (str(entry["colour"]), str(entry["shape"])),
    )
    return {"height": image.height, "objects": objects, "width": image.width}


def _number(value: float) -> float:
    return int(value) if value == int(value) else value  # one text for 2 and 2.0


def _read_image(data: Any, index: int) -> SceneImage:
    where = f"scene_json image {index}"
    if not isinstance(data, dict):
        raise ValueError(f"{where} is not an object")
    width, height, entries = data.get("width"), data.get("height"), data.get("objects")
    if type(width) is not int or type(height) is not int or width < 1 or height < 1:
        raise ValueError(f"{where} needs positive whole numbers width and height, found {width!r} and {height!r}")
    if not isinstance(entries, list):
        raise ValueError(f"{where} has no list 'objects'")
    objects = tuple(_read_object(entry, where) for entry in entries)
    if len({thing.name for thing in objects}) != len(objects):
        raise ValueError(f"{where} has two objects of the same colour and shape")
    return SceneImage(width, height, objects)


def _read_object(data: Any, where: str) -> SceneObject:
    if not isinstance(data, dict) or data.get("colour") not in COLOURS or data.get("shape") not in SHAPES:
        raise ValueError(f"{where}: an object needs a colour of {COLOURS} and a shape of {SHAPES}, found {data!r}")
    box = data.get("box")
    numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and math.isfinite(v) for v in box)
    if not isinstance(box, list) or not numbers or box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"{where}: a box is [x1, y1, x2, y2] with x1 < x2 and y1 < y2, found {box!r}")
    return SceneObject(data["colour"], data["shape"], Box(*(float(value) for value in box)))
