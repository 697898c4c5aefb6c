"""The only door for images: bytes, `{"bytes", "path"}`, PIL or a path become one `Image`, or an `Unusable` with the reason.

What is stored is what every later reader must see alike:

- EXIF orientation is NOT applied. The boxes of these sets refer to the pixel grid as stored, and verl, qwen_vl_utils and vLLM read it
  so too, but transformers' `load_image` and browsers turn it. An image that carries an orientation is therefore written anew without
  the tag (PNG, same pixels); note `exif_removed`.
- Colour is RGB. Encoded bytes of RGB and grey JPEG, PNG and WebP stay as they are; anything else (palette, CMYK, 16 bit, transparency,
  animation, other formats) is written anew as RGB PNG, transparency on white as qwen_vl_utils does; note `image_reencoded`.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image as Pillow
from PIL import ImageFile, UnidentifiedImageError

from data_prep.record import Image, Unusable

MAX_FILE_BYTES = 256 * 2**20
MAX_ASPECT_RATIO = 200  # Qwen2.5-VL's processor raises above it
_KEPT_FORMATS = frozenset({"JPEG", "PNG", "WEBP"})
_KEPT_MODES = frozenset({"RGB", "L"})
_ORIENTATION = 0x0112
# What Pillow's decoders raise over damaged bytes, each in its own way (RuntimeError: AVIF); found by feeding them damaged files.
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, RuntimeError, EOFError, ArithmeticError, LookupError, struct.error, zlib.error,
)  # fmt: skip


def load_image(
    source: Any, *, root: Path | None = None, max_image_pixels: int = 89_478_485, verify: bool = True
) -> tuple[Image, tuple[str, ...]]:
    """One image and the notes on it.

    Args:
        source: encoded bytes, `{"bytes": ..., "path": ...}` (one may be None), a PIL image, or a path relative to `root`.
        root: directory that paths may not leave; without one, paths are refused.
        max_image_pixels: width x height above which nothing is decoded.
        verify: decode all pixels, so that a truncated file is found.

    Raises:
        Unusable: image_missing, image_outside_root, image_bomb, image_truncated, image_unreadable or image_aspect_ratio.
    """
    if isinstance(source, Pillow.Image):
        _check_size(source.width, source.height, max_image_pixels)
        return _written_anew(source, "image_reencoded")
    if isinstance(source, Mapping):
        data, path = source.get("bytes"), source.get("path")
        source = data if data is not None else path
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        if not data:
            raise Unusable("image_missing", "the image has 0 bytes")
        return _examined(data, None, max_image_pixels, verify)
    if isinstance(source, str | os.PathLike):
        path = inside_root(os.fspath(source), root)
        return _examined(read_file(path), path, max_image_pixels, verify)
    raise Unusable("image_missing", f"no image, but {type(source).__name__}")


def inside_root(name: str, root: Path | None) -> Path:
    """The file `name` below `root`, links followed. Raises Unusable when it leaves the root or is no file.

    A snapshot of the hub's cache consists of links into the `blobs` of the same repository: those belong to it.
    """
    if root is None:
        raise Unusable("image_missing", f"the path {name!r} needs an image root (option images=DIR)")
    if not name or "\0" in name:
        raise Unusable("image_missing", f"{name!r} is no path")
    base = _real(os.fspath(root))
    found_at = _followed(os.path.join(base, name))
    path = Path(found_at)
    outside = not _below(found_at, base)
    if outside and not (_below(os.path.normpath(os.path.join(base, name)), base) and _below(found_at, _blobs(base))):
        raise Unusable("image_outside_root", f"{name!r} leaves the image root")
    try:
        found = path.is_file()
    except OSError as error:  # a name longer than the file system takes, a folder that may not be read
        raise Unusable("image_missing", f"{name[:200]!r}: {error.strerror}") from error
    if not found:
        raise Unusable("image_missing", f"no file {name[:200]!r} below the image root")
    return path


@lru_cache(maxsize=4096)  # image folders; a look at every folder on the way to every image costs as much as reading it
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _followed(name: str) -> str:
    """The real path of a file: its folder's once for all files in it, and the file's own link."""
    folder, last = os.path.split(name)
    if last in ("", ".", ".."):
        return os.path.realpath(name)
    path = os.path.join(_real(folder), last)
    return os.path.realpath(path) if os.path.islink(path) else path


@lru_cache(maxsize=64)
def _blobs(base: str) -> str:
    """Where the files of a hub's snapshot lie, for a root inside one; "" elsewhere."""
    snapshots = next((folder for folder in (Path(base), *Path(base).parents) if folder.name == "snapshots"), None)
    blobs = snapshots.parent / "blobs" if snapshots else None
    return os.path.realpath(blobs) if blobs is not None and blobs.is_dir() else ""


def _below(path: str, folder: str) -> bool:
    return bool(folder) and (path == folder or path.startswith(folder if folder.endswith(os.sep) else folder + os.sep))


def read_file(path: Path) -> bytes:
    """All bytes of an image file. Raises Unusable when it cannot be read or is above 256 MiB."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Unusable("image_bomb", f"{path.name} has {path.stat().st_size} bytes, at most {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise Unusable("image_unreadable", f"{path.name}: {error.strerror or error}") from error


def encoded(image: Image) -> bytes:
    """Encoded bytes of an `Image`. Raises Unusable when its file has gone."""
    return image.data if image.data is not None else read_file(Path(str(image.path)))


def opened(image: Image) -> Pillow.Image:
    """The decoded image, RGB, as stored (no EXIF orientation)."""
    with Pillow.open(io.BytesIO(encoded(image))) as picture:
        return _rgb(picture)


def _examined(data: bytes, path: Path | None, max_image_pixels: int, verify: bool) -> tuple[Image, tuple[str, ...]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # our own limit is checked below, before any decoding
            picture = Pillow.open(io.BytesIO(data))
    except Pillow.DecompressionBombError as error:
        raise Unusable("image_bomb", str(error)) from error
    except UnidentifiedImageError as error:  # its text holds a memory address, and rejects must be the same on every run
        raise Unusable("image_unreadable", f"{len(data)} bytes of no known image format") from error
    except _DECODING_ERRORS as error:
        raise Unusable("image_unreadable", f"{len(data)} bytes that are no image: {error}") from error
    with picture:
        _check_size(picture.width, picture.height, max_image_pixels)
        try:
            turned = picture.getexif().get(_ORIENTATION, 1) not in (0, 1)
            plain = picture.format in _KEPT_FORMATS and picture.mode in _KEPT_MODES and "transparency" not in picture.info
            plain = plain and getattr(picture, "n_frames", 1) == 1
            if turned or not plain:
                return _written_anew(picture, "exif_removed" if turned else "image_reencoded")
            wh = picture.size
            if verify:
                # An eighth of the size and no colour (a JPEG's own scaling; others ignore it): every coefficient is read, which is where
                # damage shows, at a third of the cost.
                picture.draft("L", (max(1, wh[0] // 8), max(1, wh[1] // 8)))
                picture.load()
        except _DECODING_ERRORS as error:
            raise Unusable(_decoding_reason(error), f"{picture.format} of {len(data)} bytes: {error}") from error
    return Image(None if path else data, str(path) if path else None, *wh), ()


def _decoding_reason(error: Exception) -> str:
    text = str(error).lower()
    return "image_truncated" if any(word in text for word in ("truncated", "broken", "end of file", "not enough")) else "image_unreadable"


def _written_anew(picture: Pillow.Image, note: str) -> tuple[Image, tuple[str, ...]]:
    stream = io.BytesIO()
    rgb = _rgb(picture)
    rgb.save(stream, format="PNG", compress_level=6)
    return Image(stream.getvalue(), None, rgb.width, rgb.height), (note,)


def _rgb(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        white = Pillow.new("RGB", layered.size, (255, 255, 255))
        white.paste(layered, mask=layered.getchannel("A"))
        return white
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return picture.point(lambda value: value / 256).convert("L").convert("RGB")  # convert() alone would clip at 255
    return picture.convert("RGB")


def _check_size(width: int, height: int, max_image_pixels: int) -> None:
    if min(width, height) < 1:
        raise Unusable("image_unreadable", f"{width} x {height} pixels")
    if width * height > max_image_pixels:
        raise Unusable("image_bomb", f"{width} x {height} pixels, at most {max_image_pixels} in all")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise Unusable("image_aspect_ratio", f"{width} x {height} pixels")


if ImageFile.LOAD_TRUNCATED_IMAGES:  # another library switched it on: truncated files would be filled with grey and pass
    raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: truncated images would go unnoticed")
