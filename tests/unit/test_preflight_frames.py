"""Before training: the reward's frame against what the processor does."""

import json
from pathlib import Path
from typing import Any

import pytest
import training_sets as sets

from data_prep import prepare
from data_prep.frames import PROCESSOR_MAX_PIXELS, PROCESSOR_MIN_PIXELS, Frame
from data_prep.prepare import Job
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from data_prep.writers.parquet import read_rows, write_rows
from data_prep.writers.rl import SCHEMA
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight import frames, prompt_lengths

pytest.importorskip("verl")
MODEL = Path(__file__).parents[2] / "models" / "tiny_warm_start"


@pytest.fixture(scope="module")
def processors() -> dict[str, Any]:
    from faithful_rl.verl_plugin.guards import torchvision_schema

    torchvision_schema.apply()
    wide = prompt_lengths._load(str(MODEL))
    wide[0].image_processor.size = {"shortest_edge": PROCESSOR_MIN_PIXELS, "longest_edge": PROCESSOR_MAX_PIXELS}
    return {"tiny": prompt_lengths._load(str(MODEL)), "full": wide}


def check(path: Path, which: str, processors: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **data: Any) -> None:
    monkeypatch.setattr(prompt_lengths, "_load", lambda model: processors[which])
    config = {"data": {"train_files": str(path), **data}, "actor_rollout_ref": {"model": {"path": "model"}}}
    frames.check(config, FaithfulRLConfig(recipe="r"))


def test_scenes_agree_with_the_tiny_model(tmp_path: Path, processors: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path / "scenes", SceneDataSettings(train=2, val=1, test=1))
    check(tmp_path / "scenes" / "train.parquet", "tiny", processors, monkeypatch)
    # a model that sees 56 x 56 where the reward assumes 112 x 112
    processors["full"][0].image_processor.size = {"shortest_edge": 3136, "longest_edge": 3136}
    with pytest.raises(ConfigError, match=r"train\.parquet, row 0") as caught:
        check(tmp_path / "scenes" / "train.parquet", "full", processors, monkeypatch)
    processors["full"][0].image_processor.size = {"shortest_edge": PROCESSOR_MIN_PIXELS, "longest_edge": PROCESSOR_MAX_PIXELS}
    assert "112 x 112" in str(caught.value)


def test_prepared_rows_agree_with_the_full_size_limits_only(
    tmp_path: Path, processors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.prepare(Job("treevgr_rl", str(sets.treevgr(tmp_path / "raw")), tmp_path / "out", frame=Frame(max_pixels=200_704)))
    path = tmp_path / "out" / "train.parquet"
    check(path, "full", processors, monkeypatch)
    with pytest.raises(ConfigError, match="after the processor"):
        check(path, "tiny", processors, monkeypatch)
    check(path, "tiny", processors, monkeypatch, mm_processor_kwargs={"min_pixels": 3136, "max_pixels": 200_704})


def test_limits_of_image_and_reward_that_differ(tmp_path: Path, processors: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare.prepare(Job("treevgr_rl", str(sets.treevgr(tmp_path / "raw")), tmp_path / "out"))
    rows = json.loads(json.dumps(list(read_rows(tmp_path / "out" / "train.parquet")), default=lambda data: data.hex()))
    for row in rows:
        row["images"] = [{**cell, "bytes": bytes.fromhex(cell["bytes"]), "max_pixels": 200_704} for cell in row["images"]]
    write_rows(rows, tmp_path / "mixed.parquet", SCHEMA)
    with pytest.raises(ConfigError, match="the same limits in images and extra_info"):
        check(tmp_path / "mixed.parquet", "full", processors, monkeypatch)
