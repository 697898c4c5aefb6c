"""Before training: the reward's frame against what the processor does."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import training_sets as sets

from data_prep import prepare
from data_prep.frames import PROCESSOR_MAX_PIXELS, PROCESSOR_MIN_PIXELS, Frame
from data_prep.prepare import Job
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from data_prep.writers.parquet import read_rows, write_rows
from data_prep.writers.rl import SCHEMA
from faithful_rl import preflight
from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight import frames, prompt_lengths

pytest.importorskip("verl")
MODEL = Path(__file__).parents[3] / "models" / "tiny_warm_start"


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


def check_chains(path: Path, which: str, processors: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_lengths, "_load", lambda model: processors[which])
    frames.check_sft({"data": {"train_files": str(path)}, "model": {"path": "model"}}, FaithfulRLConfig(recipe="r"))


def test_supervised_rows_agree_with_the_full_size_limits_only(
    tmp_path: Path, processors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chains written for 200,704 pixels; the tiny model's processor is pinned to 12,544."""
    location, options = sets.build("vgr", tmp_path / "raw")
    prepare.prepare(Job("vgr", str(location), tmp_path / "out", format="sft", options=options, frame=Frame(max_pixels=200_704)))
    path = tmp_path / "out" / "train.parquet"
    check_chains(path, "full", processors, monkeypatch)
    with pytest.raises(
        ConfigError, match=r"train\.parquet, row 0: found 112 x 84 pixels .* 640 x 480, expected 504 x 364 .* Make the data"
    ):
        check_chains(path, "tiny", processors, monkeypatch)


def test_supervised_rows_without_limits_or_sizes_are_read_from_their_images(
    tmp_path: Path, processors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """verl's own layout has `messages` and `images` only; qwen_vl_utils' limits hold then, which are the processor's."""
    image = {"bytes": sets.jpeg(300, 200)}
    pq.write_table(pa.Table.from_pylist([{"messages": [{"role": "user", "content": "x"}], "images": [image]}]), tmp_path / "plain.parquet")
    check_chains(tmp_path / "plain.parquet", "full", processors, monkeypatch)
    with pytest.raises(ConfigError, match=r"300 x 200, expected 308 x 196"):
        check_chains(tmp_path / "plain.parquet", "tiny", processors, monkeypatch)


def test_the_start_of_supervised_training_makes_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[str] = []
    for module, name in ((preflight.plugin_active, "check_engine"), (preflight.frames, "check_sft"), (preflight.sft, "check_lengths")):
        monkeypatch.setattr(module, name, lambda *rest, name=name: called.append(name) or [])
    monkeypatch.setattr(preflight.sft, "plan", lambda *rest: [])
    preflight.check_started({}, FaithfulRLConfig(recipe="r", method="sft_verl", output_dir=str(tmp_path)))
    assert called == ["check_engine", "check_sft", "check_lengths"]
