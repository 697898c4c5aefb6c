"""What makes a data set the same one: the files that were read, the images' root, and one process at a time."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import benchmark_sets as benchmarks
import killed
import pyarrow.parquet as pq
import pytest
import training_sets as sets

from data_prep import lock, prepare, sources
from data_prep.prepare import Job
from faithful_rl.config import ConfigError

# The data files that each source reads of its fixture, below `in`.
READ = {
    "cvbench": ["test_2d.parquet", "test_3d.parquet"],
    "mindcube": ["data/raw/MindCube_tinybench.jsonl"],
    "mmvp": ["Questions.csv"],
    "omnispatial": ["OmniSpatial-test/data.json"],
    "realworldqa": ["data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet"],
    "sat_real": ["SAT_test.parquet"],
    "algopuzzlevqa": ["data/board_tile.json", "data/calendar.json"],
    "sat": ["SAT_train.parquet"],
    "sat_v2": ["data/train-00000-of-00001.parquet"],
    "vgr": ["data/vgr_shortcot.parquet"],
    "viscot": ["cub_cot_train.jsonl", "dude_cot_train.jsonl", "textcap_cot_train.jsonl"],
    "viscot_363k": ["viscot_363k.json"],
    "treevgr_rl": ["vstar30k_visdrone6k_x1y1x2y2.parquet"],
}


def built(name: str, folder: Path) -> tuple[str, Path, dict[str, Any]]:
    if name in benchmarks.BUILDERS:
        return name, benchmarks.build(name, folder), {}
    location, options = sets.build(name, folder)
    return sets.source_of(name), location, options


@pytest.mark.parametrize("name", READ)
def test_the_manifest_names_the_files_that_were_read(name: str, tmp_path: Path) -> None:
    source, location, options = built(name, tmp_path / "raw")
    home = location.parent if location.is_file() else location
    sets.put(home / "notes.json", b"of somebody else")  # lies beside them, and is not read where a layout names its files
    if name == "algopuzzlevqa":
        (home / "notes.json").unlink()
    made = prepare.prepare(Job(source, str(location), tmp_path / "out", options=options))
    assert sorted(made["sources"][source]["files"]) == READ[name]


@pytest.mark.parametrize("name", READ)
def test_a_changed_file_is_another_data_set(name: str, tmp_path: Path) -> None:
    """Blank lines or a rewritten footer change no row: only the hash can tell."""
    source, location, options = built(name, tmp_path / "raw")
    prepare.prepare(Job(source, str(location), tmp_path / "out", options=options))
    home = location.parent if location.is_file() else location
    path = home / READ[name][-1]
    if path.suffix == ".parquet":
        pq.write_table(pq.read_table(path), path, compression="gzip")
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match="other input files"):
        prepare.prepare(Job(source, str(location), tmp_path / "out", options=options))


def test_every_source_says_what_it_reads() -> None:
    assert set(sources.names()) == {sets.source_of(name) for name in READ}


def test_another_image_root_is_another_data_set(tmp_path: Path) -> None:
    location, root = sets.viscot(tmp_path / "raw")
    other = sets.viscot_images(tmp_path / "other")
    made = prepare.prepare(Job("viscot", str(location), tmp_path / "out", options={"images": str(root)}))
    assert made["settings"]["images"] == str(root.resolve())
    link = tmp_path / "link"
    link.symlink_to(root)
    for same in (str(link), f"{root}/../cot_image_data", ""):  # the same directory by other names, and the default beside the file
        assert prepare.prepare(Job("viscot", str(location), tmp_path / "out", options={"images": same})) == made
    with pytest.raises(ConfigError, match="other images"):
        prepare.prepare(Job("viscot", str(location), tmp_path / "out", options={"images": str(other)}))


def test_parts_of_another_image_root_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PART_ROWS", 1)
    location, root = sets.viscot(tmp_path / "raw")
    other = sets.viscot_images(tmp_path / "other")
    sets.put(other / "cub" / sets.CUB_NAME, sets.jpeg(500, 336))  # a black one
    with pytest.raises(killed.Killed):
        prepare.prepare(Job("viscot", str(location), tmp_path / "out", options={"images": str(root)}), killed.after(0))
    prepare.prepare(Job("viscot", str(location), tmp_path / "out", options={"images": str(other)}))
    prepare.prepare(Job("viscot", str(location), tmp_path / "whole", options={"images": str(other)}))
    assert (tmp_path / "out" / "train.parquet").read_bytes() == (tmp_path / "whole" / "train.parquet").read_bytes()


def test_an_image_root_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    location, _ = sets.viscot(tmp_path / "raw")
    with pytest.raises(ConfigError, match=r"viscot\.images: found /nowhere/at/all, which is no directory"):
        prepare.prepare(Job("viscot", str(location), tmp_path / "out", options={"images": "/nowhere/at/all"}))
    assert not (tmp_path / "out").exists()


def test_two_runs_on_one_directory(tmp_path: Path) -> None:
    location = str(sets.sat(tmp_path / "raw"))
    with lock.held(tmp_path / "out"), pytest.raises(ConfigError, match="where another process makes data"):
        prepare.prepare(Job("sat", location, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []  # its holder has taken the lock away
    prepare.prepare(Job("sat", location, tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "rejects.jsonl", "train.parquet"]
    with lock.held(tmp_path / "out"):
        prepare.prepare(Job("sat", location, tmp_path / "out"))  # a finished one is only read


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    die = "import fcntl, os, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX); os._exit(0)"
    subprocess.run([sys.executable, "-c", die, str(tmp_path / "out" / lock.LOCK)], check=True, timeout=60)
    assert (tmp_path / "out" / lock.LOCK).exists()
    prepare.prepare(Job("sat", str(sets.sat(tmp_path / "raw")), tmp_path / "out"))


def test_a_lock_that_was_taken_away_meanwhile_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes the file at the end: who had opened it before must open the next one."""
    taken: list[int] = []
    real = lock.kernel_lock

    def slow(handle: Any) -> bool:
        if not taken:
            (tmp_path / lock.LOCK).unlink()
        taken.append(handle.fileno())
        return real(handle)

    monkeypatch.setattr(lock, "kernel_lock", slow)
    with lock.held(tmp_path), (tmp_path / lock.LOCK).open("a") as other:
        assert not real(other)
    assert len(taken) == 2
