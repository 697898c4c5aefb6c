"""The few rollouts that stand on the page itself, before and after training: text cut into coloured sentences, boxes in the image's frame.

All others are in the viewer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faithful_rl.metrics import SIGNALS
from faithful_rl.report import records
from faithful_rl.report.viewer_data import data_uri
from faithful_rl.run_directory import decoding_key
from faithful_rl.types import Reason

SHOWN = 8
# verdict -> (CSS class, symbol, what a reader is told); colour never carries the meaning alone
VERDICTS = {
    "CORRECT": ("true", "✓", "true of the image"),
    "INCORRECT": ("false", "✗", "false of the image"),
    "SKIP": ("skip", "–", "nothing to judge"),
    "UNSCORED": ("unscored", "?", "the judge failed"),
}
_TAG = re.compile(r"(<bbox>.*?</bbox>|</?(?:think|answer)>)", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """A stretch of text; `tag` marks markup that the policy wrote, `box` numbers a box reference from 1 (0: none)."""

    text: str
    tag: bool = False
    box: int = 0


@dataclass(frozen=True)
class Sentence:
    """A judged sentence, or the text between two with empty `verdict`; `verdict` is a CSS class."""

    pieces: tuple[Piece, ...]
    verdict: str = ""
    symbol: str = ""
    why: str = ""


@dataclass(frozen=True)
class Frame:
    """A box in pixels of the shown image."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Chip:
    """A number with its name; `state` is "bad", "missing" or ""."""

    name: str
    value: str
    state: str = ""


@dataclass(frozen=True)
class View:
    """One rollout as the page shows it; `size` is (width, height) of the image in pixels."""

    uid: str
    step: int
    where: str
    question: str
    options: tuple[str, ...]
    ground_truth: str
    image: str  # data URI, "" without an image
    size: tuple[float, float]
    predicted: tuple[Frame, ...]
    reference: tuple[Frame, ...]
    sentences: tuple[Sentence, ...]
    right: bool
    consistency: str  # "consistent", "inconsistent" or "" where it was not judged
    consistency_why: str
    signals: tuple[Chip, ...]


@dataclass(frozen=True)
class Question:
    """One question with its rollouts beside each other: before and after training, or one of them."""

    why_shown: str
    views: tuple[View, ...]


def choose(run_dir: Path, count: int = SHOWN) -> list[Question]:
    """Questions with up to `count` rollouts in all, before and after training beside each other where both were kept.

    Half of the questions are drawn by a hash of their id (nobody's taste); the other half are the first ones whose rollout before
    training was right for a wrong reason (contradicts itself, or holds a false sentence). T=1 where it was kept, else greedy;
    without held-out rollouts, training rollouts of the first and last kept step.
    """
    files = records.rollout_files(run_dir)
    heldout = [record for file in files if records.is_heldout(file) for _, record in records.read_lines(file)]
    decodings = {decoding_key(record.get("decoding")) for record in heldout}
    wanted = "T1" if "T1" in decodings else "greedy"
    kept = [record for record in heldout if decoding_key(record.get("decoding")) == wanted]
    if not kept:
        training = [file for file in files if not records.is_heldout(file)]
        ends = dict.fromkeys(training[:1] + training[-1:])
        lone = [record for file in ends for _, record in list(records.read_lines(file))[: count // max(len(ends), 1)]]
        return [Question("one of a training step", (view(record),)) for record in lone]
    steps = sorted({record["step"] for record in kept})
    moments = [{record["uid"]: record for record in kept if record["step"] == step} for step in dict.fromkeys((steps[0], steps[-1]))]
    shared = sorted((uid for uid in moments[0] if all(uid in moment for moment in moments)), key=_hash)
    number = count // len(moments)
    telling = [uid for uid in shared if _right_for_a_wrong_reason(moments[0][uid])][: number // 2]
    drawn = [uid for uid in shared if uid not in telling][: number - len(telling)]
    reasons = {**dict.fromkeys(telling, "right for a wrong reason at first"), **dict.fromkeys(drawn, "drawn at random")}
    return [Question(why, tuple(view(moment[uid]) for moment in moments)) for uid, why in reasons.items()]


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()


def _right_for_a_wrong_reason(record: Mapping[str, Any]) -> bool:
    columns = record.get("columns") or {}
    inconsistent = columns.get("consistency_scored", 0) > 0 and columns.get("consistency", 1) <= 0
    false_sentence = columns.get("correct_sentence_count", 0) < columns.get("judged_sentence_count", 0)
    return bool(columns.get("accuracy", 0) > 0 and (inconsistent or false_sentence))


def view(record: Mapping[str, Any]) -> View:
    """A line of a rollout file, ready to be shown."""
    width, height = records.image_size(record)
    columns = record.get("columns") or {}
    judged = columns.get("consistency_scored", 0) > 0
    encoded = records.image_of(record)
    return View(
        uid=str(record["uid"]),
        step=int(record["step"]),
        where=records.where(record),
        question=str(record.get("question") or ""),
        options=tuple(str(option) for option in record.get("options") or ()),
        ground_truth=records.truth(record),
        image=data_uri(encoded) if encoded else "",
        size=(width or 1.0, height or 1.0),
        predicted=tuple(_frames(records.predicted_boxes(record))),
        reference=tuple(_frames(records.reference_boxes(record))),
        sentences=tuple(cut(str(record.get("response") or ""), record.get("sentences") or ())),
        right=columns.get("accuracy", 0) > 0,
        consistency=("consistent" if columns["consistency"] > 0 else "inconsistent") if judged else "",
        consistency_why=str(record.get("consistency_why") or ""),
        signals=tuple(_signal(name, columns) for name in SIGNALS if f"{name}_scored" in columns),
    )


def _signal(name: str, columns: Mapping[str, float]) -> Chip:
    """A reward, or the reason why there is none: a failed measurement is never shown as 0."""
    if columns[f"{name}_scored"] <= 0:
        number = int(columns.get(f"{name}_reason", Reason.MASKED))
        reason = Reason(number).name.lower().replace("_", " ") if number in set(Reason) and number else "not scored"
        return Chip(name, reason, "missing")
    return Chip(name, f"{columns[name]:.2f}", "bad" if columns[name] < 0.5 else "")


def _frames(boxes: Iterable[Sequence[float]]) -> Iterable[Frame]:
    for x1, y1, x2, y2 in boxes:
        yield Frame(x1, y1, x2 - x1, y2 - y1)


def cut(response: str, sentences: Sequence[Mapping[str, Any]]) -> list[Sentence]:
    """The response in order and complete: judged sentences with their verdict, the text between them plain, tags apart."""
    result: list[Sentence] = []
    cursor, boxes = 0, 0
    for start, end, sentence in records.locate(response, sentences):
        verdict, symbol, told = VERDICTS.get(str(sentence.get("verdict")), ("", "", ""))
        for text, marks in ((response[cursor:start], ("", "", "")), (sentence["text"], (verdict, symbol, sentence.get("why") or told))):
            pieces, boxes = _split_tags(text, boxes)
            if pieces:
                result.append(Sentence(pieces, *map(str, marks)))
        cursor = end
    rest, _ = _split_tags(response[cursor:], boxes)
    return [*result, Sentence(rest)] if rest else result


def _split_tags(text: str, boxes: int) -> tuple[tuple[Piece, ...], int]:
    pieces = []
    for part in _TAG.split(text):
        if part:
            is_box = part.startswith("<bbox>")
            boxes += is_box
            pieces.append(Piece(part, tag=bool(_TAG.fullmatch(part)), box=boxes if is_box else 0))
    return tuple(pieces), boxes
