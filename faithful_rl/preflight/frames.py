"""Whether the boxes of the data sit where the model will see them: an image with a known box goes through the real processor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.frames import PROCESSOR_MAX_PIXELS, PROCESSOR_MIN_PIXELS, Frame, check_processor
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.geometry import smart_resize
from faithful_rl.preflight import prompt_lengths, rows
from faithful_rl.supervised import train_files

SIZES = 3  # different image sizes of each file that are pushed through
SFT_COLUMNS = ("images", "img_wh")
SFT_FIX = "Make the data again with the limits of the model's preprocessor (min_pixels=, max_pixels=), or correct those of the model."


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """For the first image sizes of every training file: what the reward assumes (`extra_info.min_pixels`, `max_pixels`) against what
    qwen_vl_utils and the model's processor make of such an image, its size and the place of a box in it.

    Raises:
        ConfigError: they differ, so that rewards would compare boxes in two frames.
    """
    data = config["data"]
    seen: set[tuple[int, ...]] = set()
    processor = None
    for name in rows._names(data["train_files"]):
        in_file = 0
        for number, row in rows._rows(pq.ParquetFile(Path(name).expanduser()), typed.data.check_rows):
            extra, cell = row["extra_info"], row["images"][0]
            if extra.get("min_pixels") is None or extra.get("max_pixels") is None or not extra.get("img_wh"):
                continue
            size = tuple(int(side) for side in extra["img_wh"][0])
            limits = (cell.get("min_pixels") or PROCESSOR_MIN_PIXELS, cell.get("max_pixels") or PROCESSOR_MAX_PIXELS)
            key = (*size, *limits, int(extra["min_pixels"]), int(extra["max_pixels"]))
            if key in seen:
                continue
            seen.add(key)
            processor = processor or prompt_lengths._load(str(config["actor_rollout_ref"]["model"]["path"]))[0]
            _check(processor, key, f"{name}, row {number}", data.get("mm_processor_kwargs") or {})
            in_file += 1
            if in_file == SIZES:
                break


def check_sft(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """The same for rows of supervised fine-tuning: the limits that each image carries decided where its boxes were written.

    Raises:
        ConfigError: the model's processor gives such an image another size, so that the model would learn boxes of another frame.
    """
    seen: set[tuple[int, ...]] = set()
    processor = None
    for path in train_files(config):
        file, in_file = pq.ParquetFile(path), 0
        columns = [name for name in SFT_COLUMNS if name in file.schema_arrow.names]
        for number, row in rows._rows(file, typed.data.check_rows, columns):
            for key in _cells(row):
                if key in seen or in_file == SIZES:
                    continue
                seen.add(key)
                in_file += 1
                processor = processor or prompt_lengths._load(str(config["model"]["path"]))[0]
                _check(processor, key, f"{path}, row {number}", {}, SFT_FIX)
            if in_file == SIZES:
                break


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[int, ...]]:
    """(width, height, min, max, min, max) of each image: original pixels, and its limits twice, because nothing else states them."""
    sizes = row.get("img_wh") or [None] * len(row["images"] or [])
    for cell, wh in zip(row["images"] or [], sizes, strict=False):
        if wh is None:
            with prompt_lengths._opened(cell) as picture:
                wh = picture.size
        limits = (int(cell.get("min_pixels") or PROCESSOR_MIN_PIXELS), int(cell.get("max_pixels") or PROCESSOR_MAX_PIXELS))
        yield int(wh[0]), int(wh[1]), *limits, *limits


def _check(processor: Any, key: tuple[int, ...], where: str, call_options: Mapping[str, Any], fix: str | None = None) -> None:
    width, height, low, high, reward_low, reward_high = key
    frame = Frame("verl", low, high, reward_low, reward_high)
    new_height, new_width = smart_resize(height, width, min_pixels=reward_low, max_pixels=reward_high)
    if frame.size((width, height)) != (new_width, new_height):
        raise ConfigError(
            where,
            f"an image resized within {low} to {high} pixels and a reward that assumes {reward_low} to {reward_high}",
            "the same limits in images and extra_info",
            "Make the data again with data_prep.",
        )
    try:
        check_processor(processor, frame, (width, height), call_options)
    except ConfigError as error:
        raise ConfigError(where, error.found, error.expected, fix or error.fix) from error
