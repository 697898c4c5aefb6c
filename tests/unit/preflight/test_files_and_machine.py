"""Damaged files, full disks, taken ports, small clusters, foreign versions: named before anything starts."""

import shutil
import socket
from collections import namedtuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preflight_world import World, row, snapshot, write_rows

from faithful_rl import main
from faithful_rl.config import ConfigError
from faithful_rl.preflight import machine, plugin_active, stack

DiskUsage = namedtuple("DiskUsage", "total used free")


def test_a_corrupt_parquet_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.data.write_bytes(b"PAR1 and nothing else")
    assert world.run() == 2
    assert f"data.train_files: found {world.data}, which is not a readable parquet file" in capsys.readouterr().err


def test_a_parquet_that_is_damaged_in_the_middle_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.Table.from_pylist([row() for _ in range(40)]), world.data, compression="NONE", use_dictionary=False)
    content = bytearray(world.data.read_bytes())
    content[4:2000] = bytes(1996)
    world.data.write_bytes(content)
    assert world.run() == 2
    assert f"{world.data}" in capsys.readouterr().err


def test_an_image_that_does_not_open_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(world.data, [row(), row(images=[{"bytes": b"GIF89a but not really"}])])
    assert world.run() == 2
    assert f"data.train_files: found an image that does not open in {world.data}, row 1" in capsys.readouterr().err


def test_scenes_are_made_once_and_refused_when_they_changed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world.root)
    command = ["recipe=fgrpo_tiny", "mode=check", f"actor_rollout_ref.model.path={world.model}"]
    sizes = [f"faithful_rl.data.scenes.{split}={rows}" for split, rows in (("train", 64), ("val", 4), ("test", 4))]
    assert main.main([*command, *sizes]) == 0
    folder = world.root / "outputs" / "data" / "scenes" / "seed0-64-4-4"
    made = snapshot(folder)
    assert set(made) == {"train.parquet", "val.parquet", "test.parquet", "manifest.json"}
    assert main.main([*command, *sizes]) == 0
    assert snapshot(folder) == made
    (folder / "test.parquet").write_bytes(made["train.parquet"])
    capsys.readouterr()
    assert main.main([*command, *sizes]) == 2
    assert "faithful_rl.data.scenes.directory: found data that is not the recipe's" in capsys.readouterr().err


def test_a_full_disk_is_named(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: DiskUsage(10 * 2**30, 0, 2**29))
    assert world.run() == 2
    assert capsys.readouterr().err == (
        f"error: faithful_rl.output_dir: found 0.5 GiB free in {world.root}, expected at least 1.0 GiB for checkpoints and logs. "
        "Free some space, choose another faithful_rl.output_dir, or lower trainer.max_actor_ckpt_to_keep.\n"
    )


def test_space_for_checkpoints_is_fp32_weights_and_two_moments_times_kept_plus_one() -> None:
    trainer = {"save_freq": 20, "max_actor_ckpt_to_keep": 2, "total_training_steps": 60}
    assert machine.checkpoint_bytes({"trainer": trainer}, 1000) == 3 * 6 * 1000
    assert machine.checkpoint_bytes({"trainer": {**trainer, "max_actor_ckpt_to_keep": None}}, 1000) == 3 * 6 * 1000  # 60 / 20
    assert machine.checkpoint_bytes({"trainer": {**trainer, "save_freq": -1}}, 1000) == 0


def test_a_port_in_use_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        overrides = ["ray_kwargs.ray_init.include_dashboard=true", f"+ray_kwargs.ray_init.dashboard_port={port}"]
        assert world.run(*overrides) == 2
    assert capsys.readouterr().err == (
        f"error: ray_kwargs.ray_init.dashboard_port: found port {port}, which is in use, expected a free port. "
        "Choose another ray_kwargs.ray_init.dashboard_port, or stop what listens there.\n"
    )


def test_an_unwritable_directory_is_named(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine.os, "access", lambda folder, how: False)  # tests may run as root, who may write anywhere
    assert world.run() == 2
    assert f"found {world.out} in {world.root}, which cannot be written" in capsys.readouterr().err


def test_a_cluster_with_too_few_cpus_is_refused_by_what_it_offers(world: World) -> None:
    job = main.prepare(["recipe=fgrpo_tiny"])
    config = main.resolved(job.composed)
    machine.check_slots(config, job.typed, {"CPU": 7, "GPU": 1})
    with pytest.raises(ConfigError, match="found 6 logical CPUs"):
        machine.check_slots(config, job.typed, {"CPU": 6, "GPU": 1})


@pytest.mark.parametrize(
    ("installed", "found"),
    [({}, "verl not installed"), ({"verl": "0.8.0"}, "verl 0.8.0"), ({**stack.PINS["cpu"], "torch": "2.12.0+cpu"}, "torch 2.12.0+cpu")],
)
def test_other_versions_than_the_pins_are_named(installed: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_version", installed.get)
    with pytest.raises(ConfigError) as caught:
        stack.check("cpu")
    assert caught.value.found == found
    assert "requirements/cpu.txt" in caught.value.fix


def test_the_pins_allow_a_local_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_version", {**stack.PINS["cpu"], "torch": "2.13.0+cpu"}.get)
    stack.check("cpu")


def test_parts_that_are_not_ours_are_named() -> None:
    plugin_active.expect_ours("reward manager", "faithful_rl.verl_plugin.reward_manager.FaithfulRewardManager")
    with pytest.raises(ConfigError) as caught:
        plugin_active.expect_ours("reward manager", "verl.experimental.reward_loop.reward_manager.naive.NaiveRewardManager")
    assert str(caught.value).startswith(
        "verl's reward manager: found verl.experimental.reward_loop.reward_manager.naive.NaiveRewardManager, "
        "expected the one of faithful_rl.verl_plugin."
    )
    with pytest.raises(ConfigError, match="found none"):
        plugin_active.expect_ours("engine for FSDP2", "")
