"""Rollouts made ready for the page: text cut into coloured pieces, boxes in per cent of the image."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faithful_rl.metrics import SIGNALS, read_jsonl
from faithful_rl.run_directory import DECODING_LABELS, ROLLOUTS, decoding_key

SHOWN = 20
CLASSES = {"CORRECT": "true", "INCORRECT": "false", "SKIP": "skip", "UNSCORED": "unscored"}
_TAG = re.compile(r"(<bbox>.*?</bbox>|</?(?:think|answer)>)", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """A stretch of the response: `verdict` is a CSS class ("" outside of judged sentences), `tag` marks markup of the response."""

    text: str
    verdict: str = ""
    why: str = ""
    tag: bool = False


@dataclass(frozen=True)
class Frame:
    """A box in per cent of the image's width and height."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class View:
    """One rollout as the page shows it."""

    title: str
    question: str
    options: tuple[str, ...]
    ground_truth: str
    image: str  # data URI, "" without an image
    predicted: tuple[Frame, ...]
    reference: tuple[Frame, ...]
    pieces: tuple[Piece, ...]
    signals: tuple[tuple[str, str], ...]
    advantages: tuple[tuple[str, str], ...]


def choose(run_dir: Path, count: int = SHOWN) -> list[View]:
    """Up to `count` rollouts, unselected: the first held-out questions before and after training beside each other, greedy first;
    what is missing is filled from the last training step that was kept."""
    files = sorted((run_dir / ROLLOUTS).glob("step_*.jsonl"))
    heldout = [record for file in files if file.stem.endswith("_heldout") for _, record in read_jsonl(file)]
    training = [file for file in files if not file.stem.endswith("_heldout")]
    last = [record for _, record in read_jsonl(training[-1])] if training else []
    chosen = [*_pairs(heldout, "greedy", count // 2), *_pairs(heldout, "T1", count // 4)]
    return [view(record, run_dir) for record in [*chosen, *last][:count]]


def _pairs(records: Sequence[Mapping[str, Any]], decoding: str, count: int) -> list[Mapping[str, Any]]:
    """At most `count` records of one decoding, the same question before and after training in a row."""
    kept = [record for record in records if decoding_key(record.get("decoding")) == decoding]
    if not kept:
        return []
    first, last = min(record["step"] for record in kept), max(record["step"] for record in kept)
    by_moment = [{record["uid"]: record for record in kept if record["step"] == step} for step in dict.fromkeys((first, last))]
    shared = [uid for uid in by_moment[0] if all(uid in moment for moment in by_moment)]
    return [moment[uid] for uid in shared for moment in by_moment][:count]


def view(record: Mapping[str, Any], run_dir: Path) -> View:
    """A line of a rollout file, ready to be shown."""
    decoding = decoding_key(record.get("decoding"))
    where = f"held-out, {DECODING_LABELS.get(decoding or '', decoding)}" if record.get("split") == "heldout" else "training"
    size = record.get("image_wh") or [1, 1]
    columns = record.get("columns") or {}
    signals = tuple((name, f"{columns[name]:.2f}") for name in SIGNALS if columns.get(f"{name}_scored"))
    advantages = [("total", record["advantage"])] if record.get("advantage") is not None else []
    advantages += list((record.get("advantages_by_signal") or {}).items())
    return View(
        title=f"step {record['step']}, {where}",
        question=str(record.get("question") or ""),
        options=tuple(str(option) for option in record.get("options") or ()),
        ground_truth=str(record.get("ground_truth") or ""),
        image=_image(record, run_dir),
        predicted=tuple(_frames(record.get("boxes_predicted") or (), size)),
        reference=tuple(_frames(record.get("boxes_reference") or (), size)),
        pieces=tuple(cut(str(record.get("response") or ""), record.get("sentences") or ())),
        signals=signals,
        advantages=tuple((name, f"{value:+.2f}") for name, value in advantages),
    )


def _image(record: Mapping[str, Any], run_dir: Path) -> str:
    encoded = record.get("image_png_base64")
    if not encoded and record.get("image_file"):
        encoded = base64.b64encode((run_dir / record["image_file"]).read_bytes()).decode("ascii")
    return f"data:image/png;base64,{encoded}" if encoded else ""


def _frames(boxes: Iterable[Sequence[float]], size: Sequence[float]) -> Iterable[Frame]:
    width, height = size
    for x1, y1, x2, y2 in boxes:
        yield Frame(100 * x1 / width, 100 * y1 / height, 100 * (x2 - x1) / width, 100 * (y2 - y1) / height)


def cut(response: str, sentences: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """The response in pieces, in order and complete: judged sentences by verdict, tags apart, the rest plain."""
    pieces: list[Piece] = []
    cursor = 0
    for sentence in sentences:
        start = response.find(sentence["text"], cursor)
        if start < 0:
            continue  # a sentence that was normalised on its way is shown as plain text
        pieces += _split_tags(response[cursor:start], "", "")
        cursor = start + len(sentence["text"])
        pieces += _split_tags(sentence["text"], CLASSES.get(str(sentence.get("verdict")), ""), str(sentence.get("why") or ""))
    return [*pieces, *_split_tags(response[cursor:], "", "")]


def _split_tags(text: str, verdict: str, why: str) -> list[Piece]:
    return [Piece(part, verdict, why, tag=bool(_TAG.fullmatch(part))) for part in _TAG.split(text) if part]
