"""TreeVGR-RL-37K (Wang et al. 2025): V* questions with open answers, then VisDrone questions with options inside `problem`.

Boxes are x1, y1, x2, y2 in pixels of the original image (the V* file upstream has x, y, width, height: not this one). Images lie beside
the parquet file (`images/0.jpg`), from `images.tar.gz`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.record import Record, Reject, Unusable
from data_prep.sources import Placed, Request, Source, streamed
from data_prep.sources.fields import (
    answer_text,
    boxed_record,
    clean_boxes,
    gold_position,
    inline_options,
    letter_answer,
    named_option,
    row_image,
    text_field,
    too_long,
    without_placeholder,
)
from data_prep.sources.reading import data_files, numbered, parquet_count, parquet_rows

OPTIONS: dict[str, Any] = {}


def _files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    return data_files(location, ("*.parquet", "data/*.parquet"), "vstar30k_visdrone6k_x1y1x2y2.parquet")


def _rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    found = _files(location, request.options)
    for index, row in numbered(row for path in found for row in parquet_rows(path, "treevgr_rl")):
        yield index, row if isinstance(row, Reject) else Placed(row, f"treevgr_rl-{index}")


def _convert(index: int, raw: Placed, request: Request) -> list[Record | Reject]:
    row, uid = raw.row, raw.uid
    names = row["images"]
    if not isinstance(names, list) or len(names) != 1:
        raise Unusable("image_missing", f"images is {names!r}, expected one path")
    question = without_placeholder(text_field(row, "problem"))
    answer = answer_text(row["answer"], "answer")
    stem, options = inline_options(question)
    gold = -1
    if options:
        position = named_option(answer, options)
        gold = gold_position(answer, options) if position is None else position
    elif letter_answer(answer, "ABCDEFGH") is not None:
        raise Unusable("answer_not_in_options", f"the answer {answer!r} is a letter, but the problem shows no options")
    else:
        left_out = too_long(uid, answer, row, request)
        if left_out:
            return [left_out]
    image, image_notes = row_image(names[0], request, request.root)
    targets = row["target_instances"]
    if targets is None:
        raise Unusable("missing_field", "target_instances is null")
    labels = [str(target.get("label") or target.get("name") or "") for target in targets]
    boxes, kept_labels, box_notes = clean_boxes([target["bbox"] for target in targets], labels, image.wh, request)
    return [
        boxed_record(
            uid, "treevgr_rl", stem, answer, image, boxes, kept_labels, options=options, gold=gold,
            task_type="visdrone" if options else "vstar",
            metadata={"image": names[0], "names": [target.get("name") for target in targets]},
            notes=(*image_notes, *box_notes),
        )
    ]  # fmt: skip


def _count(location: Path, options: Mapping[str, Any]) -> int:
    return parquet_count(_files(location, options))


def _hub_files(options: Mapping[str, Any]) -> list[str]:
    return ["*.parquet"]


SOURCE = Source(
    name="treevgr_rl",
    licence="not stated by the data set; its code is Apache-2.0",
    load=streamed("treevgr_rl", _rows, _convert),
    files=_files,
    images=lambda location, options: _files(location, options)[0].parent,
    home="HaochenWang/TreeVGR-RL-37K",
    describe="TreeVGR-RL-37K: V* and VisDrone questions with boxes; images=DIR that holds images/",
    options=OPTIONS,
    version=2,
    count=_count,
    hub_files=_hub_files,
    open_answers=True,
)
