"""MMVP (MMVP/MMVP): 150 pairs of images that CLIP confuses; one question for both images of a pair, with different answers.

`Questions.csv` is read by position, because its first header is misspelt in some copies. Two pairs are known to carry swapped labels
(99/100 and 279/280); the option `fix_labels` swaps them back, the original labels are the default because published figures use them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.record import Record, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, gold_letter, lost_file, question_record, row_images
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import numbered, rows_count

PATTERNS = ("Questions.csv", "**/Questions.csv")
FOLDER = "MMVP Images"
PINNED = Pinned(300, by_type={"pair": 300})
RIGHT_LABELS = {99: "(b)", 100: "(a)", 279: "(b)", 280: "(a)"}
_OPTION = re.compile(r"\(([a-z])\)\s*")


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """The table of questions. Raises ConfigError."""
    return find(location, PATTERNS, "mmvp")[:1]


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    (path,) = files(location, request.options)
    yield from numbered(_cells(path))


def _cells(path: Path) -> Iterator[Any]:
    """Rows as lists of cells. Bytes that are no UTF-8 are kept as halves of characters: they cost their own row, not all behind it."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            next(reader, None)  # the header, whatever it says
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield {"cells": cells}
    except csv.Error as error:
        yield lost_file("mmvp", path, error)


def convert(index: int, raw: Any, request: Request) -> Record:
    cells = [cell.strip() for cell in raw["cells"]]
    if len(cells) < 4:
        raise Unusable("missing_field", f"{len(cells)} columns instead of 4")
    number, question, listed, answer = int(cells[0]), cells[1], cells[2], cells[3]
    options = split_options(listed)
    if request.options["fix_labels"]:
        answer = RIGHT_LABELS.get(number, answer)
    gold = gold_letter(answer, options)
    pictures = row_images([f"{number}.jpg"], request)
    metadata = {"source_id": str(number), "pair": (number + 1) // 2}
    return question_record(f"mmvp-{number}", "mmvp", question, options, gold, pictures, "pair", metadata)


def split_options(text: str) -> tuple[str, ...]:
    """`(a) Open (b) Closed` as ("Open", "Closed"). Raises Unusable where letters do not run from a."""
    pieces = _OPTION.split(text)
    letters, texts = pieces[1::2], tuple(piece.strip() for piece in pieces[2::2])
    if len(texts) < 2 or letters != [chr(ord("a") + index) for index in range(len(letters))] or not all(texts):
        raise Unusable("missing_field", f"options {text!r} are not (a) ... (b) ...")
    return texts


SOURCE = Source(
    name="mmvp",
    licence="MIT",
    load=streamed("mmvp", rows, convert),
    files=files,
    images=lambda location, options: files(location, options)[0].parent / FOLDER,
    home="MMVP/MMVP",
    describe="MMVP, evaluation only",
    count=lambda location, options: rows_count(_cells(files(location, options)[0])),
    options={"fix_labels": False},
    hub_files=lambda options: ["Questions.csv", f"{FOLDER}/*.jpg"],
)
