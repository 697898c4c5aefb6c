"""Visual-CoT, `viscot_363k.json`: the conversation form of the same questions (404,120 rows in one JSON list of 345 MB, streamed).

An entry's `image` is `[path, path + "###[x1, y1, x2, y2]"]`: the suffix is the box in pixels of the original image, cut to whole numbers.
The second turn repeats it with three decimals, relative to the image PADDED TO A SQUARE. The suffix is used; the turn is compared with
it under both readings, and a row whose turn fits neither is a reject.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.frames import unpad
from data_prep.record import FILTERED, Record, Reject, Unusable
from data_prep.sources import Placed, Request, Source, streamed
from data_prep.sources.fields import boxed_record, clean_boxes, row_image, text_field, too_long, without_placeholder
from data_prep.sources.reading import data_files, json_list, numbered, rows_count
from data_prep.sources.viscot import beside, folder_of

OPTIONS: dict[str, Any] = {
    "subsets": (),  # some of flickr30k, gqa, openimages, docvqa, textcap, v7w, textvqa, infographicsvqa, cub, vsr; empty: all
}
_ASK = re.compile(
    r"\s*Please provide the bounding box coordinate of the region that can help you answer the question better\.?\s*$", re.IGNORECASE
)
_SUFFIX = re.compile(r"###\s*(\[.*\])\s*$")


def _files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    return data_files(location, ("viscot_363k.json",), "viscot_363k.json")[:1]


def _rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    wanted = request.options["subsets"]
    folders: dict[str, Path] = {}
    for index, row in numbered(json_list(_files(location, request.options)[0], "viscot_363k")):
        uid = f"viscot_363k-{index}"
        if isinstance(row, Reject):
            yield index, row
        elif wanted and row.get("dataset") not in wanted:
            yield index, Reject(uid, {"dataset": row.get("dataset")}, FILTERED, "another subset")
        else:
            yield index, Placed(row, uid, folders)


def _convert(index: int, raw: Placed, request: Request) -> list[Record | Reject]:
    row, uid, folders = raw.row, raw.uid, raw.place
    subset = text_field(row, "dataset")
    turns = row["conversations"]
    if not isinstance(turns, list) or len(turns) != 4:
        raise Unusable("missing_field", f"{len(turns) if isinstance(turns, list) else 'no'} turns, expected 4")
    question = _ASK.sub("", without_placeholder(turns[0]["value"].strip())).strip()
    answer = turns[3]["value"].strip()
    left_out = too_long(uid, answer, row, request)
    if left_out:
        return [left_out]
    names = row["image"]
    if not isinstance(names, list) or len(names) != 2:
        raise Unusable("image_missing", f"image is {names!r}, expected two paths")
    # Paths are cot/<subset>/...; the archive unpacks to cot_image_data/<subset>/...
    folder, _, inner = names[0].removeprefix("cot/").partition("/")
    if folder in (".", ".."):
        raise Unusable("image_outside_root", f"{names[0]!r} leaves the folders of the subsets")
    if request.root and folder not in folders:
        folders[folder] = folder_of(folder, request.root)
    image, image_notes = row_image(inner, request, folders.get(folder))
    box, box_notes = _box(names[1], turns[1]["value"], image.wh)
    boxes, labels, clip_notes = clean_boxes([box], [""], image.wh, request)
    split, kind = str(row.get("split", "train")), "visual7w" if subset == "v7w" else subset
    metadata, notes = {"image": names[0], "question_id": row.get("question_id")}, (*image_notes, *box_notes, *clip_notes)
    record = boxed_record(
        uid, "viscot", question, answer, image, boxes, labels, split=split, task_type=kind, metadata=metadata, notes=notes
    )
    return [record]


def _box(second_image: str, turn: str, image_wh: tuple[int, int]) -> tuple[list[float], tuple[str, ...]]:
    """The box in original pixels and how the conversation's turn agrees with it (`frame_padded`, `frame_plain`, `box_unpadded`)."""
    suffix = _SUFFIX.search(second_image)
    said = _four(turn)
    if suffix is None:
        if said is None:
            raise Unusable("box_degenerate", f"neither {second_image[-60:]!r} nor {turn[:60]!r} holds a box")
        return unpad(said, image_wh).as_list(), ("box_unpadded",)
    stated = _four(suffix.group(1))
    if stated is None:
        raise Unusable("box_degenerate", f"{suffix.group(1)[:60]!r} is not four numbers")
    if said is None:
        return list(stated), ("turn_without_box",)
    width, height = image_wh
    tolerance = 2.0 + max(width, height) / 1000  # whole pixels by cutting, and three decimals of the longer side
    padded = unpad(said, image_wh).as_list()
    plain = [value * side for value, side in zip(said, (width, height, width, height), strict=True)]
    if _near(padded, stated, tolerance):
        return list(stated), ("frame_padded",)
    if _near(plain, stated, tolerance):
        return list(stated), ("frame_plain",)
    raise Unusable("conflicting_boxes", f"suffix {list(stated)}, turn {padded} padded or {plain} plain, tolerance {tolerance:.1f} pixels")


def _near(first: list[float], second: tuple[float, float, float, float], tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(first, second, strict=True))


def _four(text: str) -> tuple[float, float, float, float] | None:
    try:
        values = json.loads(text)
        x1, y1, x2, y2 = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return x1, y1, x2, y2


def _count(location: Path, options: Mapping[str, Any]) -> int:
    return rows_count(json_list(_files(location, options)[0], "viscot_363k"))


def _hub_files(options: Mapping[str, Any]) -> list[str]:
    return ["viscot_363k.json"]


SOURCE = Source(
    name="viscot_363k",
    licence="Apache-2.0; the source images keep their own licences",
    load=streamed("viscot_363k", _rows, _convert),
    files=_files,
    images=lambda location, options: beside(_files(location, options)[0]),
    home="deepcs233/Visual-CoT",
    describe="Visual-CoT conversations (viscot_363k.json); images=cot_image_data",
    options=OPTIONS,
    count=_count,
    hub_files=_hub_files,
    open_answers=True,
)
