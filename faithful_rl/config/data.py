"""`faithful_rl.data` and `faithful_rl.evaluation`: questions to train on and questions held out."""

from __future__ import annotations

from dataclasses import dataclass, field

from faithful_rl.config.checks import in_range, one_of, require

SOURCES = ("scenes", "puzzles", "parquet")
PUZZLE_KINDS = ("clock", "maze", "n_queens", "move_box")
PUZZLE_ANSWERS = ("choice", "open")
DECODINGS = ("T1", "greedy")


@dataclass
class ScenesConfig:
    """Synthetic spatial scenes, made at first use: the same seed and sizes give the same bytes."""

    seed: int = 0
    train: int = 6400  # rows, >= 1
    val: int = 200  # rows, >= 1
    test: int = 600  # rows, >= 1: the held-out questions of the before/after table
    directory: str = "outputs/data/scenes"  # one folder per seed and size below it


@dataclass
class PuzzlesConfig:
    """Drawn puzzles, made at first use; the fields of `data_prep.puzzles.dataset.PuzzleDataSettings`."""

    seed: int = 0
    train: int = 3200  # rows, >= 1
    val: int = 200  # rows, >= 1
    test: int = 400  # rows, >= 1: the held-out questions of the before/after table
    kinds: list[str] = field(default_factory=lambda: list(PUZZLE_KINDS))
    levels: list[int] = field(default_factory=lambda: [1, 2, 3])  # easy to hard
    answers: str = "choice"  # choice: four options | open: a time, a number or a square
    side: int = 336  # pixels of the picture, a multiple of 28, >= 112
    prompt: str = "think"  # system prompt by name, see data_prep/prompts.py
    directory: str = "outputs/data/puzzles"  # the whole data set lies there


@dataclass
class DataConfig:
    source: str = "scenes"  # scenes, puzzles: generated here | parquet: data.train_files and data.val_files name existing files
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    puzzles: PuzzlesConfig = field(default_factory=PuzzlesConfig)
    check_rows: int = 256  # rows per file whose image and tags preflight opens; -1: every row


@dataclass
class EvaluationConfig:
    """Held-out evaluation before the first and after the last step."""

    at_start: bool = True
    at_end: bool = True
    decodings: list[str] = field(default_factory=lambda: ["T1", "greedy"])  # T1: sampled at temperature 1
    max_questions: int = -1  # -1: the whole held-out set


def validate_data(data: DataConfig) -> None:
    one_of("data.source", data.source, SOURCES)
    for split in ("train", "val", "test"):
        in_range(f"data.scenes.{split}", getattr(data.scenes, split), 1)
    in_range("data.scenes.seed", data.scenes.seed, 0)
    _validate_puzzles(data.puzzles)
    in_range("data.check_rows", data.check_rows, -1)


def _validate_puzzles(puzzles: PuzzlesConfig) -> None:
    for split in ("train", "val", "test"):
        in_range(f"data.puzzles.{split}", getattr(puzzles, split), 1)
    in_range("data.puzzles.seed", puzzles.seed, 0)
    require(bool(puzzles.kinds), "data.puzzles.kinds", "none", "at least one kind", "Leave it out for all of them.")
    for kind in puzzles.kinds:
        one_of("data.puzzles.kinds", kind, PUZZLE_KINDS)
    require(bool(puzzles.levels), "data.puzzles.levels", "none", "at least one level", "Leave it out for all of them.")
    for level in puzzles.levels:
        in_range("data.puzzles.levels", level, 1, 3)
    one_of("data.puzzles.answers", puzzles.answers, PUZZLE_ANSWERS)
    in_range("data.puzzles.side", puzzles.side, 112)
    require(puzzles.side % 28 == 0, "data.puzzles.side", puzzles.side, "a multiple of 28 pixels", "Change faithful_rl.data.puzzles.side.")


def validate_evaluation(evaluation: EvaluationConfig) -> None:
    for decoding in evaluation.decodings:
        one_of("evaluation.decodings", decoding, DECODINGS)
    in_range("evaluation.max_questions", evaluation.max_questions, -1)
