"""Lines of rollout files as the report reads them: which files there are, sentences found again in the text, boxes in the image's frame."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from faithful_rl.run_directory import DECODING_LABELS, ROLLOUTS, decoding_key

Record = Mapping[str, Any]


def rollout_files(run_dir: Path) -> list[Path]:
    """The rollout files of a run in the order of its steps, training and held-out ones; those of an evaluation by benchmark."""
    return [file for pattern in ("step_*.jsonl", "benchmark_*.jsonl") for file in sorted((run_dir / ROLLOUTS).glob(pattern))]


def is_heldout(file: Path) -> bool:
    """Whether a rollout file holds answers to held-out questions."""
    return file.stem.endswith("_heldout")


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset in bytes, record) of each line. A torn last line is left out: a running run may be writing it.

    Raises:
        ValueError: another line is not a JSON object; names file and line.
    """
    with path.open("rb") as stream:
        offset = 0
        for number, line in enumerate(stream, start=1):
            start, offset = offset, offset + len(line)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                if not line.endswith(b"\n"):
                    return
                raise ValueError(f"{path}:{number} is not JSON ({error}); expected one rollout per line") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}:{number} holds a JSON {type(record).__name__}, expected a rollout")
            yield start, record


def read_line(path: Path, offset: int) -> dict[str, Any]:
    """The record that starts at `offset` bytes."""
    with path.open("rb") as stream:
        stream.seek(offset)
        record: dict[str, Any] = json.loads(stream.readline())
    return record


def count_lines(path: Path) -> int:
    """Number of lines, without reading them as JSON."""
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def where(record: Record) -> str:
    """`training`, `held-out, T=1` and `held-out, greedy`, or the name of a benchmark."""
    if record.get("benchmark"):
        return str(record["benchmark"]).replace("_", " ")
    decoding = decoding_key(record.get("decoding"))
    return f"held-out, {DECODING_LABELS.get(decoding or '', decoding)}" if record.get("split") == "heldout" else "training"


def truth(record: Record) -> str:
    """`B (right)`: an option's letter with its text; any other ground truth as it is."""
    letter, options = str(record.get("ground_truth") or ""), record.get("options") or ()
    place = ord(letter) - ord("A") if len(letter) == 1 else -1
    return f"{letter} ({options[place]})" if 0 <= place < len(options) else letter


def image_of(record: Record) -> str:
    """Base64 of the image that was kept, "" without one. Runs keep it as PNG, evaluations as it is smallest."""
    return str(record.get("image_base64") or record.get("image_png_base64") or "")


def image_size(record: Record) -> tuple[float, float]:
    """(width, height) of the original image in pixels; (0, 0) where the record does not say."""
    size = list(record.get("image_wh") or [])
    return (float(size[0]), float(size[1])) if len(size) == 2 and min(size) > 0 else (0.0, 0.0)


def predicted_boxes(record: Record) -> list[list[float]]:
    """[x1, y1, x2, y2] in pixels of the original image.

    The policy writes pixels of the image that it sees, which is resized to `image_resized_wh`; a record without that field comes
    from an image that was not resized.
    """
    width, height = image_size(record)
    seen = list(record.get("image_resized_wh") or [])
    across, down = (width / seen[0], height / seen[1]) if len(seen) == 2 and min(seen) > 0 and width > 0 else (1.0, 1.0)
    return [[box[0] * across, box[1] * down, box[2] * across, box[3] * down] for box in _whole(record.get("boxes_predicted") or ())]


def reference_boxes(record: Record) -> list[list[float]]:
    """[x1, y1, x2, y2] in pixels of the original image, of the first image only, which is the one that is kept."""
    owners = record.get("boxes_reference_image") or ()
    boxes = record.get("boxes_reference") or ()
    first = [box for box, owner in zip(boxes, owners, strict=True) if not owner] if len(owners) == len(boxes) else boxes
    return _whole(first)


def _whole(boxes: Sequence[Sequence[float]]) -> list[list[float]]:
    """The boxes that are four finite numbers; a viewer must not fail over what a policy wrote."""
    return [[float(value) for value in box] for box in boxes if len(box) == 4 and all(math.isfinite(value) for value in box)]


def locate(response: str, sentences: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, Mapping[str, Any]]]:
    """(start, end, sentence) of the judged sentences in the response, in order; one that was normalised on its way is left out."""
    found, cursor = [], 0
    for sentence in sentences:
        start = response.find(sentence["text"], cursor)
        if start < 0 or not sentence["text"]:
            continue
        cursor = start + len(sentence["text"])
        found.append((start, cursor, sentence))
    return found
