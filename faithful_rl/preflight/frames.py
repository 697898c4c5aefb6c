"""Whether the boxes of the data sit where the model will see them: an image with a known box goes through the real processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.frames import PROCESSOR_MAX_PIXELS, PROCESSOR_MIN_PIXELS, Frame, check_processor
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.geometry import smart_resize
from faithful_rl.preflight import prompt_lengths, rows

SIZES = 3  # different image sizes of each file that are pushed through


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


def _check(processor: Any, key: tuple[int, ...], where: str, call_options: Mapping[str, Any]) -> None:
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
        raise ConfigError(where, error.found, error.expected, error.fix) from error
