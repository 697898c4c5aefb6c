"""Manifests that one stage writes and the next one reads."""

import json
from pathlib import Path

import pytest

from faithful_rl.config import ConfigError
from faithful_rl.provenance import check, describe, read_manifest, sha256, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.parquet").write_bytes(b"rows")
    (tmp_path / "other.parquet").write_bytes(b"more rows")
    files = {
        name: {"bytes": len(data), "sha256": sha256(tmp_path / name)}
        for name, data in (("train.parquet", b"rows"), ("other.parquet", b"more rows"))
    }
    write_manifest(tmp_path, {"kind": "sft", "files": files, "counts": {"questions": 2}, "private": "not repeated"})
    return tmp_path


def test_a_file_that_is_its_manifests_passes(folder: Path) -> None:
    manifest = check(folder / "train.parquet", "data.train_files")
    assert manifest is not None
    assert manifest["kind"] == "sft"
    assert check(folder, "model.path") == manifest


@pytest.mark.parametrize("content", [b"ROWS", b"longer rows"])
def test_a_changed_file_is_refused_by_its_key(folder: Path, content: bytes) -> None:
    (folder / "train.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match=r"data\.train_files: found .*train\.parquet, which differs from its manifest\.json"):
        check(folder / "train.parquet", "data.train_files")
    check(folder / "other.parquet", "data.train_files")  # only the file that is used matters


def test_a_lost_file_of_a_model_is_named(folder: Path) -> None:
    (folder / "other.parquet").unlink()
    with pytest.raises(ConfigError, match=r"no .*other\.parquet, which manifest\.json lists"):
        check(folder, "model.path")


def test_without_a_manifest_there_is_nothing_to_check(tmp_path: Path) -> None:
    assert check(tmp_path, "x") is None
    assert describe(tmp_path / "nothing") == {"name": "nothing", "manifest": None}


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="no manifest"):
        read_manifest(tmp_path)


def test_a_description_repeats_what_says_something(folder: Path) -> None:
    assert describe(folder / "train.parquet") == {
        "name": "train.parquet",
        "sha256": sha256(folder / "train.parquet"),
        "manifest": {"kind": "sft", "counts": {"questions": 2}},
    }
    json.dumps(describe(folder))


def test_the_shipped_warm_start_is_what_its_manifest_says() -> None:
    model = Path(__file__).parents[2] / "models" / "tiny_warm_start"
    manifest = check(model, "model.path")
    assert manifest is not None
    assert manifest["weights_sha256"] == sha256(model / "model.safetensors")
