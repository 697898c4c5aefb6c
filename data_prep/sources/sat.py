"""SAT (Ray et al. 2024): spatial questions on one or two images of simulated rooms, no boxes.

Two layouts, told apart by their columns: `array/SAT` (`image_bytes`) and `array/SAT-v2` (`images`). The gold answer was the first of
`answers` in every row that anyone checked, so options are shuffled in each row by the seed. The train file is one row group of 5 GB in
order of question type: it is streamed, and a random sample (`sample=`) must be drawn instead of its first rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.record import FILTERED, Record, Reject, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.fields import answer_text, gold_position, row_image, shuffled, text_field, too_long, without_placeholder
from data_prep.sources.reading import data_files, numbered, parquet_count, parquet_rows
from faithful_rl.config import ConfigError

OPTIONS: dict[str, Any] = {
    "split": "train",  # picks the file of a directory
    "question_types": (),  # some of the type names below; empty: all
    "strip_first_frame": True,  # remove the stray " in the first frame" of val's and train's obj_movement options
}
_COLUMNS = ("image_bytes", "images", "question", "answers", "question_type", "correct_answer")
SPLITS = ("train", "static", "val", "test")
_NAME = re.compile(rf"(?:SAT_)?(?P<split>{'|'.join(SPLITS)})(?:[-_.]|$)")
_PATTERNS = ("SAT_{split}.parquet", "{split}-*.parquet", "data/{split}-*.parquet", "SAT_{split}_*.parquet")
# The test file shortens one name; one word per type here.
_TYPES = {"action_conseq": "action_consequence"}
_STRAY = " in the first frame"


def _files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    split = options["split"]
    named = _NAME.match(location.name) if location.is_file() else None
    if named and named["split"] != split:
        fix = f"Say split={named['split']}."
        if named["split"] == "test":
            fix = "It is SAT-Real, a benchmark: read it as sat_real, or say split=test to make SAT's rows of it in spite of that."
        raise ConfigError("sat.split", f"{split} for the file {location.name}", f"split={named['split']}", fix)
    return data_files(location, [pattern.format(split=split) for pattern in _PATTERNS], "a parquet file of SAT")


def _rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    yield from numbered(row for path in _files(location, request.options) for row in parquet_rows(path, "sat", _COLUMNS))


def _convert(index: int, row: Any, request: Request) -> list[Record | Reject]:
    split = request.options["split"]
    uid = f"sat-{split}-{index}"
    stated = text_field(row, "question_type")
    task_type = _TYPES.get(stated, stated)
    wanted = request.options["question_types"]
    if wanted and task_type not in wanted and stated not in wanted:
        return [Reject(uid, {"question_type": stated}, FILTERED, f"question_type {stated}")]
    images, notes = _images(row, request)
    question = without_placeholder(text_field(row, "question"), len(images))
    answers = row["answers"]
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise Unusable("bad_type", f"answers is {answers!r}, expected a list of texts")
    gold_text = answer_text(row["correct_answer"], "correct_answer")
    options = [answer.strip() for answer in answers]
    if request.options["strip_first_frame"]:
        options, gold_text = [option.removesuffix(_STRAY) for option in options], gold_text.removesuffix(_STRAY)
    metadata = {"question_type": stated, "answers_as_given": answers}
    if len(options) > 1 and options[0] == gold_text:
        notes = (*notes, "gold_was_first")  # in every row that anyone has checked; the manifest's count says so of this file
    if len(options) < 2:
        left_out = too_long(uid, gold_text, {"correct_answer": gold_text}, request)
        if left_out:
            return [left_out]
        return [Record(uid, "sat", split, question, (), -1, gold_text, images, task_type=task_type, metadata=metadata, notes=notes)]
    order, gold = shuffled(options, gold_position(gold_text, options), f"sat/{request.seed}/{split}/{index}")
    return [Record(uid, "sat", split, question, order, gold, order[gold], images, task_type=task_type, metadata=metadata, notes=notes)]


def _images(row: Any, request: Request) -> tuple[Any, tuple[str, ...]]:
    cells = row.get("image_bytes") if row.get("image_bytes") is not None else row.get("images")
    if cells is None:
        raise Unusable("image_missing", "neither image_bytes nor images")
    cells = cells if isinstance(cells, list) else [cells]
    loaded = [row_image(cell, request, request.root) for cell in cells]
    return tuple(image for image, _ in loaded), tuple(note for _, notes in loaded for note in notes)


def _count(location: Path, options: Mapping[str, Any]) -> int:
    return parquet_count(_files(location, options))


def _hub_files(options: Mapping[str, Any]) -> list[str]:
    return [pattern.format(split=options["split"]) for pattern in _PATTERNS]


SOURCE = Source(
    name="sat",
    licence="MIT (array/SAT); array/SAT-v2 states none",
    load=streamed("sat", _rows, _convert),
    files=_files,
    home="array/SAT-v2",
    describe="SAT: static and dynamic spatial questions, both parquet layouts",
    options=OPTIONS,
    choices={"split": SPLITS},
    count=_count,
    hub_files=_hub_files,
)
