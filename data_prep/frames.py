"""The one owner of original pixels <-> pixels that the model speaks.

Qwen2.5-VL reads and writes absolute pixels of the image after resizing, and every framework resizes in its own way. A `Frame` is one
such chain with its limits; the same one must serve supervised training, reinforcement learning, reward and evaluation.

| chain | steps |
|---|---|
| `verl` | qwen_vl_utils resizes to multiples of 28 within the row's limits, then the processor within its own |
| `processor` | the processor alone (vLLM and transformers given the plain image) |
| `easyr1` | scaled by a square root and cut to whole pixels, within the limits, then the processor |
| `llama_factory` | as easyr1, then sides below 28 are raised and ratios above 200 cut, then the processor |

Sources: qwen_vl_utils 0.0.14 `fetch_image`; transformers `smart_resize` of Qwen2-VL; EasyR1 b44b311 verl/utils/dataset.py;
LLaMA-Factory ff6d4d12e data/mm_plugin.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.geometry import QWEN2_5_VL_FACTOR, smart_resize
from faithful_rl.response import box_spans, parse_box
from faithful_rl.types import Box

# Pinned here for every recipe: 4 to 1280 visual tokens for an image, so that four images fit a prompt of 8192 tokens.
MIN_PIXELS = 56 * 56
MAX_PIXELS = 1280 * 28 * 28
# Of Qwen2.5-VL's preprocessor_config.json: what the processor applies on its own.
PROCESSOR_MIN_PIXELS = 56 * 56
PROCESSOR_MAX_PIXELS = 12_845_056

CHAINS = ("verl", "processor", "easyr1", "llama_factory")


@dataclass(frozen=True, slots=True)
class Frame:
    """A resize chain and its limits in pixels (width x height).

    Attributes:
        chain: one of `CHAINS`.
        min_pixels, max_pixels: of the first step; of the only one for `processor`.
        processor_min_pixels, processor_max_pixels: of the processor after it.

    Raises:
        ConfigError: an unknown chain, or limits that are not 0 < min <= max.
    """

    chain: str = "verl"
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    processor_min_pixels: int = PROCESSOR_MIN_PIXELS
    processor_max_pixels: int = PROCESSOR_MAX_PIXELS

    def __post_init__(self) -> None:
        if self.chain not in CHAINS:
            raise ConfigError("frame", repr(self.chain), f"one of {', '.join(CHAINS)}", "Choose the framework that will train.")
        for name in ("min_pixels", "max_pixels", "processor_min_pixels", "processor_max_pixels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"frame.{name}", repr(value), "a whole number of pixels", "Correct it.")
        for low, high in (("min_pixels", "max_pixels"), ("processor_min_pixels", "processor_max_pixels")):
            if not 0 < getattr(self, low) <= getattr(self, high):
                found = f"{getattr(self, low)} and {getattr(self, high)}"
                raise ConfigError(f"{low}, {high}", found, "0 < minimum <= maximum", "Correct the limits.")

    def size(self, image_wh: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that the model sees of an image of (width, height) pixels. Raises ValueError for a ratio above 200."""
        for wh in self.steps(image_wh):
            image_wh = wh
        return image_wh

    def steps(self, image_wh: tuple[int, int]) -> list[tuple[int, int]]:
        """(width, height) after every step of the chain, for example `[(624, 419), (616, 420)]` under easyr1."""
        width, height = image_wh
        if self.chain == "processor":
            return [processor_size((width, height), self.min_pixels, self.max_pixels)]
        if self.chain == "verl":
            new_height, new_width = smart_resize(height, width, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
            first = (new_width, new_height)
        else:
            first = _scaled((width, height), self.min_pixels, self.max_pixels)
            if self.chain == "llama_factory":
                first = _llama_factory_guard(first)
        return [first, processor_size(first, self.processor_min_pixels, self.processor_max_pixels)]

    def to_model(self, box: Box, image_wh: tuple[int, int]) -> Box:
        """A box of the original image in whole pixels of the model's frame, kept inside it; x and y have their own scale."""
        width, height = image_wh
        new_width, new_height = self.size(image_wh)
        return Box(
            x1=_pixel(box.x1 * new_width / width, new_width),
            y1=_pixel(box.y1 * new_height / height, new_height),
            x2=_pixel(box.x2 * new_width / width, new_width),
            y2=_pixel(box.y2 * new_height / height, new_height),
        )

    def to_original(self, box: Box, image_wh: tuple[int, int]) -> Box:
        """A box of the model's frame in pixels of the original image, neither rounded nor clipped."""
        width, height = image_wh
        new_width, new_height = self.size(image_wh)
        return Box(
            x1=box.x1 * width / new_width, y1=box.y1 * height / new_height, x2=box.x2 * width / new_width, y2=box.y2 * height / new_height
        )

    def cite(self, text: str, image_wh: tuple[int, int]) -> str:
        """`text` with every `<bbox>[...]</bbox>` of original pixels rewritten in the model's frame, as `<bbox>[x1,y1,x2,y2]</bbox>`.

        Raises:
            ValueError: a citation that is not four finite numbers.
        """

        pieces, done = [], 0
        for start, end in box_spans(text):
            box = parse_box(text[start + len("<bbox>") : end - len("</bbox>")])
            if box is None:
                raise ValueError(f"the citation {text[start:end][:80]!r} is not four numbers")
            pieces += [text[done:start], write_box(self.to_model(box, image_wh))]
            done = end
        return "".join([*pieces, text[done:]])

    def as_dict(self) -> dict[str, Any]:
        """For manifests."""
        return asdict(self)


def write_box(box: Box) -> str:
    """`<bbox>[x1,y1,x2,y2]</bbox>` in whole numbers."""
    return "<bbox>[" + ",".join(str(round(value)) for value in box.as_list()) + "]</bbox>"


def unpad(box: tuple[float, float, float, float], image_wh: tuple[int, int]) -> Box:
    """A box of Visual-CoT's conversations in original pixels: there, coordinates in [0, 1] refer to the image padded to a square.

    Three decimals leave an error of up to side / 2000 pixels.
    """
    width, height = image_wh
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return Box(x1=box[0] * side - left, y1=box[1] * side - top, x2=box[2] * side - left, y2=box[3] * side - top)


def pad(box: Box, image_wh: tuple[int, int]) -> tuple[float, float, float, float]:
    """The inverse of `unpad`, not rounded."""
    width, height = image_wh
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return (box.x1 + left) / side, (box.y1 + top) / side, (box.x2 + left) / side, (box.y2 + top) / side


def processor_size(image_wh: tuple[int, int], min_pixels: int, max_pixels: int, factor: int = QWEN2_5_VL_FACTOR) -> tuple[int, int]:
    """(width, height) after transformers' Qwen2-VL image processor.

    It differs from `smart_resize` of qwen_vl_utils for sides below 14 pixels only: those round to 0 here, so that such an image is
    brought to `min_pixels` instead of keeping its length.
    """
    width, height = image_wh
    if min(width, height) >= factor / 2:
        new_height, new_width = smart_resize(height, width, min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)
        return new_width, new_height
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"aspect ratio must not exceed 200, got height={height}, width={width}: crop or drop this image")
    beta = math.sqrt(min_pixels / (height * width))
    return math.ceil(width * beta / factor) * factor, math.ceil(height * beta / factor) * factor


def check_processor(
    processor: Any, frame: Frame, image_wh: tuple[int, int] = (500, 336), call_options: Mapping[str, Any] | None = None
) -> None:
    """Push an image with a known box through the real processor and compare with what `frame` predicts.

    The image is black with a white rectangle; the white pixels of the processor's own output must lie where `frame.to_model` puts the
    rectangle, and `image_grid_thw` must be the predicted size. Needs the processor's own libraries (and qwen_vl_utils for `verl`).

    Args:
        call_options: what the run passes to every call of the processor (verl's `data.mm_processor_kwargs`); without them its own
            limits hold, which is what must agree.

    Raises:
        ConfigError: the sizes or the place differ, so that boxes in the data would be wrong.
    """
    import numpy as np
    from PIL import Image as Pillow

    width, height = image_wh
    box = Box(float(width // 5), float(height // 4), float(width // 5 + width // 2), float(height // 4 + height // 3))
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = 255
    image = _first_step(Pillow.fromarray(picture), frame)
    output = processor.image_processor(images=[image], return_tensors="np", **(call_options or {}))
    _, rows, columns = (int(value) for value in output["image_grid_thw"][0])
    patch = int(processor.image_processor.patch_size)
    expected, found = frame.size(image_wh), (columns * patch, rows * patch)
    if found != expected:
        raise ConfigError(
            "frame",
            f"{found[0]} x {found[1]} pixels after the processor for an image of {width} x {height}",
            f"{expected[0]} x {expected[1]} as chain {frame.chain} predicts",
            "Give data and processor the same limits: min_pixels= and max_pixels= here, data.mm_processor_kwargs in the run.",
        )
    seen = _white_area(output["pixel_values"], rows, columns, patch, int(processor.image_processor.merge_size))
    predicted = frame.to_model(box, image_wh)
    if max(abs(a - b) for a, b in zip(seen.as_list(), predicted.as_list(), strict=True)) > 2.0:
        raise ConfigError("frame", f"the known box at {seen.as_list()}", f"it at {predicted.as_list()}", "Report this: frames are wrong.")


def check_model(model: Path | str, frame: Frame, call_options: Mapping[str, Any] | None = None) -> None:
    """`check_processor` with the processor of a model directory or hub id, for images as training meets them: wide, tall, small, large.

    Raises:
        ConfigError: no processor there, or it disagrees with `frame`.
    """
    try:
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(str(model))
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit its torch
        cause = error.__cause__ or error
        fix = "Install what is missing, or leave model= out: the start of training makes the same check."
        raise ConfigError(
            "model", f"processor libraries that do not load ({cause})", "transformers with torch and torchvision", fix
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError("model", str(model), "a directory or hub id with a Qwen2.5-VL processor", f"{error}.") from error
    for image_wh in ((500, 336), (336, 500), (60, 40), (1920, 1080)):
        check_processor(processor, frame, image_wh, call_options)


def from_mapping(values: Mapping[str, Any]) -> Frame:
    """A `Frame` from a manifest or recipe. Raises ConfigError for unknown keys."""
    unknown = sorted(set(values) - set(Frame.__dataclass_fields__))
    if unknown:
        raise ConfigError(f"frame.{unknown[0]}", repr(values[unknown[0]]), ", ".join(Frame.__dataclass_fields__), "Correct its name.")
    return Frame(**dict(values))


def _first_step(picture: Any, frame: Frame) -> Any:
    if frame.chain == "processor":
        return picture
    if frame.chain == "verl":
        from qwen_vl_utils import fetch_image  # brings torch: only where an image goes through

        return fetch_image({"image": picture, "min_pixels": frame.min_pixels, "max_pixels": frame.max_pixels})
    return picture.resize(frame.steps(picture.size)[0])


def _white_area(pixel_values: Any, rows: int, columns: int, patch: int, merge: int) -> Box:
    """Where the processor's patches are bright. Patches come in merge x merge blocks, each with channel, time, row and column inside."""
    import numpy as np

    patches = np.asarray(pixel_values, dtype=np.float32).reshape(rows // merge, columns // merge, merge, merge, 3, -1, patch, patch)
    image = patches[:, :, :, :, 0, 0].transpose(0, 2, 4, 1, 3, 5).reshape(rows * patch, columns * patch)
    bright = image > (image.min() + image.max()) / 2
    ys, xs = np.nonzero(bright.any(axis=1))[0], np.nonzero(bright.any(axis=0))[0]
    return Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))


def _scaled(wh: tuple[int, int], min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The resizing of EasyR1 and LLaMA-Factory before the processor: both limits in turn, whole pixels by cutting."""
    width, height = wh
    if width * height > max_pixels:
        factor = math.sqrt(max_pixels / (width * height))
        width, height = int(width * factor), int(height * factor)
    if width * height < min_pixels:
        factor = math.sqrt(min_pixels / (width * height))
        width, height = int(width * factor), int(height * factor)
    return width, height


def _llama_factory_guard(wh: tuple[int, int]) -> tuple[int, int]:
    width, height = wh
    if min(width, height) < QWEN2_5_VL_FACTOR:
        width, height = max(width, QWEN2_5_VL_FACTOR), max(height, QWEN2_5_VL_FACTOR)
    if width / height > 200:
        width = height * 180
    if height / width > 200:
        height = width * 180
    return width, height


def _pixel(value: float, side: int) -> float:
    return float(max(0, min(side - 1, round(value))))
