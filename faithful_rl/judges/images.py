"""Encoded image files as a chat endpoint takes them: checked, with their size and a digest of their content."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass

from PIL import Image

# Formats that endpoints read themselves; every other one is written anew as PNG.
_MEDIA = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


class ImageError(ValueError):
    """These bytes are not an image that can be decoded."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """`url`: a data URL; `digest`: SHA-256 (hex) of the file as it was given; `width` and `height` in pixels."""

    url: str
    digest: str
    width: int
    height: int


def digest_of(data: bytes) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def encode_image(data: bytes) -> EncodedImage:
    """Decode the whole file, to know that a judge can, and wrap it as a data URL.

    Raises:
        ImageError: it is empty, cut off, no image, or larger than Pillow's limit against decompression bombs.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            width, height = image.size
            media = _MEDIA.get(image.format or "")
            content = data
            if media is None:
                written = io.BytesIO()
                image.convert("RGB").save(written, "PNG")
                media, content = "image/png", written.getvalue()
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        raise ImageError(f"{len(data)} bytes that are no readable image ({type(error).__name__}: {error})") from error
    return EncodedImage(f"data:{media};base64,{base64.b64encode(content).decode('ascii')}", digest_of(data), width, height)
