"""Prompts against `data.max_prompt_length`, with the model's real processor: verl cuts a longer one from the left, image tokens and all.

The length of each checked row is worked out from its images' sizes, by the arithmetic of `qwen_vl_utils` and of the image processor;
the longest ones then go through the whole path that training uses, and must come out as computed.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight import rows

LONGEST = 3  # rows that are processed for real, and at most so many are named


@dataclass(frozen=True)
class Length:
    """Tokens of one row's prompt, images included."""

    tokens: int
    row: int
    file: str
    images: int


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    """Audit the training rows that preflight reads (`faithful_rl.data.check_rows`); returns a line for the plan.

    Raises:
        ConfigError: prompts that are longer than the limit, the worst rows named; a processor that does not load.
    """
    data = config["data"]
    processor, tokenizer = _load(str(config["actor_rollout_ref"]["model"]["path"]))
    measured = Measure(processor, tokenizer, config)
    limit = typed.data.check_rows
    lengths: list[int] = []
    longest: list[tuple[Length, Mapping[str, Any]]] = []
    for name in rows._names(data["train_files"]):
        for number, row in rows._rows(pq.ParquetFile(Path(name).expanduser()), limit):
            lengths.append(measured.computed(row))
            longest.append((Length(lengths[-1], number, name, len(row["images"] or [])), row))
            longest = sorted(longest, key=lambda one: -one[0].tokens)[:LONGEST]
    if not lengths:
        return []
    worst = [Length(measured.real(row), one.row, one.file, one.images) for one, row in longest]
    worst.sort(key=lambda one: -one.tokens)
    allowed = data["max_prompt_length"]
    if worst[0].tokens > allowed and not data["filter_overlong_prompts"]:
        count = max(1, sum(tokens > allowed for tokens in lengths))
        named = "; ".join(
            f"row {one.row} of {one.file}: {one.tokens} tokens with {one.images} image(s)" for one in worst if one.tokens > allowed
        )
        raise ConfigError(
            "data.max_prompt_length",
            f"{allowed}, and {count} of {len(lengths)} prompts are longer ({named})",
            f"at least {worst[0].tokens}",
            "Raise it (and actor_rollout_ref.rollout.max_model_len), lower the images' max_pixels, or set "
            "data.filter_overlong_prompts=true.",
        )
    over = sum(tokens > allowed for tokens in lengths)
    dropped = f"; {over} longer ones are dropped (data.filter_overlong_prompts)" if over else ""
    return [f"prompts    {len(lengths)} rows read, the longest has {worst[0].tokens} of {allowed} tokens, images included{dropped}"]


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
