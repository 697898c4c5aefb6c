"""The one internal record: every source ends here, every writer starts here.

A `Record` is a question that can be trained on or evaluated; a `Reject` is a source row that cannot, with the reason and the row
itself. Both are made by a source module and counted in the manifest, so that nothing disappears on the way.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from faithful_rl.response import box_spans, parse_box
from faithful_rl.rewards.accuracy import MAX_OPTIONS

# verl and LLaMA-Factory replace each of the first three by a picture, a film or a sound, wherever it stands; the others are Qwen's own
# tokens for the same and for turns, which a tokenizer reads out of plain text.
MEDIA_TAG = re.compile(
    r"<(?:image|video|audio)>|<\|(?:image_pad|video_pad|vision_start|vision_end|im_start|im_end|endoftext)\|>", re.IGNORECASE
)

# Why a source row is not used. The words are columns of the manifest: add one rather than change a meaning.
REASONS = {
    "answer_not_in_options": "the gold answer is none of the options",
    "bad_type": "a field has another type than its layout says",
    "box_degenerate": "a box without width or height",
    "box_outside": "a box that lies outside the image",
    "conflicting_boxes": "two statements of the same box disagree",
    "corrupt_file": "a file that cannot be read to its end",
    "corrupt_json": "a line that is not JSON",
    "corrupt_parquet": "a row in a damaged part of a parquet file",
    "duplicate_options": "two options with the same text",
    "empty_answer": "no gold answer",
    "empty_question": "no question",
    "filtered": "left out on purpose by an option; counted, but no reject",
    "image_aspect_ratio": "an image longer than 200 times its width, which Qwen2.5-VL refuses",
    "image_bomb": "an image above the limit of pixels",
    "image_missing": "no image, or a path with no file",
    "image_outside_root": "an image path that leaves the image root",
    "image_size_differs": "an image of another size than the row states",
    "image_truncated": "an image file that ends early",
    "image_unreadable": "a file that is no image",
    "invalid_record": "a record that contradicts itself",
    "media_tag": "a literal <image>, <video>, <audio> or special token inside question, options or response",
    "missing_field": "a field of the layout is absent",
    "no_final_answer": "a chain of thought without its final answer",
    "reserved_tag": "a literal <answer> or <bbox> tag inside a chain of thought: it would be read as ours",
    "not_unicode": "text with half of a character, or bytes that are no UTF-8: no file can hold it",
    "too_many_options": "more options than letters",
    "uncertain": "a row whose label the source itself calls wrong or doubtful",
    "duplicate_uid": "the same uid twice in one data set",
}
FILTERED = "filtered"

BoxTuple = tuple[float, float, float, float]


class Unusable(ValueError):
    """Raised while a source row is converted: the row becomes a `Reject` with this reason."""

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise KeyError(f"unknown reject reason {reason!r}: add it to data_prep.record.REASONS")
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True, slots=True)
class Image:
    """One image, as encoded bytes or as a file: exactly one of the two. `width` and `height` are original pixels, >= 1.

    Pixels are as stored: an EXIF orientation is not applied (see `data_prep.images`).
    """

    data: bytes | None
    path: str | None
    width: int
    height: int

    def __post_init__(self) -> None:
        if (self.data is None) == (self.path is None):
            raise ValueError("an Image has either data or a path")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"an Image has at least 1 x 1 pixel, got {self.width} x {self.height}")

    @property
    def wh(self) -> tuple[int, int]:
        """(width, height) in original pixels."""
        return self.width, self.height


@dataclass(frozen=True, slots=True)
class Record:
    """One question.

    Attributes:
        uid: unique inside the data set and the same on every run; it names the source row.
        question: text without options and without media tags.
        options: texts without letters, at most 26; empty for an open question.
        gold_index: position of the right option, -1 for an open question.
        gold_text: text of the right option, or the free answer; never empty.
        images: in the order of the prompt.
        boxes: x1, y1, x2, y2 in pixels of the ORIGINAL image, with x1 < x2 and y1 < y2, inside the image.
        box_labels, box_image_index: one for every box; a label may be "".
        metadata: JSON-able; everything else the source says about the row.
        response: target of supervised training, "" without one. Boxes stand in it as `<bbox>[x1,y1,x2,y2]</bbox>` in pixels of the
            ORIGINAL first image; the writers map them.
        notes: what was mended (`box_clipped`, ...); counted in the manifest.
        row: index of the source row (0-based), -1 where the source has none.
        source_row: the row as it was, for `rejects.jsonl`, should the record still be turned down; no part of what it says.

    Raises:
        Unusable: where a field breaks the above.
    """

    uid: str
    dataset: str
    split: str
    question: str
    options: tuple[str, ...]
    gold_index: int
    gold_text: str
    images: tuple[Image, ...]
    boxes: tuple[BoxTuple, ...] = ()
    box_labels: tuple[str, ...] = ()
    box_image_index: tuple[int, ...] = ()
    task_type: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    response: str = ""
    notes: tuple[str, ...] = ()
    row: int = -1
    source_row: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.uid or not self.dataset or not self.split:
            raise Unusable("invalid_record", f"uid, dataset and split must not be empty: {self.uid!r}, {self.dataset!r}, {self.split!r}")
        if not self.question.strip():
            raise Unusable("empty_question", "the question is empty")
        self._check_answer()
        try:
            metadata = json.dumps(self.metadata, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Unusable("invalid_record", f"metadata is not JSON: {error}") from error
        self._check_unicode(metadata)
        for text in (self.question, *self.options, self.response):
            found = MEDIA_TAG.search(text)
            if found:
                raise Unusable("media_tag", f"{found.group()} in {text[:120]!r}")
        self._check_boxes()
        for start, end in box_spans(self.response):
            if parse_box(self.response[start + len("<bbox>") : end - len("</bbox>")]) is None:
                raise Unusable("box_degenerate", f"the response cites {self.response[start:end][:80]!r}")

    def _check_unicode(self, metadata: str) -> None:
        texts = (self.uid, self.split, self.task_type, self.question, *self.options, self.gold_text, *self.box_labels, self.response)
        try:
            "\n".join((*texts, metadata)).encode("utf-8")
        except UnicodeEncodeError as error:
            start = max(0, error.start - 20)
            raise Unusable("not_unicode", f"half of a character in {error.object[start : error.end + 20]!a}") from error

    def _check_answer(self) -> None:
        if not self.gold_text.strip():
            raise Unusable("empty_answer", "the gold answer is empty")
        if len(self.options) > MAX_OPTIONS:
            raise Unusable("too_many_options", f"{len(self.options)} options, at most {MAX_OPTIONS}")
        if not self.options:
            if self.gold_index != -1:
                raise Unusable("invalid_record", f"gold_index {self.gold_index} without options")
            return
        if not 0 <= self.gold_index < len(self.options) or self.options[self.gold_index] != self.gold_text:
            raise Unusable("answer_not_in_options", f"{self.gold_text!r} at {self.gold_index} of {list(self.options)}")

    def _check_boxes(self) -> None:
        if not self.images:
            raise Unusable("image_missing", "the row has no image")
        if not len(self.boxes) == len(self.box_labels) == len(self.box_image_index):
            raise Unusable("invalid_record", f"{len(self.boxes)} boxes, {len(self.box_labels)} labels, {len(self.box_image_index)} indices")
        for box, owner in zip(self.boxes, self.box_image_index, strict=True):
            if not 0 <= owner < len(self.images):
                raise Unusable("invalid_record", f"a box on image {owner} of {len(self.images)}")
            if len(box) != 4 or not all(math.isfinite(value) for value in box):
                raise Unusable("box_degenerate", f"{box} is not four finite numbers")
            x1, y1, x2, y2 = box
            width, height = self.images[owner].wh
            if not (x1 < x2 and y1 < y2):
                raise Unusable("box_degenerate", f"{box} has no area")
            if not (x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height):
                raise Unusable("box_outside", f"{box} on an image of {width} x {height}")


@dataclass(frozen=True, slots=True)
class Reject:
    """A source row that is not used: `reason` is a key of `REASONS`, `source_row` the row as it was (bytes shortened when written).

    `rows` is the number of source rows it stands for; 0 where a file broke off and nobody knows how many were lost, which fails the run:
    such a reject has no row index and reaches the runner whatever rows were asked for.
    """

    uid: str
    source_row: Any
    reason: str
    detail: str
    rows: int = 1
    row: int = -1

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise KeyError(f"unknown reject reason {self.reason!r}: add it to data_prep.record.REASONS")

    @property
    def lost_file(self) -> bool:
        """Whether it stands for a file that broke off."""
        return self.rows == 0


def placed(item: Record | Reject, row: int, source_row: Any) -> Record | Reject:
    """The same item, told where it stood. In place: `dataclasses.replace` would check every field a second time, for every row."""
    object.__setattr__(item, "row", row)
    if isinstance(item, Record):
        object.__setattr__(item, "source_row", source_row)
    return item
