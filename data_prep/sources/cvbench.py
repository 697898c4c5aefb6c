"""CV-Bench (nyu-visionx/CV-Bench): counting and relations in 2D, depth and distance in 3D; one image, 2 to 6 options.

Columns: idx, type, task, image, question, choices, answer "(C)", prompt, filename, source, source_dataset, source_filename, target_class,
target_size, bbox. Read with pyarrow, because the card's feature metadata breaks older releases of `datasets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.hub import REVISIONS
from data_prep.record import Record, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, gold_letter, question_record, row_images, rows_of
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import parquet_count, parquet_rows

PARTS = ("2d", "3d")
PATTERNS = {part: (f"test_{part}.parquet", f"data/test_{part}.parquet", f"**/test_{part}.parquet") for part in PARTS}
_REVISION = REVISIONS["nyu-visionx/CV-Bench"]
PINNED = {
    "2d": Pinned(1438, by_type={"Count": 788, "Relation": 650}, sha256={"test_2d.parquet": ("33196034", "cbc")}, revision=_REVISION),
    "3d": Pinned(1200, by_type={"Depth": 600, "Distance": 600}, revision=_REVISION),
}


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """The data files of the chosen part. Raises ConfigError."""
    part = str(options["part"])
    wanted = PARTS if part == "both" and location.is_dir() else (part,)
    return [path for one in wanted for path in find(location, PATTERNS.get(one, ()), "cvbench")]


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    yield from rows_of(files(location, request.options), "cvbench", parquet_rows)


def convert(index: int, raw: Any, request: Request) -> Record:
    options = tuple(str(choice) for choice in raw["choices"])
    if len(options) < 2:
        raise Unusable("missing_field", f"{len(options)} choices")
    gold = gold_letter(raw["answer"], options)
    pictures = row_images([raw["image"]], request)
    kind = str(raw["type"]).lower()
    metadata = {"source_id": str(raw["idx"]), "source": str(raw.get("source") or ""), "filename": raw.get("filename")}
    return question_record(
        f"cvbench-{kind}-{raw['idx']}", f"cvbench_{kind}", str(raw["question"]), options, gold, pictures, str(raw["task"]), metadata
    )


SOURCE = Source(
    name="cvbench",
    licence="apache-2.0",
    load=streamed("cvbench", rows, convert),
    files=files,
    home="nyu-visionx/CV-Bench",
    describe="CV-Bench 2D and 3D, evaluation only",
    count=lambda location, options: parquet_count(files(location, options)),
    options={"part": "both"},
    choices={"part": (*PARTS, "both")},
    hub_files=lambda options: [f"test_{part}.parquet" for part in PARTS if options.get("part", "both") in (part, "both")],
)
