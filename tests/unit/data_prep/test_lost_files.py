"""A file that breaks off is told whatever rows are asked for: all, the first ones behind it, a sample, a pool, a continued run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_sets as benchmarks
import killed
import pytest
import training_sets as sets
import yaml

from data_prep import prepare, recipe
from data_prep.prepare import Job
from data_prep.rejects import TooManyRejects
from data_prep.writers import read_rl

Made = tuple[str, dict[str, Any]]  # location, options


def cut(path: Path) -> None:
    """Half of a file: parquet loses its footer, a JSON list its end."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def one_file(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        location, options = sets.build(name, folder)
        for path in [location] if location.is_file() else location.rglob("*.parquet"):
            cut(path)
        return str(location), options

    return make


def benchmark(name: str, file: str, damage: Callable[[Path], None] = cut) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        location = benchmarks.BUILDERS[name](folder) if name in benchmarks.BUILDERS else benchmarks.algopuzzlevqa_hub(folder)
        damage(location / file)
        return str(location), {}

    return make


def open_quote(path: Path) -> None:
    path.write_text(path.read_text() + '300,"never closed\n')


LOST = {
    "sat": one_file("sat"),
    "sat, second layout": one_file("sat_v2"),
    "vgr": one_file("vgr"),
    "viscot_363k": one_file("viscot_363k"),
    "treevgr_rl": one_file("treevgr_rl"),
    "cvbench": benchmark("cvbench", "test_3d.parquet"),
    "realworldqa": benchmark("realworldqa", "data/test-00000-of-00002.parquet"),
    "sat_real": benchmark("sat_real", "SAT_test.parquet"),
    "omnispatial": benchmark("omnispatial", "OmniSpatial-test/data.json"),
    "mmvp": benchmark("mmvp", "Questions.csv", open_quote),
    "algopuzzlevqa": benchmark("hub", "data/data-00000-of-00001.parquet"),
}


@pytest.mark.parametrize("rows", [{}, {"sample": 1}], ids=["all", "sample"])
@pytest.mark.parametrize("name", LOST)
def test_a_lost_file_fails_the_run(name: str, rows: dict[str, int], tmp_path: Path) -> None:
    location, options = LOST[name](tmp_path / "raw")
    with pytest.raises(TooManyRejects, match="nobody knows how many rows are lost"):
        prepare.prepare(Job(name.split(",")[0], location, tmp_path / "out", options=options, reject_share=0.9, **rows))
    (line,) = [json.loads(text) for text in (tmp_path / "out" / ".parts" / "rejects.jsonl").read_text().splitlines()]
    assert (line["reason"], line["rows"], line["row"]) == ("corrupt_file", 0, -1)


def test_a_limit_before_the_damage_is_not_concerned(tmp_path: Path) -> None:
    location, options = LOST["viscot_363k"](tmp_path / "raw")
    made = prepare.prepare(Job("viscot_363k", location, tmp_path / "out", options=options, limit=1))
    assert (made["sources"]["viscot_363k"]["kept"], made["sources"]["viscot_363k"]["broken"]) == (1, False)


def shards(folder: Path) -> Path:
    """Two files of SAT-v2, five rows each; the first has lost its footer."""
    location = sets.sat(folder, "v2")
    first = location / "data" / "train-00000-of-00001.parquet"
    (location / "data" / "train-00001-of-00002.parquet").write_bytes(first.read_bytes())
    cut(first.rename(location / "data" / "train-00000-of-00002.parquet"))
    return location


@pytest.mark.parametrize("sample", [None, 5])
def test_the_rows_behind_a_lost_file_keep_their_numbers(sample: int | None, tmp_path: Path) -> None:
    """A damaged footer counts no rows, so the first row that can be read is row 0, sampled or not."""
    location = shards(tmp_path / "raw")
    with pytest.raises(TooManyRejects, match="nobody knows"):
        prepare.prepare(Job("sat", str(location), tmp_path / "refused", sample=sample, reject_share=0.9))
    made = prepare.prepare(Job("sat", str(location), tmp_path / "out", sample=sample, reject_share=1.0))
    assert [record.uid for record in read_rl(tmp_path / "out" / "train.parquet")] == [f"sat-train-{row}" for row in range(5)]
    source = made["sources"]["sat"]
    assert (source["rows_read"], source["kept"], source["rejected"], source["broken"]) == (5, 5, {"corrupt_file": 1}, True)


def test_a_pool_of_a_recipe_is_refused(tmp_path: Path) -> None:
    location, options = LOST["viscot_363k"](tmp_path / "raw")
    node = {"in": location, "amount": 1, "pool": 1, "options": options}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"reject_share": 0.9, "sources": {"viscot_363k": node}}))
    with pytest.raises(TooManyRejects, match="nobody knows"):
        recipe.run(recipe.read_recipe(str(tmp_path / "one.yaml")), tmp_path / "out")


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_continued_run_counts_a_lost_file_once(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PART_ROWS", 2)
    location = str(shards(tmp_path / "raw"))
    prepare.prepare(Job("sat", location, tmp_path / "whole", reject_share=1.0))
    with pytest.raises(killed.Killed):
        prepare.prepare(Job("sat", location, tmp_path / "cut", reject_share=1.0), killed.after(stop))
    prepare.prepare(Job("sat", location, tmp_path / "cut", reject_share=1.0))
    for name in ("train.parquet", "rejects.jsonl", "manifest.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_one_bad_byte_in_mmvp_costs_one_row(tmp_path: Path) -> None:
    """300 questions, a byte that is no UTF-8 in question 250: 299 are kept, that one is a reject with its text as it was."""
    folder = benchmarks.mmvp(tmp_path / "raw")
    for number in range(1, 301):
        sets.put(folder / "MMVP Images" / f"{number}.jpg", sets.jpeg(28, 28))
    rows = [f"{number},Is it {number}?,(a) Yes (b) No,(a)".encode() for number in range(1, 301)]
    rows[249] = rows[249].replace(b"Is it", b"Is \xff it")
    (folder / "Questions.csv").write_bytes(b"\n".join([b"lndex,Question,Options,Correct Answer", *rows]))
    made = prepare.prepare(Job("mmvp", str(folder), tmp_path / "out"))
    assert (made["sources"]["mmvp"]["kept"], made["sources"]["mmvp"]["rejected"]) == (299, {"not_unicode": 1})
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert (line["row"], line["source_row"]["cells"][1]) == (249, "Is \udcff it 250?")
