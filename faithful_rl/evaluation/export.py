"""`questions=FILE`: the questions as they are asked, for a tool that answers them elsewhere; `predictions=FILE` scores what it says.

One JSON object a line: `uid`, which the predictions repeat, `source_id`, `benchmark`, `group`, `question`, `options` in the order asked
(the first one is A), `messages` with <image> where each image stands, and `images`: paths of their files, in order. Images that lie inside
a data file are written beside FILE, once each. The right answers are not in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from data_prep.record import Image as RecordImage
from faithful_rl.config import ConfigError
from faithful_rl.evaluation import benchmarks
from faithful_rl.evaluation.questions import TEXT_INSTEAD_OF_IMAGE, Question, turns
from faithful_rl.evaluation.settings import EvaluationSettings


def write_questions(settings: EvaluationSettings, console: Console) -> int:
    """Write all questions of the benchmarks under their final name, complete or not at all; returns how many could not be asked.

    Raises:
        ConfigError: a benchmark is not right, or FILE is no place for a file.
    """
    path = Path(str(settings.questions)).expanduser()
    if path.is_dir():
        raise ConfigError("questions", f"the directory {path}", "a file such as questions.jsonl", "Name a file in it.")
    inspected = [benchmarks.inspect(word, settings) for word in settings.benchmarks]
    folder = path.with_name(f"{path.stem}_images")
    path.parent.mkdir(parents=True, exist_ok=True)
    half, count = path.with_name(f".{path.name}.{os.getpid()}.tmp"), 0
    notes = [f"{one.name}: {remark}" for one in inspected for remark in one.remarks]
    odd = 0
    with half.open("w", encoding="utf-8") as stream:
        for question in (question for one in inspected for question in benchmarks.questions(one, settings)):
            try:
                stream.write(json.dumps(line(question, settings, folder), ensure_ascii=False) + "\n")
                count += 1
            except ValueError as error:  # a row's own prompt that does not fit its images
                odd += 1
                notes.append(f"{question.benchmark}: {question.uid} is left out, {error}")
    os.replace(half, path)
    console.print(f"{count} questions of {', '.join(one.name for one in inspected)}: {path}", markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"  note: {note}", markup=False, soft_wrap=True)
    return odd


def line(question: Question, settings: EvaluationSettings, folder: Path) -> dict[str, Any]:
    """One question for another tool; its images are files in `folder` where they are none yet."""
    record = question.record
    images = () if settings.mode == TEXT_INSTEAD_OF_IMAGE else record.images
    return {
        "uid": record.uid,
        "source_id": record.metadata.get("source_id"),
        "benchmark": question.benchmark,
        "group": question.group,
        "question": record.question,
        "options": list(record.options),
        "messages": [{"role": role, "content": content} for role, content in turns(question, settings.mode, settings.prompt)],
        "images": [str(_file(image, folder)) for image in images],
    }


def _file(image: RecordImage, folder: Path) -> Path:
    """Where the image's file is; bytes are written under the hash of their content, so that equal ones are one file."""
    if image.data is None:
        return Path(str(image.path)).resolve()
    with Image.open(io.BytesIO(image.data)) as opened:
        ending = str(opened.format or "png").lower()
    path = folder / f"{hashlib.sha256(image.data).hexdigest()[:16]}.{ending}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        half.write_bytes(image.data)
        os.replace(half, path)
    return path.resolve()
