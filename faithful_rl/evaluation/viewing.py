"""What the rollout viewer shows of an evaluation: `rollouts/benchmark_NAME.jsonl`, one line for each response with its images shrunk.

The lines have the layout of a run's rollouts, so that one viewer reads both; they stand on their own, on machines without the data too.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.record import Unusable
from data_prep.sources import in_order
from faithful_rl.evaluation.questions import Question, image_bytes
from faithful_rl.evaluation.rows import CANNOT_JUDGE, NOT_ASKED, Row
from faithful_rl.geometry import smart_resize
from faithful_rl.run_directory import ROLLOUTS
from faithful_rl.types import Reason

SIDE = 448  # pixels of the longer side of a kept image
QUALITY = 82  # of JPEG: about 25 KB for a photograph
_GAP = 6  # pixels between several images of one question
_SIGNALS = {"consistent": "consistency", "semantic_grounding": "semantic_grounding", "spatial_grounding": "spatial_grounding"}
_COUNTS = ("sentence_count", "correct_sentence_count", "judged_sentence_count")


def rollouts_file(directory: Path, benchmark: str) -> Path:
    """`<directory>/rollouts/benchmark_<name>.jsonl`."""
    return directory / ROLLOUTS / f"benchmark_{benchmark}.jsonl"


def write(path: Path, questions: Iterable[Question], rows: Mapping[str, Row], limits: tuple[int, int] | None) -> None:
    """Write the lines of one benchmark under their final name, complete or not at all.

    Args:
        questions: with their images, in the order of the file; those without a response in `rows` are left out.
        limits: pixel limits (min, max) of the model's image processor, None where nobody knows them: boxes cannot be drawn then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with half.open("w", encoding="utf-8") as stream:
        for line in lines(questions, rows, limits):
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    os.replace(half, path)


def lines(questions: Iterable[Question], rows: Mapping[str, Row], limits: tuple[int, int] | None) -> Iterator[dict[str, Any]]:
    """A line for each question that has a response; images are shrunk on threads, a few at a time."""
    having = ((question, rows[question.uid]) for question in questions if question.uid in rows and rows[question.uid]["generated"])
    yield from in_order(lambda pair: line(pair[0], pair[1], limits), having, 0)


def line(question: Question, row: Row, limits: tuple[int, int] | None) -> dict[str, Any]:
    """One response for the viewer.

    Boxes are drawn on a single image only: several images stand side by side, and nobody knows which of them a response means.
    """
    record = question.record
    alone = len(record.images) == 1
    encoded, size = picture(question)
    used = question.limits or limits
    return {
        "uid": record.uid,
        "group": str(row["group"]),
        "step": 0,
        "split": "benchmark",
        "benchmark": question.benchmark,
        "decoding": None,
        "task_type": record.task_type,
        "question": record.question,
        "options": list(record.options),
        "ground_truth": question.truth,
        "response": row["response"] if row["response"] is not None else f"<answer>{row['answer']}</answer>",
        "answer": row["answer"] or "",
        "image_base64": encoded,
        "image_wh": list(record.images[0].wh if alone else size),
        "image_resized_wh": _seen(record.images[0].wh, used) if alone else [],
        "boxes_predicted": json.loads(row["boxes"])["predicted"] if alone and used is not None else [],
        "boxes_reference": [list(box) for box in record.boxes] if alone else [],
        "boxes_reference_image": list(record.box_image_index) if alone else [],
        "sentences": json.loads(row["sentences"]),
        "columns": _columns(row),
        "advantage": None,
        "advantages_by_signal": {},
    }


def _columns(row: Row) -> dict[str, float]:
    """Signals as the columns of a rollout: value, whether it was scored, and the number of the reason where it was not."""
    accuracy = {
        "accuracy": float(row["correct"] or 0.0),
        "accuracy_scored": float(row["correct"] is not None),
        "accuracy_reason": _reason(row.get("answer_reason") if row["correct"] is None else None),
    }
    known = row["format"] is not None
    form = {
        "format": float(bool(row["format"])),
        "format_scored": float(known),
        "format_reason": float(Reason.SCORED if known else Reason.MASKED),
    }
    found = {**accuracy, **form, **{name: float(row[name]) for name in _COUNTS}}
    for column, signal in _SIGNALS.items():
        found |= {
            signal: float(row[column] or 0.0),
            f"{signal}_scored": float(row[f"{column}_scored"]),
            f"{signal}_reason": _reason(row[f"{column}_reason"]),
        }
    return found


def _reason(word: str | None) -> float:
    """The number of a row's reason; a signal that no judge of the evaluation could say is masked to the viewer."""
    if word in (NOT_ASKED, CANNOT_JUDGE):
        return float(Reason.MASKED)
    return float(Reason[str(word).upper()] if word else Reason.SCORED)


def _seen(wh: tuple[int, int], limits: tuple[int, int] | None) -> list[int]:
    """[width, height] of the image as the model sees it, which is the frame of the boxes it writes; [] where it is not known."""
    if limits is None:
        return []
    try:
        height, width = smart_resize(wh[1], wh[0], min_pixels=limits[0], max_pixels=limits[1])
    except ValueError:  # a ratio that no processor takes
        return []
    return [width, height]


def picture(question: Question) -> tuple[str, tuple[int, int]]:
    """(base64 of the shrunk images side by side, (width, height) of that picture); ("", (0, 0)) where one cannot be read."""
    try:
        small = [_small(image_bytes(image)) for image in question.record.images]
    except (OSError, ValueError, Unusable, Image.DecompressionBombError):
        return "", (0, 0)
    strip = _strip(small)
    stream = io.BytesIO()
    if max(strip.size) <= SIDE and strip.getcolors(256) is not None:  # drawings: smaller and sharper as PNG
        strip.save(stream, format="PNG", optimize=True)
    else:
        strip.save(stream, format="JPEG", quality=QUALITY)
    return base64.b64encode(stream.getvalue()).decode("ascii"), strip.size


def _small(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (SIDE, SIDE))  # JPEG is decoded at a fraction of its size where that is enough
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return small


def _strip(images: Sequence[Image.Image]) -> Image.Image:
    """Images beside each other at one height."""
    if len(images) == 1:
        return images[0]
    height = min(image.height for image in images)
    scaled = [image.resize((max(1, round(image.width * height / image.height)), height)) for image in images]
    strip = Image.new("RGB", (sum(image.width for image in scaled) + _GAP * (len(scaled) - 1), height), "white")
    left = 0
    for image in scaled:
        strip.paste(image, (left, 0))
        left += image.width + _GAP
    return strip
