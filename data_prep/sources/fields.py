"""Parts that several sources share: text fields, placeholders, inline options, boxes and images of a row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from data_prep.images import load_image
from data_prep.record import FILTERED, BoxTuple, Image, Record, Reject, Unusable
from data_prep.sources import Request
from faithful_rl.rewards.accuracy import normalise, read_options

# Instructions that follow the options in the sources' questions; the system prompt says how to answer.
_INSTRUCTION = re.compile(
    r"\s*(?:Answer with the option's letter from the given choices directly|Please answer directly with[^\n]*?|"
    r"Answer the question using a single word or phrase|Please select the correct answer[^\n]*?)\.?\s*$",
    re.IGNORECASE,
)
_MARKER = re.compile(r"(?:(?<=\s)|^)\(?([A-Z])[.):]\)?(?=\s*\S)")
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*\)?[.:]?")


def text_field(row: Any, key: str) -> str:
    """A text column, stripped. Raises Unusable for an absent column or another type."""
    if key not in row:
        raise Unusable("missing_field", f"no field {key!r}")
    value = row[key]
    if not isinstance(value, str):
        raise Unusable("bad_type", f"{key} is {type(value).__name__}, expected text")
    return value.strip()


def answer_text(value: Any, key: str) -> str:
    """A gold answer that may be text or a number. Raises Unusable for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable("empty_answer" if value is None else "bad_type", f"{key} is {value!r}, expected text")
    return str(value).strip()


def without_placeholder(text: str, images: int = 1) -> str:
    """A question without the `<image>` lines that its layout puts in front or behind; what is left inside is a `media_tag` reject."""
    for _ in range(images):
        if text.startswith("<image>"):
            text = text.removeprefix("<image>").lstrip()
        elif text.endswith("<image>"):
            text = text.removesuffix("<image>").rstrip()
    return text.strip()


def without_instruction(question: str) -> str:
    """A question without the sentence that tells how to write the answer: the system prompt says that."""
    return _INSTRUCTION.sub("", question).rstrip()


def inline_options(question: str) -> tuple[str, tuple[str, ...]]:
    """A question and the options written inside it, on lines (`A. left`, `(B) right`, `C: up`) or on one line; the options are empty
    where there are not at least two markers A, B, ... in order."""
    text = without_instruction(question)
    markers = list(_MARKER.finditer(text))
    for start in range(len(markers) - 1, -1, -1):
        if markers[start].group(1) != "A":
            continue
        run = [markers[start]]
        for marker in markers[start + 1 :]:
            if ord(marker.group(1)) == ord(run[-1].group(1)) + 1:
                run.append(marker)
        if len(run) < 2:
            continue
        ends = [marker.start() for marker in run[1:]] + [len(text)]
        options = tuple(text[marker.end() : end].strip().rstrip(";,") for marker, end in zip(run, ends, strict=True))
        if all(options):
            stem = re.sub(r"\s*(?:Options|Choices)\s*:?\s*$", "", text[: run[0].start()].rstrip(), flags=re.IGNORECASE)
            return stem, options
    return text, ()


def letter_answer(answer: str, options: Sequence[str]) -> int | None:
    """Position that `C`, `(c)` or `C.` names among the options; None where it is no letter or there are not so many."""
    match = _LETTER.fullmatch(answer.strip())
    index = ord(match.group(1).upper()) - ord("A") if match else -1
    return index if 0 <= index < len(options) else None


def named_option(answer: str, options: Sequence[str]) -> int | None:
    """Position of the one option that an answer names as training reads it: `B`, `(b)`, `left`, `B. left`; None for none or several."""
    named = read_options(answer, options)
    return min(named) if len(named) == 1 else None


def gold_position(answer: str, options: Sequence[str]) -> int:
    """Position of the option that the gold text names, compared exactly and then without case and punctuation.

    Raises:
        Unusable: answer_not_in_options, or duplicate_options where two options read the same.
    """
    read = [normalise(option) or option for option in options]
    if len(set(read)) != len(read):
        raise Unusable("duplicate_options", f"options {list(options)}")
    if answer in options:
        return list(options).index(answer)
    if (normalise(answer) or answer) in read:
        return read.index(normalise(answer) or answer)
    raise Unusable("answer_not_in_options", f"{answer!r} is none of {list(options)}")


def shuffled(options: Sequence[str], gold: int, key: str) -> tuple[tuple[str, ...], int]:
    """Options in an order drawn from `key` (text that names seed and row) and the new position of the gold one."""
    order = list(range(len(options)))
    Random(key).shuffle(order)
    return tuple(options[position] for position in order), order.index(gold)


def row_image(source: Any, request: Request, root: Path | None) -> tuple[Image, tuple[str, ...]]:
    """The row's image under the source's common options. Raises Unusable."""
    options = request.options
    return load_image(source, root=root, max_image_pixels=options["max_image_pixels"], verify=options["verify_images"])


def clean_box(values: Any, image_wh: tuple[int, int]) -> tuple[BoxTuple, bool]:
    """A box inside the image, and whether it was clipped.

    Raises:
        Unusable: box_degenerate (not four finite numbers, or without area), box_outside (no overlap with the image).
    """
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise Unusable("box_degenerate", f"{values!r} is not four numbers")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values):
        raise Unusable("box_degenerate", f"{values!r} is not four finite numbers")
    x1, y1, x2, y2 = (float(value) for value in values)
    if x1 >= x2 or y1 >= y2:
        raise Unusable("box_degenerate", f"{list(values)} has no area")
    width, height = image_wh
    clipped = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise Unusable("box_outside", f"{list(values)} on an image of {width} x {height}")
    return clipped, clipped != (x1, y1, x2, y2)


def clean_boxes(
    boxes: Iterable[Any], labels: Iterable[str], image_wh: tuple[int, int], request: Request
) -> tuple[tuple[BoxTuple, ...], tuple[str, ...], tuple[str, ...]]:
    """Boxes, their labels and notes; a bad one makes the row unusable, or is dropped and noted with `bad_boxes=drop`."""
    kept: list[BoxTuple] = []
    names: list[str] = []
    notes: list[str] = []
    for values, label in zip(boxes, labels, strict=True):
        try:
            box, clipped = clean_box(values, image_wh)
        except Unusable as error:
            if request.options["bad_boxes"] != "drop":
                raise
            notes.append(f"{error.reason}_dropped")
            continue
        kept.append(box)
        names.append(label)
        if clipped:
            notes.append("box_clipped")
    return tuple(kept), tuple(names), tuple(notes)


def too_long(uid: str, answer: str, raw: Any, request: Request) -> Reject | None:
    """The row as left out on purpose when its open answer has more words than `max_answer_words`."""
    most = request.options["max_answer_words"]
    if most and len(answer.split()) > most:
        return Reject(uid, raw, FILTERED, f"an answer of {len(answer.split())} words, at most {most}")
    return None


def boxed_record(
    uid: str,
    dataset: str,
    question: str,
    answer: str,
    image: Image,
    boxes: Sequence[BoxTuple],
    labels: Sequence[str],
    *,
    task_type: str,
    metadata: Mapping[str, Any],
    notes: tuple[str, ...],
    options: Sequence[str] = (),
    gold: int = -1,
    split: str = "train",
    response: str = "",
) -> Record:
    """A question about one image with reference boxes on it; `answer` is the gold text of an open question (`gold` -1).

    Raises:
        Unusable: as `Record`.
    """
    return Record(
        uid=uid,
        dataset=dataset,
        split=split,
        question=question,
        options=tuple(options),
        gold_index=gold,
        gold_text=options[gold] if options else answer,
        images=(image,),
        boxes=tuple(boxes),
        box_labels=tuple(labels),
        box_image_index=(0,) * len(boxes),
        task_type=task_type,
        metadata=metadata,
        response=response,
        notes=notes,
    )
