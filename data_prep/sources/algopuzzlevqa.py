"""AlgoPuzzleVQA (declare-lab/LLM-PuzzleTest): 18 kinds of drawn puzzles, 100 each, with 2 or 4 options.

`data/<puzzle>.json` are JSON Lines in spite of their name; images are named relative to `data/`. `solution` has another shape for each
puzzle and is kept as JSON text. There is no official split; reports should say which puzzles were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.record import Record, Unusable
from data_prep.sources import Request, Source, streamed
from data_prep.sources.benchmark_files import find, numbered, row_images
from data_prep.sources.fields import image_root
from data_prep.sources.pinned import Pinned
from data_prep.sources.reading import json_lines, lines_count

PUZZLES = (
    "board_tile", "calendar", "chain_link", "checker_move", "clock", "colour_hue", "map", "maze", "move_box", "n_queens", "number_slide",
    "rotting_kiwi", "rubiks_cube", "think_dot", "tower_of_hanoi", "water_jugs", "wheel_of_fortune", "wood_slide",
)  # fmt: skip
PATTERNS = tuple(f"{folder}*.json" for folder in ("AlgoPuzzleVQA/data/", "data/", ""))
PINNED = Pinned(1800, by_type=dict.fromkeys(PUZZLES, 100), revision="9b3a074")


def files(location: Path, options: Mapping[str, Any]) -> list[Path]:
    """One file for each puzzle, by name; with the option `puzzles` those only. Raises ConfigError."""
    wanted = tuple(options["puzzles"])
    found = [path for path in find(location, PATTERNS, "algopuzzlevqa") if not wanted or path.stem in wanted]
    if not found:
        find(location / "absent", [f"{name}.json" for name in wanted], "algopuzzlevqa")
    return found


def rows(location: Path, request: Request) -> Iterator[tuple[int, Any]]:
    yield from numbered(files(location, request.options), "algopuzzlevqa", json_lines)


def convert(index: int, raw: Any, request: Request) -> Record:
    options = tuple(str(option) for option in raw["options"])
    answer = str(raw["answer"])
    if answer not in options:
        raise Unusable("answer_not_in_options", f"{answer!r} is none of {list(options)}")
    gold = options.index(answer)
    name = str(raw["image"])
    root = image_root(request, files(request.location, request.options)[0].parent)
    pictures, notes = row_images([name], request, root)
    return Record(
        uid=f"algopuzzlevqa-{Path(name).stem}",
        dataset="algopuzzlevqa",
        split="test",
        question=str(raw["question"]).strip(),
        options=options,
        gold_index=gold,
        gold_text=answer,
        images=pictures,
        task_type=puzzle_of(name),
        metadata={"source_id": Path(name).stem, "solution_json": json.dumps(raw.get("solution"), sort_keys=True)},
        notes=notes,
    )


def puzzle_of(image: str) -> str:
    """`board_tile` of `images/board_tile/board_tile_0000.jpg`."""
    return Path(image).stem.rpartition("_")[0]


SOURCE = Source(
    name="algopuzzlevqa",
    licence="MIT",
    load=streamed("algopuzzlevqa", rows, convert),
    home="declare-lab/LLM-PuzzleTest",
    describe="AlgoPuzzleVQA, all 18 puzzles",
    count=lambda location, options: lines_count(files(location, options)),
    options={"puzzles": ()},
)
