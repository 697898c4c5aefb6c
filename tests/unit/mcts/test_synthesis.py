"""Questions dealt out to several processes; Ray itself is stood in for."""

import os
import threading
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
        ("shards=none", "shards: found 'none'"),
        ("patience=0", "patience > 0 seconds"),
        ("shards=0", "shards >= 1"),
        ("shard=0/2", "deals the questions out itself"),
        ("simulation=2", "found 'simulation=2'"),
        ("budget_tokens=5", "at least one token for each of 8 parts"),
    ],
)
def test_mistakes_are_named(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesis.main(["in=a", "out=b", "teacher=scene", argument], lambda parts: []) == 2
    assert message in capsys.readouterr().err


def test_relative_places_are_made_absolute_for_other_working_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[list[str]] = []
    synthesis.main(["in=data", "out=/shared/out", "teacher=scene", "shards=1"], lambda parts: seen.extend(parts) or [3])
    assert seen[0][:2] == [f"in={tmp_path / 'data'}", "out=/shared/out"]


def test_waiting_ends_when_nobody_saves_anything(tmp_path: Path) -> None:
    """Two parts, and three looks: in the first a tree is saved, in the second one part ends, after the third patience is over."""
    os.utime(tmp_path, (1, 1))  # long ago, so that a file in it shows whatever the clock's grain
    looks: list[int] = []

    def wait(left: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        assert (num_returns, timeout) == (len(left), 0.001)
        looks.append(len(left))
        if len(looks) == 1:
            (tmp_path / "tree.json").write_text("{}")
            return [], left
        if len(looks) == 2:
            return left[:1], left[1:]
        threading.Event().wait(timeout)
        return [], left

    with pytest.raises(synthesis.ClusterProblem, match=r"1 parts saved no tree within 0\.001 s"):
        synthesis.wait_for(["a", "b"], wait, tmp_path, 0.001)
    assert looks[:3] == [2, 2, 1]
    synthesis.wait_for(["a"], lambda left, **more: (left, []), tmp_path, 0.001)


def test_a_lost_cluster_leaves_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    def lost(parts: Sequence[list[str]]) -> list[int]:
        raise synthesis.ClusterProblem("a part was lost (the node died).")

    assert synthesis.main(["in=a", "out=b", "teacher=scene"], lost) == 1
    assert "the node died). What is done is kept" in capsys.readouterr().err
