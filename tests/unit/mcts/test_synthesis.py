"""Questions dealt out to several processes; Ray itself is stood in for."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from data_prep.mcts import command
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from faithful_rl.synthesis import __main__ as synthesis


def test_parts_give_what_one_process_gives(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", SceneDataSettings(train=7, val=1, test=1))
    common = [f"in={tmp_path / 'scenes'}", "teacher=scene", "simulations=2"]
    seen: list[list[str]] = []

    def in_turn(parts: Sequence[list[str]]) -> list[int]:
        seen.extend(parts)
        return [command.main(part) for part in parts]

    assert synthesis.main([*common, f"out={tmp_path / 'parts'}", "shards=3", "budget_tokens=90000"], in_turn) == 0
    assert command.main([*common, f"out={tmp_path / 'whole'}"]) == 0
    for file in ("train.parquet", "manifest.json"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert [part[-1] for part in seen] == ["shard=0/3", "shard=1/3", "shard=2/3"]
    assert all("budget_tokens=30000" in part for part in seen)


def test_a_part_that_fails_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesis.main(["in=a", "out=b", "teacher=scene", "shards=2"], lambda parts: [0, 3]) == 3
    assert "1 of 2 parts ended with exit code 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("shards=none", "shards, cpus"),
        ("shards=0", "shards >= 1"),
        ("shard=0/2", "deals the questions out itself"),
        ("simulation=2", "found 'simulation=2'"),
        ("budget_tokens=5", "at least one token for each of 8 parts"),
    ],
)
def test_mistakes_are_named(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesis.main(["in=a", "out=b", "teacher=scene", argument], lambda parts: []) == 2
    assert message in capsys.readouterr().err
