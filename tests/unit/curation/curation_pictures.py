"""Pictures and records for the tests of curation."""

import io

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from data_prep.record import Image, Record


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Pillow.Image:
    """A few random rectangles: structure as in a photograph, different for every seed."""
    rng = np.random.default_rng(seed)
    image = Pillow.new("RGB", (160, 120), tuple(int(v) for v in rng.integers(0, 255, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.integers(0, 130), rng.integers(0, 90)
        draw.rectangle((x, y, x + rng.integers(10, 60), y + rng.integers(10, 60)), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    return image.resize(size, Pillow.Resampling.BICUBIC)


def encoded(image: Pillow.Image, form: str = "PNG", **options: int) -> Image:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return Image(buffer.getvalue(), None, *image.size)


def record(uid: str, image: Image, question: str = "Which one?", gold: int = 0, options: tuple[str, ...] = ("one", "two")) -> Record:
    return Record(uid, "made", "train", question, options, gold, options[gold], (image,))


def open_record(uid: str, image: Pillow.Image, question: str) -> Record:
    """A question without options."""
    return Record(uid, "made", "train", question, (), -1, "something", (encoded(image),))
