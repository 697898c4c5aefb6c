"""Tree search on a real Ray cluster: the bytes of one process, from another working directory; and a cluster without room."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")
from judge_pool_cluster import SECONDS, cluster

from data_prep.mcts import command
from data_prep.scenes.dataset import SceneDataSettings, write_scenes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SEARCH = ("teacher=scene", "simulations=2", "pages=1")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster(num_cpus=2) as found:
        yield found


def synthesis(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m faithful_rl.synthesis` from `folder`, which is not where the cluster's workers are."""
    line = [sys.executable, "-m", "faithful_rl.synthesis", *words, *SEARCH]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_two_processes_of_a_cluster_give_the_bytes_of_one(address: str, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", SceneDataSettings(train=4, val=1, test=1))
    done = synthesis(tmp_path, "shards=2", f"address={address}", "in=scenes", "out=parts")
    assert done.returncode == 0, done.stderr[-3000:]
    assert command.main([f"in={tmp_path / 'scenes'}", f"out={tmp_path / 'whole'}", *SEARCH]) == 0
    trees = sorted(path.name for path in (tmp_path / "whole" / "trees").iterdir())
    assert len(trees) == 4
    for file in ("train.parquet", "manifest.json", *(f"trees/{name}" for name in trees)):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_cluster_without_room_is_given_up(address: str, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", SceneDataSettings(train=1, val=1, test=1))
    done = synthesis(tmp_path, "shards=1", "cpus=64", "patience=1", f"address={address}", "in=scenes", "out=parts")
    assert done.returncode == command.EXIT_UNFINISHED
    assert "1 parts saved no tree within 1 s" in done.stderr
