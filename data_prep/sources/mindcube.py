"""MindCube, tiny bench (MLL-Lab/MindCube): space from 2 to 4 views of one scene; 2 to 5 options inside the question.

One JSON Lines file; images lie below `data/`, relative to which they are named. The setting (among, around, rotation) is a part of the id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.hub import REVISIONS
from data_prep.record import Record, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, gold_letter, question_record, row_images, rows_of
from data_prep.sources.fields import inline_options
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import json_lines, lines_count

SETTINGS = ("among", "around", "rotation", "translation")
PATTERNS = ("data/raw/MindCube_tinybench.jsonl", "raw/MindCube_tinybench.jsonl", "**/MindCube_tinybench.jsonl")
PINNED = Pinned(
    1050,
    by_type={"among": 600, "around": 250, "rotation": 200},
    sha256={"MindCube_tinybench.jsonl": ("0289eb82", "d22ac8")},
    revision=REVISIONS["MLL-Lab/MindCube"],
)


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """The one data file. Raises ConfigError."""
    return find(location, PATTERNS, "mindcube")[:1]


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    yield from rows_of(files(location, request.options), "mindcube", json_lines)


def convert(index: int, raw: Any, request: Request) -> Record:
    question, options = inline_options(str(raw["question"]))
    if not options:
        raise Unusable("missing_field", "no options inside the question")
    gold = gold_letter(raw["gt_answer"], options)
    pictures = row_images(list(raw["images"]), request)
    name = str(raw["id"])
    setting = next((setting for setting in SETTINGS if setting in name), "other")
    metadata = {"source_id": name, "category": list(raw.get("category") or []), "type": str(raw.get("type") or "")}
    return question_record(f"mindcube-{name}", "mindcube", question, options, gold, pictures, setting, metadata)


SOURCE = Source(
    name="mindcube",
    licence="MIT (as third parties state; the card is not confirmed)",
    load=streamed("mindcube", rows, convert),
    files=files,
    images=lambda location, options: files(location, options)[0].parent.parent,  # .../data/raw/FILE: names begin below data/
    home="MLL-Lab/MindCube",
    describe="MindCube tiny bench, evaluation only; a local data.zip must be unpacked",
    count=lambda location, options: lines_count(files(location, options)),
    hub_files=lambda options: ["data.zip"],
)
