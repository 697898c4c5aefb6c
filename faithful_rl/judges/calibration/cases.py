"""Labelled cases: rollouts with the verdicts that a perfect judge would give, read strictly from JSONL or parquet.

One case is one JSON object on a line, or one parquet row (`SCHEMA`), with these keys:

id           text, unique in the file
kind         text: what was done to the rollout ("clean", "wrong_colour"); results are broken down by it
question     text, as put to the policy
options      list of text in the order of their letters; [] for an open question
reasoning    text: the think block's content
answer       text, "" when there is none
consistency  YES, NO or null (not labelled): does the reasoning's conclusion entail the answer?
grounding    null (not labelled), or for each non-trivial sentence in order {sentence, verdict, kind}: verdict is CORRECT, INCORRECT or
             SKIP, kind optional (the case's)

and optionally

images       list, in prompt order. Parquet: {bytes} of encoded files. JSONL: paths relative to the file, or data:image/...;base64, URLs
frames       list of [width, height] in pixels, one an image: the frame in which the reasoning writes boxes; [] when it is the image's own
scene_json   text: the exact scene, for the scene judge
dataset      text: where the question comes from

Sentences are those of `faithful_rl.rewards.sentences.non_trivial`. They are written out so that labels can never slip to a
neighbour when the splitter or the filter changes: then reading fails and names the sentence.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from faithful_rl.config import ConfigError
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.rewards.sentences import classify, non_trivial
from faithful_rl.types import Verdict

YES, NO = "YES", "NO"
CONSISTENCY_LABELS = (YES, NO)
GROUNDING_LABELS = (Verdict.CORRECT.name, Verdict.INCORRECT.name, Verdict.SKIP.name)
SHIPPED = "shipped"  # the name of the labelled set inside the package

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("reasoning", pa.string()),
        ("answer", pa.string()),
        ("images", pa.list_(pa.struct([("bytes", pa.binary())]))),
        ("frames", pa.list_(pa.list_(pa.int64()))),
        ("scene_json", pa.string()),
        ("dataset", pa.string()),
        ("consistency", pa.string()),
        ("grounding", pa.list_(pa.struct([("sentence", pa.string()), ("verdict", pa.string()), ("kind", pa.string())]))),
    ]
)
REQUIRED = ("id", "kind", "question", "options", "reasoning", "answer")
OPTIONAL = ("images", "frames", "scene_json", "dataset", "consistency", "grounding")


@dataclass(frozen=True, slots=True)
class SentenceLabel:
    """The right verdict on one sentence (a name of `GROUNDING_LABELS`) and what was done to that sentence."""

    sentence: str
    verdict: str
    kind: str


@dataclass(frozen=True, slots=True)
class LabelledCase:
    """One rollout and its labels; at least one of the two is given. `grounding` has one entry per non-trivial sentence."""

    id: str
    kind: str
    request: JudgeRequest
    consistency: str | None
    grounding: tuple[SentenceLabel, ...] | None


def shipped_path() -> Path:
    """The labelled set inside the package: synthetic scenes with known truth and known corruptions (`data_prep.judge_cases`)."""
    return Path(str(resources.files("faithful_rl.judges.calibration").joinpath("cases.parquet")))


def read_cases(source: Path | str) -> tuple[LabelledCase, ...]:
    """Every case of a `.jsonl` or `.parquet` file, or of the shipped set when `source` is "shipped".

    Raises:
        ConfigError: no such file, another ending, an empty file, or a row that breaks the schema; it names file, row and key.
    """
    path = shipped_path() if source == SHIPPED else Path(source)
    if not path.is_file():
        raise ConfigError("data", path, "a .jsonl or .parquet file of labelled cases", "Give an existing file, or data=shipped.")
    readers = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise ConfigError("data", path, "a file that ends in .jsonl or .parquet", "Convert it, or rename it.")
    cases: dict[str, LabelledCase] = {}
    for number, row in readers[path.suffix](path):
        case = _Row(path, number, row).case()
        if case.id in cases:
            raise ConfigError(f"{path}, row {number}, id", repr(case.id), "an id that no earlier row has", "Rename one of the two cases.")
        cases[case.id] = case
    if not cases:
        raise ConfigError("data", f"{path} without a row", "at least one labelled case", "See faithful_rl/judges/calibration/cases.py.")
    return tuple(cases.values())


def write_cases(cases: Sequence[LabelledCase], path: Path) -> None:
    """Write a parquet file that `read_cases` reads back as equal cases; the same cases give the same bytes with one pyarrow."""
    table = pa.Table.from_pylist([as_row(case) for case in cases], schema=SCHEMA)
    pq.write_table(table, path, compression="zstd", row_group_size=max(len(cases), 1))


def as_row(case: LabelledCase) -> dict[str, Any]:
    """The parquet row of a case, as plain Python data."""
    labels = None
    if case.grounding is not None:
        labels = [{"sentence": label.sentence, "verdict": label.verdict, "kind": label.kind} for label in case.grounding]
    return {
        "id": case.id,
        "kind": case.kind,
        "question": case.request.question,
        "options": list(case.request.options),
        "reasoning": case.request.reasoning,
        "answer": case.request.answer,
        "images": [{"bytes": image} for image in case.request.images],
        "frames": [list(frame) for frame in case.request.frames],
        "scene_json": case.request.scene_json,
        "dataset": case.request.dataset,
        "consistency": case.consistency,
        "grounding": labels,
    }


def fingerprint(source: Path | str) -> str:
    """First 16 hexadecimal digits of the file's SHA-256: which labelled set a result stands on."""
    path = shipped_path() if source == SHIPPED else Path(source)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8", errors="strict") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(line)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}", f"bytes that are not UTF-8 ({error.reason})", "UTF-8 text", "Save the file as UTF-8.") from error
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{path}, row {number}", f"no JSON ({error.msg})", "one JSON object on each line", "Correct the line."
            ) from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path}", f"no parquet ({str(error).splitlines()[0]})", "a parquet file", "Write it again.") from error
    return iter(enumerate(rows, start=1))


class _Row:
    """One row being checked; every complaint names file, row and key."""

    def __init__(self, path: Path, number: int, row: Any) -> None:
        self._path, self._number = path, number
        if not isinstance(row, dict):
            raise self._error("", type(row).__name__, "a JSON object", "See faithful_rl/judges/calibration/cases.py.")
        known = {*REQUIRED, *OPTIONAL}
        for key in sorted(row.keys() - known):
            raise self._error(key, "an unknown key", f"only {', '.join((*REQUIRED, *OPTIONAL))}", "Remove or rename it.")
        for key in REQUIRED:
            if row.get(key) is None:
                raise self._error(key, "nothing", "a value", "Add it.")
        self._row = row

    def case(self) -> LabelledCase:
        identity, kind = self._filled("id"), self._filled("kind")
        options = self._row["options"]
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise self._error("options", _short(options), "a list of text", "Use [] for an open question.")
        reasoning = self._text("reasoning")
        request = JudgeRequest(
            uid=identity,
            question=self._text("question"),
            options=tuple(options),
            reasoning=reasoning,
            answer=self._text("answer"),
            images=self._images(),
            frames=self._frames(),
            scene_json=self._text("scene_json"),
            dataset=self._text("dataset"),
        )
        consistency, grounding = self._consistency(), self._grounding(reasoning, kind)
        if consistency is None and grounding is None:
            raise self._error("consistency", "neither consistency nor grounding", "at least one label", "Label the case or remove it.")
        return LabelledCase(identity, kind, request, consistency, grounding)

    def _error(self, key: str, found: str, expected: str, fix: str) -> ConfigError:
        return ConfigError(f"{self._path}, row {self._number}" + (f", {key}" if key else ""), found, expected, fix)

    def _text(self, key: str) -> str:
        value = self._row.get(key)
        value = "" if value is None else value
        if not isinstance(value, str):
            raise self._error(key, _short(value), "text", "Write it as a JSON string.")
        return value

    def _filled(self, key: str) -> str:
        value = self._text(key)
        if not value.strip():
            raise self._error(key, "empty text", "text that is not empty", "Fill it.")
        return value

    def _consistency(self) -> str | None:
        value = self._row.get("consistency")
        if value is not None and value not in CONSISTENCY_LABELS:
            raise self._error("consistency", _short(value), "YES, NO or null", "Correct the label.")
        return value

    def _images(self) -> tuple[bytes, ...]:
        entries = self._row.get("images")
        if entries is None:
            return ()
        if not isinstance(entries, list):
            raise self._error("images", _short(entries), "a list", "Use [] for a question without an image.")
        return tuple(self._image(f"images[{index}]", entry) for index, entry in enumerate(entries))

    def _frames(self) -> tuple[tuple[int, int], ...]:
        frames = self._row.get("frames") or []
        fits = isinstance(frames, list) and all(
            isinstance(frame, list) and len(frame) == 2 and all(type(side) is int and side > 0 for side in frame) for frame in frames
        )
        if not fits or len(frames) not in (0, len(self._row.get("images") or ())):
            raise self._error("frames", _short(frames), "one [width, height] in pixels for each image, or []", "Correct the entry.")
        return tuple((frame[0], frame[1]) for frame in frames)

    def _image(self, key: str, entry: Any) -> bytes:
        if isinstance(entry, dict) and isinstance(entry.get("bytes"), bytes):
            data: bytes = entry["bytes"]
        elif isinstance(entry, str) and entry.startswith("data:image/"):
            try:
                data = base64.b64decode(entry.partition(";base64,")[2], validate=True)
            except binascii.Error as error:
                raise self._error(
                    key, f"a data URL that is not base64 ({error})", "data:image/png;base64,...", "Encode it again."
                ) from error
        elif isinstance(entry, str):
            try:
                data = (self._path.parent / entry).read_bytes()
            except OSError as error:
                fix = f"Paths are relative to {self._path.parent}."
                raise self._error(key, f"{entry!r}, which cannot be read", "an image file", fix) from error
        else:
            raise self._error(key, _short(entry), "a path, a data URL or (parquet) {bytes}", "Correct the entry.")
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.verify()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:  # PIL reports broken PNG chunks as SyntaxError
            raise self._error(
                key, f"{len(data)} bytes that are no image", "an encoded PNG, JPEG or WebP image", "Write it again."
            ) from error
        return data

    def _grounding(self, reasoning: str, kind: str) -> tuple[SentenceLabel, ...] | None:
        entries = self._row.get("grounding")
        if entries is None:
            return None
        if not isinstance(entries, list):
            raise self._error("grounding", _short(entries), "a list of {sentence, verdict} or null", "Correct the entry.")
        labels = tuple(self._sentence_label(f"grounding[{index}]", entry, kind) for index, entry in enumerate(entries))
        sentences = [sentence.text for sentence in non_trivial(reasoning)]
        for index, (label, sentence) in enumerate(zip(labels, sentences, strict=False)):
            if label.sentence != sentence:
                raise self._error(
                    f"grounding[{index}].sentence",
                    repr(label.sentence),
                    f"the non-trivial sentence {sentence!r}",
                    self._dropped(label.sentence),
                )
        if len(labels) != len(sentences):
            extra = f" {self._dropped(labels[len(sentences)].sentence)}" if len(labels) > len(sentences) else ""
            missing = "" if extra else f" The first without a label is {sentences[len(labels)]!r}."
            expected = f"one per non-trivial sentence of the reasoning ({len(sentences)})"
            raise self._error(
                "grounding", f"{len(labels)} labels", expected, f"Label each, with SKIP for what cannot be checked.{missing}{extra}"
            )
        return labels

    @staticmethod
    def _dropped(sentence: str) -> str:
        return f"The filter calls {sentence!r} {classify(sentence)}." if classify(sentence) else ""

    def _sentence_label(self, key: str, entry: Any, kind: str) -> SentenceLabel:
        if not isinstance(entry, dict) or not isinstance(entry.get("sentence"), str) or not entry.keys() <= {"sentence", "verdict", "kind"}:
            raise self._error(key, _short(entry), "{sentence, verdict} and perhaps kind", "Correct the entry.")
        if entry.get("verdict") not in GROUNDING_LABELS:
            raise self._error(f"{key}.verdict", _short(entry.get("verdict")), "CORRECT, INCORRECT or SKIP", "Correct the label.")
        own = entry.get("kind")
        if own is not None and (not isinstance(own, str) or not own.strip()):
            raise self._error(f"{key}.kind", _short(own), "text", "Correct the entry or leave it out.")
        return SentenceLabel(entry["sentence"], entry["verdict"], own or kind)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
