"""Visual-CoT (Shao et al. 2024), metadata files `<name>_cot_train.jsonl`: open questions with the region that answers them.

Boxes are x1, y1, x2, y2 in pixels of the original image. Files have different further columns, which is why each line is read on its own.
Some boxes stick out of the image (831 of 11,735 in dude) and are clipped; a few have no area.
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
    row_image,
    text_field,
    too_long,
    without_placeholder,
)
from data_prep.sources.reading import data_files, json_lines, lines_count
from faithful_rl.config import ConfigError

OPTIONS: dict[str, Any] = {
    "subsets": (),  # some of cub, docvqa, dude, flickr30k, gqa, infographicsvqa, openimages, sroie, textcap, textvqa, visual7w, vsr
    "split": "train",
}
SPLITS = ("train", "val")
# Folders below cot_image_data that are not called like the subset.
FOLDERS = {"textcap": "textvqa", "visual7w": "v7w"}
_TAKEN = ("question", "answer", "image", "bboxs", "width", "height")


def _files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    split = options["split"]
    named = location.name.partition("_cot_")[2].partition(".")[0] if location.is_file() else ""
    if named in SPLITS and named != split:
        raise ConfigError("viscot.split", f"{split} for the file {location.name}", f"split={named}", f"Say split={named}.")
    files = data_files(location, (f"*_cot_{split}.jsonl", f"metadata/*_cot_{split}.jsonl"), f"<name>_cot_{split}.jsonl")
    wanted = options["subsets"]
    if not wanted or location.is_file():
        return files
    kept = [path for path in files if subset_of(path) in wanted]
    missing = sorted(set(wanted) - {subset_of(path) for path in kept})
    if missing:
        raise ConfigError("viscot.subsets", ", ".join(missing), f"some of {', '.join(map(subset_of, files))}", "Correct the names.")
    return kept


def subset_of(path: Path) -> str:
    return path.name.partition("_cot_")[0]


def _rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    index = 0
    for path in _files(location, request.options):
        subset = subset_of(path)
        folder = folder_of(subset, request.root) if request.root else None
        for number, row in enumerate(json_lines(path, "viscot")):
            yield index, row if isinstance(row, Reject) else Placed(row, f"viscot-{subset}-{number}", (subset, folder))
            index += 1


def _convert(index: int, raw: Placed, request: Request) -> list[Record | Reject]:
    row, uid, (subset, folder) = raw.row, raw.uid, raw.place
    question = without_placeholder(text_field(row, "question"))
    if "answer" not in row:
        raise Unusable("missing_field", "no field 'answer'")
    answer = answer_text(row["answer"], "answer")
    left_out = too_long(uid, answer, row, request)
    if left_out:
        return [left_out]
    image, image_notes = row_image(text_field(row, "image"), request, folder)
    stated = (row.get("width") or image.width, row.get("height") or image.height)  # some files may leave them out
    if stated != image.wh:
        raise Unusable("image_size_differs", f"the row says {stated[0]} x {stated[1]}, the image has {image.width} x {image.height}")
    given = row.get("bboxs", [])
    if not isinstance(given, list):
        raise Unusable("bad_type", f"bboxs is {type(given).__name__}, expected a list")
    given = [given] if given and not isinstance(given[0], list) else given
    boxes, labels, box_notes = clean_boxes(given, [""] * len(given), image.wh, request)
    metadata = {"image": row["image"], **{key: value for key, value in row.items() if key not in _TAKEN}}
    split, notes = str(request.options["split"]), (*image_notes, *box_notes)
    record = boxed_record(
        uid, "viscot", question, answer, image, boxes, labels, split=split, task_type=subset, metadata=metadata, notes=notes
    )
    return [record]


def beside(path: Path) -> Path:
    """The image root when none is given: `cot_image_data` next to the file or next to its folder."""
    for folder in (path.parent / "cot_image_data", path.parent.parent / "cot_image_data"):
        if folder.is_dir():
            return folder
    return path.parent


def folder_of(subset: str, root: Path) -> Path:
    """The folder that a subset's paths may not leave: names are ambiguous between subsets, so never the whole root if it has folders."""
    for name in dict.fromkeys((FOLDERS.get(subset, subset), subset)):
        if (root / name).is_dir():
            return root / name
    return root


def _count(location: Path, options: Mapping[str, Any]) -> int:
    return lines_count(_files(location, options))


def _hub_files(options: Mapping[str, Any]) -> list[str]:
    names = options["subsets"] or ("*",)
    return [f"metadata/{name}_cot_{options['split']}.jsonl" for name in names]


SOURCE = Source(
    name="viscot",
    licence="Apache-2.0; the source images keep their own licences",
    load=streamed("viscot", _rows, _convert),
    files=_files,
    images=lambda location, options: beside(_files(location, options)[0]),
    home="deepcs233/Visual-CoT",
    describe="Visual-CoT metadata files: open questions with boxes; images=cot_image_data",
    options=OPTIONS,
    choices={"split": SPLITS},
    version=2,
    count=_count,
    hub_files=_hub_files,
    open_answers=True,
)
