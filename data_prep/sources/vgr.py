"""VGR (Wang et al. 2025): chains of thought that cite regions, over AI2D, COCO, GQA, ChartQA, DVQA, DocVQA and OCR-VQA images.

Assistant text looks like `<think>The man is here <SOT>[0.49, 0.57, 0.67, 1.0]<EOT><image>, ...</think> Final answer: A racket.`:
coordinates are 0 to 1 of the original image, and a stray `<image>` follows each region. Regions become `<bbox>` citations in pixels of
the original image, stray tags and regions without area go, and the chain becomes the record's `response`. The short file rewrites the
long one, so only one of the two is ever read. Images are those of lmms-lab/LLaVA-NEXT-Data, `llava_next_raw_format`, extracted into one
root.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.frames import write_box
from data_prep.prompts import letter
from data_prep.record import BoxTuple, Record, Reject, Unusable
from data_prep.sources import Placed, Request, Source, streamed
from data_prep.sources.fields import (
    boxed_record,
    clean_box,
    inline_options,
    named_option,
    row_image,
    too_long,
    without_instruction,
    without_placeholder,
)
from data_prep.sources.reading import data_files, numbered, parquet_count, parquet_rows
from faithful_rl.config import ConfigError
from faithful_rl.types import Box

OPTIONS: dict[str, Any] = {
    "cot": "",  # short | long; needed where the location holds both files
    "final_answer": "required",  # required: rows without `Final answer:` are rejects | lenient: text behind the last </think> counts
}
_REGION = re.compile(r"<SOT>\s*\[([^\]<]*)\]\s*<EOT>(?:\s*<image>)?", re.IGNORECASE)
_ORPHAN = re.compile(r"<SOT>|<EOT>|<image>|<video>|<audio>", re.IGNORECASE)
_THINK = re.compile(r"</?think>", re.IGNORECASE)
_FINAL = re.compile(r"Final answer\s*:\s*", re.IGNORECASE)
# Tags of our own format: inside a chain they would be read as its answer or as a citation in the model's pixels.
_RESERVED = re.compile(r"<\s*/?\s*(?:answer|bbox|box)\s*>", re.IGNORECASE)
# What rounding to two decimals may add; beyond it the numbers are not 0 to 1 of the image.
_TOLERANCE = 0.01


def _file(location: Path, options: Mapping[str, Any]) -> tuple[Path, str]:
    wanted = options["cot"]
    found = data_files(location, ("vgr_*cot.parquet", "data/vgr_*cot.parquet"), "vgr_shortcot.parquet or vgr_longcot.parquet")
    kinds = {path: "short" if "short" in path.name else "long" if "long" in path.name else (wanted or "short") for path in found}
    chosen = [(path, kind) for path, kind in kinds.items() if wanted in ("", kind)]
    if len(chosen) != 1:
        names = ", ".join(path.name for path in found)
        fix = "Say cot=short or cot=long: the short chains rewrite the long ones, so both would give every question twice."
        raise ConfigError("vgr.cot", f"{wanted or 'nothing'} for {names}", "exactly one file", fix)
    return chosen[0]


def _rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    path, kind = _file(location, request.options)
    for index, row in numbered(parquet_rows(path, "vgr")):
        yield index, row if isinstance(row, Reject) else Placed(row, f"vgr-{kind}-{index}", kind)


def _convert(index: int, raw: Placed, request: Request) -> list[Record | Reject]:
    row, uid, kind = raw.row, raw.uid, raw.place
    name = row["image"][0] if isinstance(row["image"], list) and row["image"] else row["image"]
    if not isinstance(name, str):
        raise Unusable("image_missing", f"image is {name!r}, expected a path")
    question, told, notes = _turns(row["conversations"])
    image, image_notes = row_image(name, request, request.root)
    reasoning, answer = _split(told, request.options["final_answer"])
    found = _RESERVED.search(f"{reasoning} {answer}")
    if found:
        raise Unusable("reserved_tag", f"{found.group()} in the assistant's text")
    reasoning, boxes, box_notes = _cited(reasoning, image.wh, request)
    answer = _ORPHAN.sub("", _REGION.sub("", answer)).strip()
    if not answer:
        raise Unusable("empty_answer", "nothing behind the reasoning")
    stem, options = inline_options(question)
    gold = named_option(answer, options) if options else None
    if gold is None:
        left_out = too_long(uid, answer, row, request)
        if left_out:
            return [left_out]
        stem, options, gold = without_instruction(question), (), -1
    said = answer if gold < 0 else letter(gold)
    return [
        boxed_record(
            uid, "vgr", stem, answer, image, boxes, ("",) * len(boxes), options=options, gold=gold, task_type=name.split("/")[0],
            metadata={"image": name, "cot": kind},
            notes=(*notes, *image_notes, *box_notes),
            response=f"<think>{reasoning}</think><answer>{said}</answer>",
        )
    ]  # fmt: skip


def _turns(conversations: Any) -> tuple[str, str, tuple[str, ...]]:
    """Question, assistant's text and notes of the first pair of turns."""
    if not isinstance(conversations, list) or len(conversations) < 2:
        raise Unusable("missing_field", "conversations hold no pair of turns")
    human, gpt = conversations[0], conversations[1]
    if human.get("from") != "human" or gpt.get("from") != "gpt":
        raise Unusable("bad_type", f"turns from {human.get('from')!r} and {gpt.get('from')!r}, expected human and gpt")
    return (
        without_placeholder(human["value"].strip()),
        gpt["value"],
        ("later_turns_left_out",) if len(conversations) > 2 else (),
    )


def _split(told: str, rule: str) -> tuple[str, str]:
    """Reasoning and final answer of the assistant's text, think tags removed (they may repeat, and regions stand outside of them too)."""
    found = list(_FINAL.finditer(told))  # the last one: reasoning may speak of its final answer too
    if found:
        reasoning, answer = told[: found[-1].start()], told[found[-1].end() :]
    else:
        cut = told.lower().rfind("</think>")
        if rule == "required" or cut < 0:
            raise Unusable("no_final_answer", "no 'Final answer:' in the assistant's text")
        reasoning, answer = told[:cut], told[cut + len("</think>") :]
    return _THINK.sub(" ", reasoning).strip(), _THINK.sub(" ", answer).strip()


def _cited(text: str, image_wh: tuple[int, int], request: Request) -> tuple[str, tuple[BoxTuple, ...], tuple[str, ...]]:
    """Text with regions as `<bbox>` citations in original pixels, the boxes in order of first citation, and notes."""
    boxes: list[BoxTuple] = []
    notes: list[str] = []
    width, height = image_wh

    def cite(match: re.Match[str]) -> str:
        try:
            values = [float(part) for part in match.group(1).split(",")]
        except ValueError:
            values = []
        if len(values) == 4 and max(abs(value) for value in values) > 1.0 + _TOLERANCE:
            raise Unusable("box_outside", f"[{match.group(1)}] is not within 0 to 1 of the image")
        if len(values) == 4 and all(map(math.isfinite, values)) and (values[0] >= values[2] or values[1] >= values[3]):
            notes.append("box_degenerate_dropped")  # such boxes are known to be in the set: the box goes, the row stays
            return ""
        scaled = [value * side for value, side in zip(values, (width, height, width, height), strict=False)]
        try:
            box, clipped = clean_box(scaled, image_wh)
        except Unusable as error:
            if request.options["bad_boxes"] != "drop":
                raise
            notes.append(f"{error.reason}_dropped")
            return ""
        if clipped:
            notes.append("box_clipped")
        if box not in boxes:
            boxes.append(box)
        return f"{write_box(Box(*box))}"

    cited = _REGION.sub(cite, text)
    if _ORPHAN.search(cited):
        notes.append("orphan_tags_removed")
        cited = _ORPHAN.sub("", cited)
    return re.sub(r"[ \t]{2,}", " ", cited).strip(), tuple(boxes), tuple(notes)


def _count(location: Path, options: Mapping[str, Any]) -> int:
    return parquet_count([_file(location, options)[0]])


def _hub_files(options: Mapping[str, Any]) -> list[str]:
    return [f"data/vgr_{options['cot'] or 'short'}cot.parquet"]


SOURCE = Source(
    name="vgr",
    licence="CC0-1.0; the source images keep their own licences",
    load=streamed("vgr", _rows, _convert),
    files=lambda location, options: [_file(location, options)[0]],
    images=lambda location, options: _file(location, options)[0].parent,
    home="BytedanceDouyinContent/VGR",
    describe="VGR: chains of thought with regions; images=ROOT of llava_next_raw_format",
    options=OPTIONS,
    choices={"cot": ("", "short", "long"), "final_answer": ("required", "lenient")},
    version=3,
    count=_count,
    hub_files=_hub_files,
    open_answers=True,
)
