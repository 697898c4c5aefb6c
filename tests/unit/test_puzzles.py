"""Puzzles: right answers by independent solvers from the text alone, pictures that show what the text says, splits that share nothing."""

import io
import json
import re
from collections import Counter
from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.puzzles import dataset, maze, move_box, n_queens
from data_prep.puzzles.clock import written
from data_prep.puzzles.dataset import KINDS, PuzzleDataSettings, puzzle_records, split_of, write_puzzles
from data_prep.puzzles.drawing import BLUE, GREEN, ORANGE, RED
from data_prep.puzzles.puzzle import Puzzle
from data_prep.writers import read_rl
from faithful_rl.compose import compose_recipe
from faithful_rl.config import from_node
from faithful_rl.rewards.suite import Reference

SQUARE = re.compile(r"\((\d+),(\d+)\)")
DRAWN = [(kind, level, seed) for kind in KINDS for level in (1, 2, 3) for seed in range(6)]


def drawn(kind: str, level: int, seed: int) -> Puzzle:
    return KINDS[kind].draw(Random(f"{kind}/{level}/{seed}"), level)


def squares(text: str) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in SQUARE.findall(text)]


def solve(puzzle: Puzzle) -> str:
    """The answer from question and description only, by other means than the generator's."""
    text = puzzle.description
    match puzzle.kind:
        case "clock":
            hour, minute = map(float, re.findall(r"points to ([\d.]+) degrees.* hand to (\d+) degrees", text)[0])
            shown = int(hour // 30) * 60 + round(minute / 6)
            assert hour == shown / 2
            away = sum(
                int(number) * (60 if unit.startswith("hour") else 1) for number, unit in re.findall(r"(\d+) (hour|minute)", puzzle.question)
            )
            return written(shown - away if "before" in puzzle.question else shown + away)
        case "maze":
            walls = re.search(r"except: (.*)\.$", text)
            assert walls
            opened = [tuple(squares(pair)) for pair in walls[1].split(", ")]
            start, goal = (squares(re.search(rf"{colour} square is (\(\d+,\d+\))", text)[1])[0] for colour in ("green", "red"))  # type: ignore[index]
            way = walk(opened, start, goal)
            turns = sum((a[0] == b[0]) != (b[0] == c[0]) for a, b, c in zip(way, way[1:], way[2:], strict=False))
            return str(turns if "direction" in puzzle.question else len(way) - 1)
        case "n_queens":
            size = int(re.search(r"board of (\d+) columns", text)[1])  # type: ignore[index]
            placed = {("abcdefgh".index(name[0]), int(name[1]) - 1) for name in re.findall(r"\b[a-h][1-8]\b", text.split("stand on")[1])}
            full = [board for board in boards(size) if placed <= board]
            assert len(full) == 1
            missing = sorted(full[0] - placed)
            if len(missing) == 1:
                return n_queens.name(missing[0])
            return str(abs(missing[0][0] - missing[1][0]) + abs(missing[0][1] - missing[1][1]))
        case "move_box":
            size = int(re.search(r"field of (\d+) rows", text)[1])  # type: ignore[index]
            person, box, goal = (
                squares(re.search(rf"{words} (\(\d+,\d+\))", text)[1])[0] for words in ("stands on", "box on", "mark is on")
            )  # type: ignore[index]
            return str(shove(size, set(squares(text.split("Walls fill")[1])), person, box, goal))
    raise AssertionError(puzzle.kind)


def walk(opened: list[tuple[tuple[int, int], ...]], start: tuple[int, int], goal: tuple[int, int]) -> list[tuple[int, int]]:
    """The only way without going back, depth first."""
    trails = [[start]]
    while trails:
        trail = trails.pop()
        if trail[-1] == goal:
            return trail
        trails += [[*trail, there] for pair in opened for here, there in (pair, pair[::-1]) if here == trail[-1] and there not in trail]
    raise AssertionError("no way")


def boards(size: int) -> list[set[tuple[int, int]]]:
    """Boards without attacks, pair by pair."""
    found = []
    for rows in permutations(range(size)):
        queens = list(enumerate(rows))
        if all(abs(a - c) != abs(b - d) for index, (a, b) in enumerate(queens) for c, d in queens[index + 1 :]):
            found.append(set(queens))
    return found


def shove(size: int, walls: set[tuple[int, int]], person: tuple[int, int], box: tuple[int, int], goal: tuple[int, int]) -> int:
    """Fewest steps by waves of states."""
    wave, seen, steps = {(person, box)}, {(person, box)}, 0
    while wave:
        if any(at == goal for _, at in wave):
            return steps
        following = set()
        for (row, column), at in wave:
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                there = (row + down, column + right)
                moved = (there[0] + down, there[1] + right) if there == at else at
                if all(1 <= value <= size for square in (there, moved) for value in square) and not {there, moved} & walls:
                    following.add((there, moved))
        wave, steps = following - seen, steps + 1
        seen |= wave
    raise AssertionError("it cannot be done")


@pytest.mark.parametrize(("kind", "level", "seed"), [one for one in DRAWN if one[:2] != ("n_queens", 3) or one[2] < 2])
def test_the_answer_follows_from_the_description_alone(kind: str, level: int, seed: int) -> None:
    puzzle = drawn(kind, level, seed)
    assert solve(puzzle) == puzzle.answer
    assert len(puzzle.wrong) >= 3
    assert puzzle.answer not in puzzle.wrong
    assert len(set(puzzle.wrong)) == len(puzzle.wrong)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_description_of_a_clock_says_where_the_hands_are_and_no_time(level: int) -> None:
    """Else it would give the answer of level 1 away, and the mode text_instead_of_image would measure no reading of clocks."""
    for seed in range(20):
        puzzle = drawn("clock", level, seed)
        shown = written(60 * puzzle.content["hour"] + puzzle.content["minute"])
        assert shown not in puzzle.description
        assert not re.search(r"\d:\d\d", puzzle.description)


def painted(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Centre (x, y) of the pixels of one colour, as shares of the side."""
    near = np.abs(np.asarray(picture, dtype=int) - colour).sum(axis=2) < 40
    assert near.any()
    ys, xs = np.nonzero(near)
    return (xs.mean() + 0.5) / picture.width, (ys.mean() + 0.5) / picture.height


@pytest.mark.parametrize("side", [112, 336])
@pytest.mark.parametrize("seed", range(3))
def test_pictures_show_things_where_the_content_says(side: int, seed: int) -> None:
    puzzle = drawn("maze", 2, seed)
    picture = maze.render(puzzle, side)
    assert (picture.size, picture.mode) == ((side, side), "RGB")
    for name, colour in (("start", GREEN), ("goal", RED)):
        row, column = puzzle.content[name]
        wanted = (0.06 + (column + 0.5) * 0.88 / 6, 0.06 + (row + 0.5) * 0.88 / 6)
        assert painted(picture, colour) == pytest.approx(wanted, abs=0.02)
    puzzle = drawn("move_box", 1, seed)
    picture = move_box.render(puzzle, side)
    for name, colour in (("box", ORANGE), ("person", BLUE)):
        row, column = puzzle.content[name]
        wanted = (0.03 + (column + 0.5) * 0.94 / 4, 0.03 + (row + 0.5) * 0.94 / 4)
        assert painted(picture, colour) == pytest.approx(wanted, abs=0.06)


def test_the_hands_point_where_they_should() -> None:
    """At 3:00 the dark pixels right of the middle are the hour hand's, those above it the minute hand's."""
    rng, puzzle = Random(0), drawn("clock", 1, 0)
    while (puzzle.content["hour"], puzzle.content["minute"]) != (3, 0) or puzzle.style["red_hand"]:
        puzzle = KINDS["clock"].draw(rng, 1)
    pixels = np.asarray(KINDS["clock"].render(puzzle, 336).convert("L"), dtype=int)
    dark = pixels < 120
    assert dark[160:176, 200:215].any()  # to the right
    assert dark[80:100, 164:172].any()  # up, further out
    assert not dark[200:230, 160:176].any()  # not down
    assert not dark[160:176, 100:130].any()  # not to the left


@pytest.mark.parametrize("kind", list(KINDS))
def test_drawing_is_reproducible(kind: str) -> None:
    first, second = drawn(kind, 2, 1), drawn(kind, 2, 1)
    assert first == second
    assert KINDS[kind].render(first, 112).tobytes() == KINDS[kind].render(second, 112).tobytes()
    assert drawn(kind, 2, 2).uid != first.uid


def test_contents_of_the_splits_are_disjoint_and_questions_are_not_repeated() -> None:
    settings = PuzzleDataSettings(train=120, val=40, test=40, side=112, prompt="none")
    contents: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        records = list(puzzle_records(settings, split))
        assert len({record.uid for record in records}) == len(records)
        contents[split] = {json.dumps([record.task_type, record.metadata["content"]], sort_keys=True) for record in records}
        assert Counter(record.task_type for record in records) == dict.fromkeys(KINDS, len(records) // 4)
    assert not contents["train"] & contents["test"]
    assert not contents["train"] & contents["val"]
    assert not contents["val"] & contents["test"]


def test_colours_do_not_move_a_puzzle_to_another_split() -> None:
    puzzle = drawn("clock", 2, 0)
    other = Puzzle(puzzle.kind, puzzle.content, {**puzzle.style, "paper": 3}, "Another question?", "1:00", (), "")
    assert split_of(puzzle) == split_of(other)


def test_neither_the_letter_nor_the_rank_of_a_number_gives_the_answer_away() -> None:
    records = list(puzzle_records(PuzzleDataSettings(train=240, kinds=("maze", "move_box"), levels=(1, 2), side=112), "train"))
    letters = Counter(record.gold_index for record in records)
    assert all(36 < letters[index] < 84 for index in range(4))
    numbers = [record for record in records if record.gold_text.isdigit()]
    ranks = Counter(sorted(map(int, record.options)).index(int(record.gold_text)) for record in numbers)
    assert all(ranks[rank] / len(numbers) > 0.1 for rank in range(4))


def test_rows_are_read_by_the_reward_and_hold_the_description(tmp_path: Path) -> None:
    settings = PuzzleDataSettings(train=8, val=4, test=4, side=112, answers="open", prompt="mixture")
    manifest = write_puzzles(tmp_path / "puzzles", settings)
    assert {name: entry["rows"] for name, entry in manifest["files"].items()} == {"train.parquet": 8, "val.parquet": 4, "test.parquet": 4}
    rows = pq.read_table(tmp_path / "puzzles" / "train.parquet").to_pylist()
    row = rows[0]
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert "<rethink>" in row["prompt"][0]["content"]
    assert row["prompt"][1]["content"].count("<image>") == 1
    assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == (112, 112)
    assert row["extra_info"]["min_pixels"] == row["extra_info"]["max_pixels"] == 112 * 112
    reference = Reference.from_row(row["reward_model"], row["extra_info"])
    assert (reference.options, reference.gold_index) == ((), -1)
    (first, *_) = read_rl(tmp_path / "puzzles" / "train.parquet")
    assert first.metadata["description"].startswith("An analogue clock")
    assert write_puzzles(tmp_path / "puzzles", settings) == manifest  # already there
    again = write_puzzles(tmp_path / "again", settings)
    assert again["files"] == manifest["files"]  # the same bytes
    with pytest.raises(FileExistsError, match="other settings"):
        write_puzzles(tmp_path / "puzzles", PuzzleDataSettings(seed=1, train=8, val=4, test=4, side=112))


def test_the_command_makes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["puzzles", f"out={tmp_path / 'p'}", "train=4", "val=0", "test=0", "kinds=clock,maze", "levels=1", "side=112", "prompt=none"]
    assert main(words) == 0
    assert "train.parquet: 4 rows" in capsys.readouterr().out
    assert main([*words[:-1], "prompt=think"]) == 1
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("side=100", "side must be a multiple of 28 from 112 on, found 100"),
        ("kinds=chess", "kinds must name some of"),
        ("levels=4", "levels must name some of"),
        ("levels=x", "levels: found 'x', expected whole numbers"),
        ("answers=both", "answers must be one of"),
        ("prompt=poem", "prompt must be one of"),
        ("train=-1", "train must be at least 0 rows"),
        ("tain=1", "tain: found an unknown key"),
        ("train", "arguments: found 'train', expected KEY=VALUE."),
    ],
)
def test_a_mistake_is_named(word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["puzzles", f"out={tmp_path / 'p'}", word]) == 2
    assert message in capsys.readouterr().err


def test_an_exhausted_kind_is_said_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["puzzles", f"out={tmp_path / 'p'}", "kinds=clock", "levels=1", "train=100", "side=112"]) == 2
    assert "clock at levels [1] has no more new questions for train" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["puzzles_tiny", "design_vanilla_3b", "design_vanilla_7b"])
def test_the_scarcest_kind_is_enough_for_the_rows_of_a_recipe(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn without pictures. Boards of queens are few, and one in ten of them belongs to a held-out split."""
    asked = from_node(compose_recipe([f"recipe={recipe}"]).faithful_rl).data.puzzles
    monkeypatch.setattr(dataset, "record_of", lambda puzzle, *others: puzzle)
    for split in dataset.SPLITS:
        rows = -(-getattr(asked, split) // len(asked.kinds))
        settings = dataset.PuzzleDataSettings(**{**dict.fromkeys(dataset.SPLITS, 0), split: rows}, seed=asked.seed, kinds=("n_queens",))
        assert len({puzzle.uid for puzzle in dataset.puzzle_records(settings, split)}) == rows  # type: ignore[attr-defined]
