"""verl's RL parquet: the columns of the scenes, so that every file of a run reads alike.

Each image carries the pixel limits of the frame beside its bytes: verl hands the whole dict to qwen_vl_utils, which then resizes within
these limits and not within its own defaults. The reward reads the same limits from `extra_info`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.frames import Frame
from data_prep.images import encoded
from data_prep.prompts import letter, system_prompt, user_content
from data_prep.record import Image, Record
from data_prep.rl_schema import SCHEMA
from data_prep.writers.parquet import Written, read_rows, write_rows
from faithful_rl.config import ConfigError


def write_rl(records: Iterable[Record], path: Path, *, prompt: str = "think", frame: Frame | None = None, first_index: int = 0) -> Written:
    """Write one RL parquet file.

    Args:
        prompt: name of the system prompt (`data_prep.prompts.SYSTEM_PROMPTS`).
        frame: resize chain of the rollout; RL runs in verl, so its chain is `verl`.
        first_index: `extra_info.index` of the first row.

    Raises:
        ConfigError: another chain than verl's, an unknown prompt, or a full disk.
    """
    frame = frame or Frame()
    text = system_prompt(prompt)
    rows = (rl_row(record, index, text, frame) for index, record in enumerate(records, start=first_index))
    return write_rows(rows, path, SCHEMA)


def rl_row(record: Record, index: int, system: str, frame: Frame) -> dict[str, Any]:
    """One row. `system` is the system prompt's text, "" for none."""
    if frame.chain != "verl":
        raise ConfigError("frame", repr(frame.chain), "verl", "RL rows are read by verl: leave frame= out.")
    return {
        "data_source": record.dataset,
        "prompt": prompt_messages(record, system),
        "images": image_cells(record.images, frame),
        "ability": "spatial",
        "reward_model": {"style": "rule", "ground_truth": letter(record.gold_index) if record.options else record.gold_text},
        "extra_info": {
            "split": record.split,
            "index": index,
            "uid": record.uid,
            "dataset": record.dataset,
            "task_type": record.task_type,
            "question": record.question,
            "options": list(record.options),
            "gold_index": record.gold_index,
            "gt_boxes": [list(box) for box in record.boxes],
            "box_labels": list(record.box_labels),
            "box_image_idx": list(record.box_image_index),
            "img_wh": [list(image.wh) for image in record.images],
            "min_pixels": frame.min_pixels,
            "max_pixels": frame.max_pixels,
            "scene_json": "",
            "meta_json": json.dumps(record.metadata, sort_keys=True, ensure_ascii=False),
        },
    }


def prompt_messages(record: Record, system: str) -> list[dict[str, str]]:
    """System message (where there is one) and the user's question."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": user_content(record.question, record.options, len(record.images))}]


def image_cells(images: Iterable[Image], frame: Frame) -> list[dict[str, Any]]:
    """Encoded bytes and pixel limits of each image."""
    return [{"bytes": encoded(image), "min_pixels": frame.min_pixels, "max_pixels": frame.max_pixels} for image in images]


def read_rl(path: Path) -> Iterator[Record]:
    """The records of an RL file; `response` and `notes` are not part of it."""
    for row in read_rows(path):
        yield record_of(row)


def record_of(row: dict[str, Any]) -> Record:
    """The record of one RL row (also of a scenes row)."""
    extra, options = row["extra_info"], tuple(row["extra_info"]["options"])
    gold = extra["gold_index"]
    images = tuple(Image(cell["bytes"], None, width, height) for cell, (width, height) in zip(row["images"], extra["img_wh"], strict=True))
    return Record(
        uid=extra["uid"],
        dataset=extra["dataset"],
        split=extra["split"],
        question=extra["question"],
        options=options,
        gold_index=gold,
        gold_text=options[gold] if options else row["reward_model"]["ground_truth"],
        images=images,
        boxes=tuple(tuple(box) for box in extra["gt_boxes"]),
        box_labels=tuple(extra["box_labels"]),
        box_image_index=tuple(extra["box_image_idx"]),
        task_type=extra["task_type"],
        metadata=json.loads(extra["meta_json"]),
        row=extra["index"],
    )
