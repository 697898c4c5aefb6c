"""verl's multi-turn SFT parquet: system, user and the record's `response` as assistant, its boxes in the frame that training sees."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.frames import Frame
from data_prep.prompts import system_prompt
from data_prep.record import Record
from data_prep.rl_schema import IMAGES, MESSAGES
from data_prep.writers.parquet import Written, write_rows
from data_prep.writers.rl import image_cells, prompt_messages
from faithful_rl.config import ConfigError

SCHEMA = pa.schema(
    [
        ("messages", MESSAGES),
        ("images", IMAGES),
        ("uid", pa.string()),
        ("dataset", pa.string()),
        ("task_type", pa.string()),
        ("ground_truth", pa.string()),
        ("gt_boxes", pa.list_(pa.list_(pa.float64()))),
        ("img_wh", pa.list_(pa.list_(pa.int64()))),
        ("meta_json", pa.string()),
    ]
)


def write_sft(records: Iterable[Record], path: Path, *, prompt: str = "think", frame: Frame | None = None) -> Written:
    """Write one SFT parquet file for verl's `MultiTurnSFTDataset`.

    Set `data.max_length` to at least 8192 there: an image alone takes up to 1280 tokens of the default 1024.

    Args:
        records: each with a `response`; its citations are in original pixels of the first image.
        prompt, frame: as in `write_rl`; the same values, or SFT and RL speak different coordinates.

    Raises:
        ConfigError: a record without a response, another chain than verl's, or a full disk.
    """
    frame = frame or Frame()
    text = system_prompt(prompt)
    return write_rows((sft_row(record, text, frame) for record in records), path, SCHEMA)


def sft_row(record: Record, system: str, frame: Frame) -> dict[str, Any]:
    """One row. Raises ConfigError for a record without a response."""
    if frame.chain != "verl":
        raise ConfigError("frame", repr(frame.chain), "verl", "Use format=llama_factory for LLaMA-Factory.")
    answer = {"role": "assistant", "content": frame.cite(response_of(record), record.images[0].wh)}
    return {
        "messages": [*prompt_messages(record, system), answer],
        "images": image_cells(record.images, frame),
        "uid": record.uid,
        "dataset": record.dataset,
        "task_type": record.task_type,
        "ground_truth": record.gold_text,
        "gt_boxes": [list(box) for box in record.boxes],
        "img_wh": [list(image.wh) for image in record.images],
        "meta_json": json.dumps(record.metadata, sort_keys=True, ensure_ascii=False),
    }


def response_of(record: Record) -> str:
    """The target text. Raises ConfigError where the record has none."""
    if not record.response:
        raise ConfigError(
            "format",
            f"{record.uid} of {record.dataset}, which has no chain of thought",
            "records with a response",
            "Use format=rl, a source with chains (vgr), or the chains made by tree search.",
        )
    return record.response
