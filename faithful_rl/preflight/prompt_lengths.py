"""Prompts against `data.max_prompt_length`, with the model's real processor: verl cuts a longer one from the left, image tokens and all.

The length of each row is worked out from its images' headers, by the arithmetic of `qwen_vl_utils` and of the image processor; the longest
ones then go through the whole path that training uses. All rows are read, or, where that would take longer than `AUDIT_SECONDS`, every
n-th of the whole file.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight import rows

LONGEST = 3  # rows that are processed for real, and at most so many are named
AUDIT_SECONDS = 20.0  # that reading all rows may take; at twice that it ends where it is
TRIAL = 64  # rows, after whose time the stride is chosen


@dataclass(frozen=True)
class Length:
    """Tokens of one row's prompt, images included."""

    tokens: int
    row: int
    file: str
    images: int


@dataclass
class Audit:
    """What was read: the lengths, the longest rows, the number of all rows and the distance of those that were read."""

    total: int
    stride: int
    lengths: list[int] = field(default_factory=list)
    longest: list[tuple[Length, Mapping[str, Any]]] = field(default_factory=list)

    def add(self, length: Length, row: Mapping[str, Any]) -> None:
        self.lengths.append(length.tokens)
        self.longest = sorted([*self.longest, (length, row)], key=lambda one: -one[0].tokens)[:LONGEST]

    def described(self) -> str:
        if len(self.lengths) == self.total:
            return f"{self.total} rows read"
        every = f"one in {self.stride} of the whole file" if self.stride > 1 else f"as many as {2 * AUDIT_SECONDS:g} s allow"
        return f"{len(self.lengths)} of {self.total} rows read ({every})"


def check(config: Mapping[str, Any], typed: FaithfulRLConfig, clock: Callable[[], float] = time.monotonic) -> list[str]:
    """Audit the training rows; returns a line for the plan. `clock` gives seconds.

    Raises:
        ConfigError: prompts that are longer than the limit, the worst rows named; a row or an image header that training could not read;
            a processor that does not load.
    """
    data = config["data"]
    processor, tokenizer = _load(str(config["actor_rollout_ref"]["model"]["path"]))
    measured = Measure(processor, tokenizer, config)
    found = audit(rows.data_files(data["train_files"]), measured, clock)
    if not found.lengths:
        return []
    worst = [Length(measured.real(row), one.row, one.file, one.images) for one, row in found.longest]
    worst.sort(key=lambda one: -one.tokens)
    allowed = data["max_prompt_length"]
    over = sum(tokens > allowed for tokens in found.lengths)
    if worst[0].tokens > allowed and not data["filter_overlong_prompts"]:
        named = "; ".join(
            f"row {one.row} of {one.file}: {one.tokens} tokens with {one.images} image(s)" for one in worst if one.tokens > allowed
        )
        raise ConfigError(
            "data.max_prompt_length",
            f"{allowed}, and {max(1, over)} of {len(found.lengths)} prompts are longer ({named})",
            f"at least {worst[0].tokens}",
            "Raise it (and actor_rollout_ref.rollout.max_model_len), lower the images' max_pixels, or set "
            "data.filter_overlong_prompts=true.",
        )
    dropped = f"; {over} longer ones are dropped (data.filter_overlong_prompts)" if over else ""
    return [f"prompts    {found.described()}, the longest has {worst[0].tokens} of {allowed} tokens, images included{dropped}"]


def audit(files: list[Path], measured: Measure, clock: Callable[[], float]) -> Audit:
    """Lengths of the rows of `files`, as far apart as the time demands.

    Raises:
        ConfigError: a row that lacks something, or an image whose header cannot be read.
    """
    opened = [(str(path), pq.ParquetFile(path)) for path in files]
    total, start = sum(file.metadata.num_rows for _, file in opened), clock()
    trial = sum(1 for _ in itertools.islice(_measured(opened, 1, measured), TRIAL))
    stride = max(1, math.ceil((clock() - start) / max(1, trial) * total / AUDIT_SECONDS))
    found = Audit(total, stride)
    for length, row in _measured(opened, stride, measured):
        found.add(length, row)
        if clock() - start > 2 * AUDIT_SECONDS:  # images of later rows are larger, or storage slower
            break
    return found


def _measured(opened: list[tuple[str, pq.ParquetFile]], stride: int, measured: Measure) -> Iterator[tuple[Length, dict[str, Any]]]:
    for name, file in opened:
        for number, row in rows.spread(file, stride):
            where = f"{name}, row {number}"
            rows.check_content(row, where, "data.train_files")
            try:
                tokens = measured.computed(row)
            except (OSError, UnidentifiedImageError) as error:
                raise rows.unopened("data.train_files", where, error) from error
            yield Length(tokens, number, name, len(row["images"])), row


def _load(model: str) -> tuple[Any, Any]:
    """Processor and tokenizer by verl's own loaders. Where a processor fails to load, verl warns and trains on without images."""
    from verl.utils import hf_processor, hf_tokenizer

    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            processor = hf_processor(model, trust_remote_code=False)
        tokenizer = hf_tokenizer(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloaded(model, str(error)) from error
    if processor is None:
        raise _unloaded(model, "; ".join(str(one.message) for one in told) or "verl found none")
    return processor, tokenizer


def _unloaded(model: str, reason: str) -> ConfigError:
    return ConfigError(
        "actor_rollout_ref.model.path",
        f"{model}, whose processor does not load ({reason.splitlines()[0][:300]})",
        "a tokenizer, a chat template and an image processor",
        "Copy these files from the model that it was trained from.",
    )


class Measure:
    """Prompt lengths of rows under one processor."""

    def __init__(self, processor: Any, tokenizer: Any, config: Mapping[str, Any]) -> None:
        self._processor, self._tokenizer = processor, tokenizer
        self._template = dict(config["data"].get("apply_chat_template_kwargs") or {})
        images = processor.image_processor
        self._patch, self._merge = int(images.patch_size), int(images.merge_size)
        self._size = images.size

    def text(self, row: Mapping[str, Any]) -> str:
        messages = [{**message, "content": _parts(message["content"])} for message in row["prompt"]]
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **self._template))

    def computed(self, row: Mapping[str, Any]) -> int:
        """Text tokens with one placeholder per image, each replaced by the tokens of the image's size."""
        text = len(self._tokenizer(self.text(row), add_special_tokens=False)["input_ids"])
        images = list(row["images"] or [])
        return text - len(images) + sum(self.image_tokens(image) for image in images)

    def image_tokens(self, image: Mapping[str, Any]) -> int:
        """Tokens of one image: resized by `qwen_vl_utils` (the row's limits), then by the processor (its own), a token per merged patch."""
        from qwen_vl_utils.vision_process import smart_resize

        with _opened(image) as opened:
            width, height = opened.size
        factor = self._patch * self._merge
        if image.get("resized_height") and image.get("resized_width"):
            height, width = smart_resize(int(image["resized_height"]), int(image["resized_width"]), factor=factor)
        else:
            limits = {name: image[name] for name in ("min_pixels", "max_pixels") if image.get(name)}
            height, width = smart_resize(height, width, factor=factor, **limits)
        shortest, longest = _limit(self._size, "shortest_edge"), _limit(self._size, "longest_edge")
        height, width = smart_resize(height, width, factor=factor, min_pixels=shortest, max_pixels=longest)
        return int(height // factor * (width // factor))

    def real(self, row: Mapping[str, Any]) -> int:
        """The same by training's own path: every pixel read, resized and cut into patches."""
        from verl.utils.dataset.vision_utils import process_image

        images = [process_image(_source(image), image_patch_size=self._patch) for image in row["images"] or []]
        return len(self._processor(text=[self.text(row)], images=images or None)["input_ids"][0])


def _limit(size: Any, name: str) -> int | None:
    value = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return None if value is None else int(value)


def _parts(content: Any) -> Any:
    """verl's message content: `<image>` tags become entries of their own."""
    if not isinstance(content, str) or rows.IMAGE_TAG not in content:
        return content
    pieces = [piece for piece in re.split(f"({rows.IMAGE_TAG})", content) if piece]
    return [{"type": "image"} if piece == rows.IMAGE_TAG else {"type": "text", "text": piece} for piece in pieces]


def _source(image: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in image.items() if value is not None and name not in ("bytes", "path")}
    return (
        {**kept, "image": Image.open(io.BytesIO(image["bytes"]))}
        if image.get("bytes")
        else {**kept, "image": kept.get("image") or image["path"]}
    )


def _opened(image: Mapping[str, Any]) -> Image.Image:
    if image.get("bytes"):
        return Image.open(io.BytesIO(image["bytes"]))
    return Image.open(str(image.get("path") or image.get("image")).removeprefix("file://"))
