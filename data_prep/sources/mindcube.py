"""MindCube, tiny bench (MLL-Lab/MindCube): space from 2 to 4 views of one scene; 2 to 5 options inside the question.

One JSON Lines file; images lie below `data/`, relative to which they are named. The setting (among, around, rotation) is a part of the id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.record import Record, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, gold_letter, numbered, question_record, row_images
from data_prep.sources.fields import image_root, inline_options
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import json_lines, lines_count

SETTINGS = ("among", "around", "rotation", "translation")
PATTERNS = ("data/raw/MindCube_tinybench.jsonl", "raw/MindCube_tinybench.jsonl", "**/MindCube_tinybench.jsonl")
PINNED = Pinned(
    1050,
    by_type={"among": 600, "around": 250, "rotation": 200},
    sha256={"MindCube_tinybench.jsonl": ("0289eb82", "d22ac8")},
    revision="9c941b46a6bd65b6914669ef7a579948fc9c8467",
)


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """The one data file. Raises ConfigError."""
    return find(location, PATTERNS, "mindcube")[:1]


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    yield from numbered(files(location, request.options), "mindcube", json_lines)


def convert(index: int, raw: Any, request: Request) -> Record:
    question, options = inline_options(str(raw["question"]))
    if not options:
        raise Unusable("missing_field", "no options inside the question")
    gold = gold_letter(raw["gt_answer"], options)
    # .../data/raw/FILE: names begin below data/.
    root = image_root(request, files(request.location, request.options)[0].parent.parent)
    pictures = row_images(list(raw["images"]), request, root)
    name = str(raw["id"])
    setting = next((setting for setting in SETTINGS if setting in name), "other")
    metadata = {"source_id": name, "category": list(raw.get("category") or []), "type": str(raw.get("type") or "")}
    return question_record(f"mindcube-{name}", "mindcube", question, options, gold, pictures, setting, metadata)


SOURCE = Source(
    name="mindcube",
    licence="MIT (as third parties state; the card is not confirmed)",
    load=streamed("mindcube", rows, convert),
    home="MLL-Lab/MindCube",
    describe="MindCube tiny bench, evaluation only; unzip data.zip",
    count=lambda location, options: lines_count(files(location, options)),
    hub_files=lambda options: ["data.zip"],
)
