"""AlgoPuzzleVQA: 18 kinds of drawn puzzles, 100 each, with 2 or 4 options.

Two layouts. In the repository declare-lab/LLM-PuzzleTest on GitHub `data/<puzzle>.json` are JSON Lines in spite of their name, and images
are named relative to `data/`; the hub's copy declare-lab/AlgoPuzzleVQA has one parquet split named `data` with the images inside. Both
name an image `<puzzle>_0000.jpg`, which tells the puzzle. `solution` has another shape for each puzzle and is kept as JSON text. There
is no official split; reports should say which puzzles were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.record import FILTERED, Record, Reject, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, question_record, row_images, rows_of
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import json_lines, lines_count, parquet_count, parquet_rows

PUZZLES = (
    "board_tile", "calendar", "chain_link", "checker_move", "clock", "colour_hue", "map", "maze", "move_box", "n_queens", "number_slide",
    "rotting_kiwi", "rubiks_cube", "think_dot", "tower_of_hanoi", "water_jugs", "wheel_of_fortune", "wood_slide",
)  # fmt: skip
PATTERNS = (*(f"{folder}*.json" for folder in ("AlgoPuzzleVQA/data/", "data/")), "data/data-*.parquet", "data-*.parquet", "*.json")
PINNED = Pinned(1800, by_type=dict.fromkeys(PUZZLES, 100), revision="9b3a074")


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """One JSON file for each puzzle, by name, with the option `puzzles` those only; or the parquet files. Raises ConfigError."""
    wanted = tuple(options["puzzles"])
    everything = find(location, PATTERNS, "algopuzzlevqa")
    found = [path for path in everything if not wanted or path.stem in wanted or path.suffix == ".parquet"]
    if not found:
        find(location / "absent", [f"{name}.json" for name in wanted], "algopuzzlevqa")
    return found


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    found = files(location, request.options)
    yield from rows_of(found, "algopuzzlevqa", parquet_rows if found[0].suffix == ".parquet" else json_lines)


def convert(index: int, raw: Any, request: Request) -> list[Record | Reject]:
    image = raw["image"]
    name = Path(str((image or {}).get("path") or "") if isinstance(image, dict) or image is None else str(image))
    if not name.stem:
        raise Unusable("image_missing", "an image without a name, so that nobody knows which puzzle it shows")
    uid, puzzle = f"algopuzzlevqa-{name.stem}", puzzle_of(name.name)
    wanted = request.options["puzzles"]
    if wanted and puzzle not in wanted:
        return [Reject(uid, {"image": name.name}, FILTERED, f"puzzle {puzzle}")]
    options = tuple(str(option) for option in raw["options"])
    answer = str(raw["answer"])
    if answer not in options:
        raise Unusable("answer_not_in_options", f"{answer!r} is none of {list(options)}")
    pictures = row_images([image], request)
    metadata = {"source_id": name.stem, "solution_json": json.dumps(raw.get("solution"), sort_keys=True, default=str)}
    return [question_record(uid, "algopuzzlevqa", str(raw["question"]), options, options.index(answer), pictures, puzzle, metadata)]


def puzzle_of(image: str) -> str:
    """`board_tile` of `images/board_tile/board_tile_0000.jpg`."""
    return Path(image).stem.rpartition("_")[0]


def count(location: Path, options: Mapping[str, Any]) -> int:
    """Source rows, of other puzzles too where they share a file."""
    found = files(location, options)
    return parquet_count(found) if found[0].suffix == ".parquet" else lines_count(found)


SOURCE = Source(
    name="algopuzzlevqa",
    licence="MIT",
    load=streamed("algopuzzlevqa", rows, convert),
    files=files,
    images=lambda location, options: files(location, options)[0].parent,
    home="declare-lab/AlgoPuzzleVQA",
    describe="AlgoPuzzleVQA, all 18 puzzles, as on GitHub (JSON) or on the hub (parquet)",
    count=count,
    options={"puzzles": ()},
)
