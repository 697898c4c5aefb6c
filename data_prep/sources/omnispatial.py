"""OmniSpatial, test split (qizekun/OmniSpatial): four kinds of spatial reasoning, ten sub-tasks, 2 to 4 options.

`data.json` is one JSON list; `answer` counts from 0; `id` is unique inside a task type only. The image of a row is
`{task_type}/{id before "_"}.png`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.hub import REVISIONS
from data_prep.record import Record, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, lost_file, question_record, row_images
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import numbered, rows_count

PATTERNS = ("data.json", "OmniSpatial-test/data.json", "**/OmniSpatial-test/data.json")
PINNED = Pinned(1533, revision=REVISIONS["qizekun/OmniSpatial"])


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """The one data file. Raises ConfigError."""
    return find(location, PATTERNS, "omnispatial")[:1]


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    yield from numbered(_listed(files(location, request.options)[0]))


def _listed(path: Path) -> list[Any]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(listed, list):
            raise ValueError(f"a JSON {type(listed).__name__} instead of a list")
    except (ValueError, RecursionError) as error:
        return [lost_file("omnispatial", path, error)]
    return listed


def convert(index: int, raw: Any, request: Request) -> Record:
    options = tuple(str(option) for option in raw["options"])
    gold = raw["answer"]
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(options):
        raise Unusable("answer_not_in_options", f"{gold!r} is no position in {len(options)} options")
    kind, part, name = str(raw["task_type"]), str(raw["sub_task_type"]), str(raw["id"])
    pictures = row_images([f"{kind}/{name.split('_')[0]}.png"], request)
    metadata = {"source_id": f"{kind}/{part}/{name}"}
    uid, question = f"omnispatial-{kind}-{part}-{name}", str(raw["question"])
    return question_record(uid, "omnispatial", question, options, gold, pictures, f"{kind}/{part}", metadata)


SOURCE = Source(
    name="omnispatial",
    licence="apache-2.0 on its card, CC BY-NC 4.0 in its repository: take the stricter one",
    load=streamed("omnispatial", rows, convert),
    files=files,
    images=lambda location, options: files(location, options)[0].parent,
    home="qizekun/OmniSpatial",
    describe="OmniSpatial test, evaluation only; a local OmniSpatial-test.zip must be unpacked",
    count=lambda location, options: rows_count(_listed(files(location, options)[0])),
    hub_files=lambda options: ["OmniSpatial-test.zip"],
)
