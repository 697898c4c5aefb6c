"""SAT-Real (array/SAT, test split): 150 questions on real photographs, evaluated in a circle: every question once for each
order of its options.

The right answer stands first in every row of the files, so that the orders, and not the file, decide its letter. With n options there are n
orders, each shifted by one place; the two of a two-option question are what SAT's authors average over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.record import Record, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, question_record, row_images, rows_of
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import parquet_count, parquet_rows

PATTERNS = ("SAT_test.parquet", "data/test-*.parquet", "**/SAT_test.parquet", "**/test-*.parquet")
PINNED = Pinned(150, 300, by_type={"action_conseq": 74, "ego_movement": 46, "goal_aim": 68, "obj_movement": 46, "perspective": 66})
PINNED_ONE_ORDER = Pinned(150, by_type={"action_conseq": 37, "ego_movement": 23, "goal_aim": 34, "obj_movement": 23, "perspective": 33})
_STRAY = " in the first frame"  # ends some options of the set's other splits; its authors' loader takes it off too


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """The data files in order. Raises ConfigError."""
    return find(location, PATTERNS, "sat_real")


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    yield from rows_of(files(location, request.options), "sat_real", parquet_rows)


def convert(index: int, raw: Any, request: Request) -> list[Record]:
    options = tuple(str(option).strip().removesuffix(_STRAY) for option in raw["answers"])
    answer = str(raw["correct_answer"]).strip().removesuffix(_STRAY)
    if len(options) < 2:
        raise Unusable("missing_field", f"{len(options)} options")
    if options.count(answer) != 1:
        raise Unusable("answer_not_in_options", f"{answer!r} stands {options.count(answer)} times in {list(options)}")
    found = raw.get("image_bytes") if raw.get("image_bytes") is not None else raw.get("images")
    pictures = row_images(list(found or ()), request)
    orders = circular_orders(options) if request.options["circular"] else [options]
    kind, whole = str(raw["question_type"]), len(orders) == 1

    def record(shift: int, order: tuple[str, ...]) -> Record:
        metadata = {"source_id": f"{index}" if whole else f"{index}/{shift}", "circular_shift": shift}
        gold = order.index(answer)
        return question_record(f"sat_real-{index}-{shift}", "sat_real", str(raw["question"]), order, gold, pictures, kind, metadata)

    return [record(shift, order) for shift, order in enumerate(orders)]


def circular_orders(options: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every cyclic shift, the original first: each option stands once in each place."""
    return [options[shift:] + options[:shift] for shift in range(len(options))]


SOURCE = Source(
    name="sat_real",
    licence="MIT",
    load=streamed("sat_real", rows, convert),
    files=files,
    home="array/SAT",
    describe="SAT-Real, evaluation only, every order of options",
    count=lambda location, options: parquet_count(files(location, options)),
    options={"circular": True},
    hub_files=lambda options: ["SAT_test.parquet", "data/test-*.parquet"],  # array/SAT and array/SAT-v2
)
