"""Puzzles as records and as verl's parquet files: the same settings give the same bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image as Picture

from data_prep.frames import Frame
from data_prep.generated import existing_manifest, write_once
from data_prep.prompts import SYSTEM_PROMPTS
from data_prep.puzzles import clock, maze, move_box, n_queens
from data_prep.puzzles.puzzle import LEVELS, Kind, Puzzle
from data_prep.record import Image, Record
from data_prep.writers import write_rl

KINDS: Mapping[str, Kind] = {"clock": clock.KIND, "maze": maze.KIND, "n_queens": n_queens.KIND, "move_box": move_box.KIND}
SPLITS = ("train", "val", "test")
ANSWERS = ("choice", "open")
OPTIONS = 4
DATASET = "puzzles"
FORMAT_VERSION = 2  # 1: descriptions of clocks said the time
_TEST_PERCENT, _VAL_PERCENT = 10, 10
_TRIES = 20_000  # draws in a row that give nothing new before the content counts as exhausted; one in ten falls into a held-out split
MIN_SIDE = 112


@dataclass(frozen=True, slots=True)
class PuzzleDataSettings:
    """What decides the bytes of a puzzle data set. `train`, `val`, `test` are numbers of rows, at least 0.

    Raises:
        ValueError: a setting out of its range, or an unknown name.
    """

    seed: int = 0
    train: int = 3200
    val: int = 200
    test: int = 400
    kinds: tuple[str, ...] = tuple(KINDS)
    levels: tuple[int, ...] = LEVELS
    answers: str = "choice"  # choice: four lettered options | open: a time, a number or a square, with partial credit where it applies
    side: int = 336  # pixels of the square picture; a multiple of 28, so that the model sees it as it is
    prompt: str = "think"  # system prompt: a name of data_prep.prompts.SYSTEM_PROMPTS, the six reward designs among them

    def __post_init__(self) -> None:
        for name in SPLITS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 rows, found {getattr(self, name)}")
        for name, found, known in (("kinds", self.kinds, KINDS), ("levels", self.levels, LEVELS)):
            if not found or set(found) - set(known):
                raise ValueError(f"{name} must name some of {list(known)}, found {list(found)}")
        if self.answers not in ANSWERS:
            raise ValueError(f"answers must be one of {list(ANSWERS)}, found {self.answers!r}")
        if self.side < MIN_SIDE or self.side % 28:
            raise ValueError(f"side must be a multiple of 28 from {MIN_SIDE} on, found {self.side}")
        if self.prompt not in SYSTEM_PROMPTS:
            raise ValueError(f"prompt must be one of {sorted(SYSTEM_PROMPTS)}, found {self.prompt!r}")


def split_of(puzzle: Puzzle) -> str:
    """The only split that a content can be in, whatever is asked about it and whatever its colours."""
    bucket = int.from_bytes(hashlib.sha256(puzzle.content_key.encode()).digest()[:8], "big") % 100
    if bucket < _TEST_PERCENT:
        return "test"
    return "val" if bucket < _TEST_PERCENT + _VAL_PERCENT else "train"


def puzzle_records(settings: PuzzleDataSettings, split: str) -> Iterator[Record]:
    """The records of one split, kinds in turn, no question twice.

    Raises:
        ValueError: a kind has fewer different questions than are asked for; the message says which.
    """
    rng = Random(f"puzzles/{settings.seed}/{split}")
    seen: set[str] = set()
    for index in range(getattr(settings, split)):
        name = settings.kinds[index % len(settings.kinds)]
        puzzle = _fresh(rng, settings, name, split, seen)
        seen.add(puzzle.uid)
        yield record_of(puzzle, settings, split, rng)


def _fresh(rng: Random, settings: PuzzleDataSettings, name: str, split: str, seen: set[str]) -> Puzzle:
    for _ in range(_TRIES):
        puzzle = KINDS[name].draw(rng, rng.choice(settings.levels))
        if puzzle.uid not in seen and split_of(puzzle) == split:
            return puzzle
    raise ValueError(
        f"{name} at levels {list(settings.levels)} has no more new questions for {split} after {len(seen)} rows: ask for fewer rows, "
        "or add levels or kinds"
    )


def record_of(puzzle: Puzzle, settings: PuzzleDataSettings, split: str, rng: Random) -> Record:
    """A puzzle as a record; `metadata.description` is what stands for the picture in a test of perception."""
    options: tuple[str, ...] = ()
    gold = -1
    if settings.answers == "choice":
        shuffled = [puzzle.answer, *puzzle.wrong[: OPTIONS - 1]]
        rng.shuffle(shuffled)
        options, gold = tuple(shuffled), shuffled.index(puzzle.answer)
    picture = KINDS[puzzle.kind].render(puzzle, settings.side)
    return Record(
        uid=puzzle.uid,
        dataset=DATASET,
        split=split,
        question=puzzle.question,
        options=options,
        gold_index=gold,
        gold_text=puzzle.answer,
        images=(Image(_png(picture), None, settings.side, settings.side),),
        task_type=puzzle.kind,
        metadata={"description": puzzle.description, "content": dict(puzzle.content)},
    )


def write_puzzles(directory: Path | str, settings: PuzzleDataSettings) -> dict[str, Any]:
    """Write `train.parquet`, `val.parquet`, `test.parquet` and, last, `manifest.json`; returns the manifest.

    A directory that already holds the data set of the same settings is left as it is.

    Raises:
        FileExistsError: the directory holds anything else.
        ValueError: more rows than there are different questions.
    """
    directory = Path(directory)
    wanted = {**asdict(settings), "kinds": list(settings.kinds), "levels": list(settings.levels)}
    head = {"dataset": DATASET, "format_version": FORMAT_VERSION, "settings": wanted}
    found = existing_manifest(directory, head)
    if found is not None:
        return found
    frame = Frame(min_pixels=settings.side**2, max_pixels=settings.side**2)

    def write(folder: Path) -> dict[str, Any]:
        written = [
            write_rl(puzzle_records(settings, split), folder / f"{split}.parquet", prompt=settings.prompt, frame=frame) for split in SPLITS
        ]
        return {one.path.name: {"rows": one.rows, "sha256": one.sha256} for one in written}

    return write_once(directory, head, write)


def _png(picture: Picture.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
