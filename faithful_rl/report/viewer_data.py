"""Rollouts of one run or several as the columns that the viewer's script reads: every text, question and image stands there once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from faithful_rl.metrics import SIGNALS, constraint_metric, constraint_names, read_metrics
from faithful_rl.report import records
from faithful_rl.report.records import Record
from faithful_rl.run_directory import METRICS
from faithful_rl.types import Reason, Verdict

FORMAT = 1
IMAGE_SIDE = 512  # pixels; larger images are shrunk before they are put into a page
IMAGE_BYTES = 64 * 1024  # an image file up to this size is kept as it is when its sides are small enough
IMAGE_BUDGET = 64 * 2**20  # bytes of base64 in one page; later images are left out, and the page says so
ROLLOUT_COLUMNS = ("run", "step", "where", "group", "question", "response", "sentences", "boxes", "advantage", "why", "answer")
REASONS = tuple("" if reason is Reason.SCORED else reason.name.lower().replace("_", " ") for reason in sorted(Reason))


@dataclass(frozen=True)
class ViewedRun:
    """A run, or an evaluation on benchmarks, as the viewer calls it."""

    label: str
    path: Path
    evaluation: bool = False


@dataclass(frozen=True)
class Place:
    """Where a record stands: the file and the offset of its line in bytes."""

    file: Path
    offset: int


@dataclass(frozen=True)
class Bundle:
    """`data` is what the script reads, plain JSON values; `kept` of `found` rollouts are in it. `places` of images by number, where
    images stay in their files; `left_out` images did not fit into the page or could not be read."""

    data: dict[str, Any]
    kept: int
    found: int
    places: tuple[Place, ...]
    left_out: int


@dataclass
class _Table:
    """Values by number, each once."""

    values: list[Any] = field(default_factory=list)
    numbers: dict[Hashable, int] = field(default_factory=dict)

    def number(self, key: Hashable, make: Callable[[], Any]) -> int:
        if key not in self.numbers:
            self.numbers[key] = len(self.values)
            self.values.append(make())
        return self.numbers[key]

    def text(self, text: str) -> int:
        return self.number(text, lambda: text)


@dataclass
class _Columns:
    """What grows with every rollout."""

    embed: bool
    questions: _Table = field(default_factory=_Table)
    images: _Table = field(default_factory=_Table)
    texts: _Table = field(default_factory=_Table)
    wheres: _Table = field(default_factory=_Table)
    groups: _Table = field(default_factory=_Table)
    rollouts: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in ROLLOUT_COLUMNS})
    values: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in SIGNALS})
    reasons: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in SIGNALS})
    advantages: dict[str, list[float | None]] = field(default_factory=dict)
    image_bytes: int = 0
    left_out: int = 0

    def add(self, record: Record, run: int, place: Place) -> None:
        response = str(record.get("response") or "")
        where, step, count = records.where(record), int(record.get("step", 0)), len(self.rollouts["run"])
        row = {
            "run": run,
            "step": step,
            "where": self.wheres.text(where),
            "group": self.groups.number((run, step, where, str(record.get("group") or record.get("uid"))), lambda: None),
            "question": self._question(record, place),
            "response": response,
            "sentences": self._sentences(response, record.get("sentences") or ()),
            "boxes": [[short(value) for value in box] for box in records.predicted_boxes(record)],
            "advantage": short(record.get("advantage")),
            "why": self.texts.text(str(record.get("consistency_why") or "")),
            "answer": self.texts.text(str(record.get("answer") or "")),
        }
        for name, value in row.items():
            self.rollouts[name].append(value)
        columns = record.get("columns") or {}
        for name in SIGNALS:
            scored = columns.get(f"{name}_scored", 0) > 0
            self.values[name].append(short(columns.get(name)) if scored else None)
            self.reasons[name].append(0 if scored else int(columns.get(f"{name}_reason", Reason.MASKED)))
        by_signal = record.get("advantages_by_signal") or {}
        for name in by_signal.keys() - self.advantages.keys():
            self.advantages[name] = [None] * count
        for name, own in self.advantages.items():
            own.append(short(by_signal.get(name)))

    def _question(self, record: Record, place: Place) -> int:
        encoded = records.image_of(record)
        image = self._image(encoded, place) if encoded else -1
        key = (record.get("uid"), record.get("question"), record.get("ground_truth"), image)
        return self.questions.number(
            key,
            lambda: {
                "uid": str(record.get("uid", "")),
                "text": str(record.get("question") or ""),
                "options": [str(option) for option in record.get("options") or ()],
                "truth": records.truth(record),
                "type": str(record.get("task_type") or ""),
                "image": image,
                "size": list(records.image_size(record)) if records.image_size(record)[0] else _size_of(encoded),
                "boxes": [[short(value) for value in box] for box in records.reference_boxes(record)],
            },
        )

    def _image(self, encoded: str, place: Place) -> int:
        key = hashlib.blake2b(encoded.encode(), digest_size=16).digest()
        return self.images.number(key, lambda: self._data_uri(encoded) if self.embed else place)

    def _data_uri(self, encoded: str) -> str:
        uri = data_uri(encoded) if self.image_bytes < IMAGE_BUDGET else ""
        self.image_bytes += len(uri)
        self.left_out += not uri
        return uri

    def _sentences(self, response: str, sentences: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """[start, length, verdict, number of the judge's words] with start and length in UTF-16 units, as JavaScript counts."""
        wide = not response.isascii()
        found = []
        for start, end, sentence in records.locate(response, sentences):
            first, last = (_utf16(response[:start]), _utf16(response[:end])) if wide else (start, end)
            verdict = Verdict.__members__.get(str(sentence.get("verdict")), Verdict.UNSCORED)
            found.append([first, last - first, int(verdict), self.texts.text(str(sentence.get("why") or ""))])
        return found


def collect(runs: Sequence[ViewedRun], limit: int | None = None, embed_images: bool = True) -> Bundle:
    """Read the rollouts of `runs`.

    Args:
        limit: at most about so many rollouts; of each file whole groups are taken from its start, so that all steps stay. None: all.
        embed_images: put images into the data (shrunk to `IMAGE_SIDE`); otherwise `places` says where each one is.

    Raises:
        ValueError: a line of a rollout file is damaged; names file and line.
    """
    files = [(number, file) for number, run in enumerate(runs) for file in records.rollout_files(run.path)]
    counts = [records.count_lines(file) for _, file in files]
    quota = _quota(counts, limit)
    columns = _Columns(embed_images)
    for run, file in files:
        for offset, record in _whole_groups(file, quota):
            columns.add(record, run, Place(file, offset))
    kept = len(columns.rollouts["run"])
    found = max(sum(counts), kept)
    metrics = [read_metrics(run.path / METRICS) for run in runs]
    constraints = constraint_names(row for rows in metrics for row in rows)
    data: dict[str, Any] = {
        "format": FORMAT,
        "kept": kept,
        "found": found,
        "runs": [run.label for run in runs],
        "evaluations": [run.evaluation for run in runs],
        "signals": list(SIGNALS),
        "constraints": list(constraints),
        "reasons": list(REASONS),
        "questions": columns.questions.values,
        "texts": columns.texts.values,
        "wheres": columns.wheres.values,
        "images": columns.images.values if embed_images else None,
        "rollouts": columns.rollouts,
        "values": columns.values,
        "why_unscored": columns.reasons,
        "advantages": columns.advantages,
        "multipliers": [_multipliers(rows, constraints) for rows in metrics],
    }
    return Bundle(data, kept, found, () if embed_images else tuple(columns.images.values), columns.left_out)


def _quota(counts: Sequence[int], limit: int | None) -> int | None:
    """Lines per file so that all files together stay within `limit`; what small files leave goes to the large ones."""
    if limit is None or sum(counts) <= limit:
        return None
    left = limit
    for place, count in enumerate(sorted(counts)):
        share = left // (len(counts) - place)
        if count > share:
            return max(share, 1)
        left -= count
    return None


def _whole_groups(file: Path, quota: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines up to `quota`, and the rest of the group in which it falls; the writer keeps a group together."""
    last: Any = None
    for number, (offset, record) in enumerate(records.read_lines(file)):
        group = (record.get("group"), record.get("decoding"))
        if quota is not None and number >= quota and group != last:
            return
        last = group
        yield offset, record


def _multipliers(rows: Sequence[Mapping[str, float]], constraints: Sequence[str]) -> dict[str, list[float | None]]:
    """Step -> multiplier of each constraint that its advantages were made with; steps without any are left out."""
    found = {}
    for row in rows:
        values = [short(row.get(constraint_metric(name, "multiplier"))) for name in constraints]
        if any(value is not None for value in values):
            found[str(int(row["step"]))] = values
    return found


def short(value: float | None) -> float | None:
    """Four significant digits, whole numbers as such; None for what is no finite number."""
    if value is None or not math.isfinite(value):
        return None
    number = float(f"{value:.4g}")
    return int(number) if number == int(number) else number


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2


def data_uri(encoded: str) -> str:
    """An image as a page can hold it: small ones as they are, larger ones shrunk to `IMAGE_SIDE`; "" for what is no image."""
    try:
        content = base64.b64decode(encoded, validate=True)
        with Image.open(io.BytesIO(content)) as image:
            if max(image.size) <= IMAGE_SIDE and len(content) <= IMAGE_BYTES and image.format in ("PNG", "JPEG"):
                return f"data:image/{image.format.lower()};base64,{encoded}"
            shrunk = image.convert("RGB")
    except (OSError, ValueError, binascii.Error, Image.DecompressionBombError):
        return ""
    shrunk.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    stream = io.BytesIO()
    shrunk.save(stream, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _size_of(encoded: str) -> list[float]:
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            return [float(side) for side in image.size]
    except (OSError, ValueError, binascii.Error, Image.DecompressionBombError):
        return [1.0, 1.0]
