"""RealWorldQA (xai-org/RealworldQA, lmms-lab/RealWorldQA): photographs from vehicles and elsewhere; 2 to 4 options inside the
question, or a short free answer.

Questions end with an instruction to answer directly, with a letter or with a word; both are taken off, because reasoning is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.record import Record, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, gold_letter, question_record, row_images, rows_of
from data_prep.sources.fields import inline_options, letter_answer
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import parquet_count, parquet_rows

PATTERNS = ("data/test-*.parquet", "test-*.parquet", "**/test-*.parquet")
PINNED = Pinned(765)
MULTIPLE_CHOICE, OPEN = "multiple_choice", "open"
_ASKS_FOR_LETTER = re.compile(r"answer directly with only the letter", re.IGNORECASE)
_ASKS_FOR_WORD = re.compile(r"answer directly with a single word or number", re.IGNORECASE)


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """The data files in order. Raises ConfigError."""
    return find(location, PATTERNS, "realworldqa")


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    yield from rows_of(files(location, request.options), "realworldqa", parquet_rows)


def convert(index: int, raw: Any, request: Request) -> Record:
    question, options = inline_options(str(raw["question"]))
    answer = str(raw["answer"]).strip()
    if not answer:
        raise Unusable("empty_answer", "the gold answer is empty")
    gold = gold_letter(answer, options) if options else -1
    if not options and _names_an_option(str(raw["question"]), answer):
        raise Unusable("answer_not_in_options", f"the answer {answer!r} is a letter, but the question shows no options")
    pictures = row_images([raw["image"]], request)
    metadata = {"source_id": str(raw.get("image_path") or index)}
    kind = MULTIPLE_CHOICE if options else OPEN
    return question_record(f"realworldqa-{index}", "realworldqa", question, options, gold, pictures, kind, metadata, answer)


def _names_an_option(question: str, answer: str) -> bool:
    """Whether a question without recognised options has a letter for an answer; where a word or number is asked for, a letter is a word
    (what a sign shows)."""
    asks_for_word = _ASKS_FOR_WORD.search(question) is not None
    return _ASKS_FOR_LETTER.search(question) is not None or (not asks_for_word and letter_answer(answer, "ABCDEFGH") is not None)


SOURCE = Source(
    name="realworldqa",
    licence="CC BY-ND 4.0 (xai-org); lmms-lab's copy says CC BY 4.0",
    load=streamed("realworldqa", rows, convert),
    files=files,
    home="xai-org/RealworldQA",
    describe="RealWorldQA, evaluation only",
    count=lambda location, options: parquet_count(files(location, options)),
    hub_files=lambda options: ["data/test-*.parquet"],
    open_answers=True,
    version=2,
)
