"""LLaMA-Factory's sharegpt JSON, its images as files, and the entry of `dataset_info.json`.

LLaMA-Factory resizes before the processor does, by default to 589,824 pixels. Boxes are written in the frame of that chain, so train
with `image_max_pixels` and `image_min_pixels` as the manifest says, or they will not sit where the model sees them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.frames import Frame
from data_prep.images import encoded
from data_prep.manifest import write_text
from data_prep.prompts import system_prompt, user_content
from data_prep.record import Image, Record
from data_prep.writers.parquet import Written, put_whole
from data_prep.writers.sft import response_of
from faithful_rl.config import ConfigError

_SUFFIX = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}
IMAGE_FOLDER = "images"


def write_llama_factory(
    records: Iterable[Record], directory: Path, *, name: str, prompt: str = "think", frame: Frame | None = None
) -> Written:
    """Write `<name>.json`, `images/` and `dataset_info.json` into `directory`.

    Args:
        frame: its chain is `llama_factory`; None: that chain with our pinned limits.

    Raises:
        ConfigError: a record without a response, another chain, or a full disk.
    """
    frame = frame or Frame(chain="llama_factory")
    text = system_prompt(prompt)
    lines = (json_line(llama_factory_row(record, text, frame, directory)) for record in records)
    return write_json_list(lines, directory, name)


def llama_factory_row(record: Record, system: str, frame: Frame, directory: Path) -> dict[str, Any]:
    """One entry; its images are written below `directory` unless they are there."""
    if frame.chain != "llama_factory":
        raise ConfigError("frame", repr(frame.chain), "llama_factory", "Use format=sft for verl.")
    images = [put_image(image, directory) for image in record.images]
    return {
        "conversations": [
            {"from": "human", "value": user_content(record.question, record.options, len(images))},
            {"from": "gpt", "value": frame.cite(response_of(record), record.images[0].wh)},
        ],
        "images": images,
        "system": system,
    }


def put_image(image: Image, directory: Path) -> str:
    """Write an image under the hash of its bytes; returns its path relative to `directory`."""
    data = encoded(image)
    digest = hashlib.sha256(data).hexdigest()
    relative = f"{IMAGE_FOLDER}/{digest[:2]}/{digest[:32]}{_SUFFIX.get(data[:2], '.png')}"
    put_whole(data, directory / relative)
    return relative


def json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False)


def write_json_list(lines: Iterable[str], directory: Path, name: str) -> Written:
    """Join JSON texts into the list `<name>.json` and describe it in `dataset_info.json`."""
    path = directory / f"{name}.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for text in lines:
                file.write(("[\n" if count == 0 else ",\n") + text)
                count += 1
            file.write("\n]\n" if count else "[]\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    info = {
        name: {
            "file_name": path.name,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "images", "system": "system"},
        }
    }
    write_text(directory / "dataset_info.json", json.dumps(info, indent=2, sort_keys=True) + "\n")
    return Written(path, count)


def part_lines(parts: Sequence[Path]) -> Iterator[str]:
    """JSON texts of part files, one a line."""
    for part in parts:
        with part.open(encoding="utf-8") as file:
            yield from (text.rstrip("\n") for text in file)
