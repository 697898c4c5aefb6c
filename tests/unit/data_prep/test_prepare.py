"""From a source to a finished data set: formats, rejects, manifest, interruption, and the same bytes every time."""

import base64
import hashlib
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import benchmark_sets as benchmarks
import killed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import training_sets as sets
from PIL import Image

from data_prep import manifest, prepare
from data_prep.frames import Frame
from data_prep.prepare import Job
from data_prep.rejects import TooManyRejects
from data_prep.rl_schema import SCHEMA
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from data_prep.writers import read_rl, write_rl
from faithful_rl.config import ConfigError
from faithful_rl.rewards.suite import Reference


def job(name: str, directory: Path, out: Path, bad: bool = False, **changes: Any) -> Job:
    location, options = sets.build(name, directory, bad)
    options |= changes.pop("options", {})
    return Job(sets.source_of(name), str(location), out, options=options, **changes)


def content(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", sets.SOURCES)
def test_rl_rows_are_what_the_reward_reads(name: str, tmp_path: Path) -> None:
    made = prepare.prepare(job(name, tmp_path / "raw", tmp_path / "out"))
    assert sorted(content(tmp_path / "out")) == ["manifest.json", "rejects.jsonl", "train.parquet"]
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert made["rows"] == {"train.parquet": len(rows)}
    assert [row["extra_info"]["index"] for row in rows] == list(range(len(rows)))
    for row, record in zip(rows, read_rl(tmp_path / "out" / "train.parquet"), strict=True):
        reference = Reference.from_row(row["reward_model"], row["extra_info"])
        assert len(reference.boxes) == len(record.boxes)
        assert reference.gold_index == record.gold_index
        assert row["prompt"][-1]["content"].count("<image>") == len(row["images"])
        assert all(cell["max_pixels"] == row["extra_info"]["max_pixels"] for cell in row["images"])


def test_columns_are_those_of_the_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", SceneDataSettings(train=1, val=1, test=1))
    scenes = pq.read_schema(tmp_path / "scenes" / "train.parquet")
    assert scenes.equals(SCHEMA)
    # and a scenes row is a record like any other
    (record,) = read_rl(tmp_path / "scenes" / "train.parquet")
    assert record.boxes


def test_schemas_are_the_same_whatever_the_rows_hold(tmp_path: Path) -> None:
    found = set()
    for name in sets.SOURCES:
        prepare.prepare(job(name, tmp_path / name, tmp_path / f"{name}-out"))
        found.add(pq.read_schema(tmp_path / f"{name}-out" / "train.parquet").to_string())
    assert len(found) == 1


def test_sft_rows_cite_boxes_in_the_models_frame(tmp_path: Path) -> None:
    prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "out", format="sft"))
    first = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[0]
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    # 640 x 480 becomes 644 x 476
    assert "<bbox>[322,119,483,357]</bbox>" in first["messages"][-1]["content"]
    assert first["gt_boxes"] == [[320.0, 120.0, 480.0, 360.0]]
    with pytest.raises(ConfigError, match="no chain of thought"):
        prepare.prepare(job("sat", tmp_path / "sat", tmp_path / "sat-out", format="sft"))


def test_llama_factory_layout(tmp_path: Path) -> None:
    frame = Frame("llama_factory", 1024, 589_824)
    made = prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "out", format="llama_factory", frame=frame))
    entries = json.loads((tmp_path / "out" / "train.json").read_text())
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info["train"]["file_name"] == "train.json"
    assert made["rows"] == {"train.json": 3}
    for entry in entries:
        assert entry["conversations"][0]["value"].count("<image>") == len(entry["images"]) == 1
        assert (tmp_path / "out" / entry["images"][0]).is_file()
    assert not (tmp_path / "out" / ".parts").exists()
    with pytest.raises(ConfigError, match="verl"):
        write_rl(_records(tmp_path), tmp_path / "x.parquet", frame=frame)


def _records(tmp_path: Path) -> list:
    prepare.prepare(job("treevgr_rl", tmp_path / "t", tmp_path / "t-out"))
    return list(read_rl(tmp_path / "t-out" / "train.parquet"))


def test_records_survive_the_file(tmp_path: Path) -> None:
    records = _records(tmp_path)
    write_rl(records, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "t-out" / "train.parquet").read_bytes()


@pytest.mark.parametrize("form", ["rl", "sft", "llama_factory"])
def test_the_same_inputs_give_the_same_bytes(form: str, tmp_path: Path) -> None:
    for out in ("a", "b"):
        prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / out, bad=True, format=form, reject_share=1.0))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    before = (tmp_path / "a" / "manifest.json").stat().st_mtime_ns
    prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "a", bad=True, format=form, reject_share=1.0))
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("form", ["rl", "llama_factory"])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_an_interrupted_run_continues_to_the_same_bytes(form: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PART_ROWS", 3)
    wanted = {"bad": True, "format": form, "reject_share": 1.0}
    prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "whole", **wanted))
    calls: list[int] = []
    with pytest.raises(killed.Killed):
        prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "cut", **wanted), killed.after(stop, calls))
    assert [name for name in content(tmp_path / "cut") if not name.startswith(".parts")] == []
    seen: list[int] = []
    prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "cut", **wanted), lambda done, total: seen.append(done))
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert [*calls, *seen] == [3, 6, 9, 12]  # nothing was converted twice


def test_a_run_killed_between_joining_and_the_manifest_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"format": "llama_factory"}
    prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "whole", **wanted))

    def kill(*arguments: Any) -> None:
        raise killed.Killed

    with monkeypatch.context() as patched:
        patched.setattr(manifest, "write", kill)
        with pytest.raises(killed.Killed):
            prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "cut", **wanted))
    prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "cut", **wanted))
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_parts_of_other_settings_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PART_ROWS", 2)
    with pytest.raises(killed.Killed):
        prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "cut", seed=1), killed.after(0))
    prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "cut", seed=2))
    prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "whole", seed=2))
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.parametrize("name", sets.SOURCES)
def test_rejects_are_counted_kept_and_fail_the_run_above_the_share(name: str, tmp_path: Path) -> None:
    wanted = job(name, tmp_path / "raw", tmp_path / "out", bad=True)
    with pytest.raises(TooManyRejects) as caught:
        prepare.prepare(wanted)
    for reason in sets.BAD[name]:
        assert reason in str(caught.value) or "more" in str(caught.value)
    assert [file for file in content(tmp_path / "out") if not file.startswith(".parts")] == []
    assert (tmp_path / "out" / ".parts" / "rejects.jsonl").is_file()
    made = prepare.prepare(job(name, tmp_path / "raw", tmp_path / "out", bad=True, reject_share=1.0))
    lines = [json.loads(text) for text in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == sets.BAD[name]
    (source,) = made["sources"].values()
    assert sum(source["rejected"].values()) == len(lines)
    assert source["rows_read"] == source["kept"] + len(lines)


def test_the_original_row_is_in_the_rejects_file(tmp_path: Path) -> None:
    prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "out", bad=True, reject_share=1.0))
    lines = [json.loads(text) for text in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    cut = next(line for line in lines if line["reason"] == "image_truncated")
    assert base64.b64decode(cut["source_row"]["image_bytes"][0]["base64"]) == sets.jpeg()[:2000]
    assert cut["source_row"]["correct_answer"] == "yes"
    assert not (tmp_path / "out" / "rejects").exists()


def test_a_large_image_of_a_reject_is_kept_as_a_file(tmp_path: Path) -> None:
    """Above 1 MiB a value stands beside the line; manifest and hash check know it, and an early end keeps it too."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    large = sets.encode(Image.fromarray(noise), "PNG")
    assert len(large) > 2**20
    location = sets.sat(tmp_path / "raw", copies=1)
    path = location / "SAT_train.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows.append({**rows[1], "image_bytes": [large[:-1000]]})
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    digest = hashlib.sha256(large[:-1000]).hexdigest()
    with pytest.raises(TooManyRejects):
        prepare.prepare(Job("sat", str(location), tmp_path / "out"))
    assert (tmp_path / "out" / ".parts" / "rejects" / f"{digest[:32]}.bin").read_bytes() == large[:-1000]
    made = prepare.prepare(Job("sat", str(location), tmp_path / "out", reject_share=0.5))
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    (cell,) = line["source_row"]["image_bytes"]
    assert cell == {"bytes": len(large) - 1000, "sha256": digest, "file": f"rejects/{digest[:32]}.bin"}
    assert (tmp_path / "out" / cell["file"]).read_bytes() == large[:-1000]
    assert made["files"][cell["file"]]["sha256"] == digest
    (tmp_path / "out" / cell["file"]).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="missing or differs"):
        prepare.prepare(Job("sat", str(location), tmp_path / "out", reject_share=0.5))


def test_hopeless_input_stops_before_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PART_ROWS", 5)
    location, _ = sets.viscot(tmp_path / "raw")
    row = json.dumps({**sets.VISCOT_ROWS["cub"][0], "image": "absent.jpg"})
    (location / "cub_cot_train.jsonl").write_text("\n".join([row] * 1000))
    seen: list[int] = []
    with pytest.raises(TooManyRejects, match="image_missing"):
        prepare.prepare(Job("viscot", str(location), tmp_path / "out"), lambda done, total: seen.append(done))
    assert max(seen) <= 15


def test_a_file_that_breaks_off_fails_whatever_the_share(tmp_path: Path) -> None:
    location, root = sets.viscot_363k(tmp_path / "raw", cut=True)
    with pytest.raises(TooManyRejects, match="nobody knows how many rows are lost"):
        prepare.prepare(Job("viscot_363k", str(location), tmp_path / "out", options={"images": str(root)}, reject_share=0.9))


def test_a_uid_that_comes_twice(tmp_path: Path) -> None:
    """It is a reject like any other: counted, and its row kept as it was."""
    location = benchmarks.omnispatial(tmp_path / "raw")
    file = location / "OmniSpatial-test" / "data.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows, {**rows[0], "answer": 1}]))
    made = prepare.prepare(Job("omnispatial", str(location), tmp_path / "out", reject_share=0.5))
    assert made["sources"]["omnispatial"]["rejected"] == {"duplicate_uid": 1}
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert (line["row"], line["source_row"]) == (3, {**rows[0], "answer": 1})


def test_a_full_disk_leaves_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 1000))
        with pytest.raises(ConfigError, match="MiB free on the disk"):
            prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "out"))
    assert [name for name in content(tmp_path / "out") if name.endswith(".parquet")] == []
    prepare.prepare(job("vgr", tmp_path / "raw", tmp_path / "out"))


def test_another_data_set_is_not_overwritten(tmp_path: Path) -> None:
    prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "out"))
    with pytest.raises(ConfigError, match="other seed"):
        prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "out", seed=1))
    (tmp_path / "out" / "train.parquet").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"train\.parquet.*missing or differs"):
        prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "out"))
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="no manifest"):
        prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "out"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other files"):
        prepare.prepare(job("sat", tmp_path / "raw", tmp_path / "other"))


def test_sample_and_limit(tmp_path: Path) -> None:
    location = sets.sat(tmp_path / "raw", copies=20)

    def uids(out: str, **changes: Any) -> list[str]:
        prepare.prepare(Job("sat", str(location), tmp_path / out, **changes))
        return [record.uid for record in read_rl(tmp_path / out / "train.parquet")]

    drawn = uids("sampled", sample=15)
    assert len(drawn) == 15
    assert drawn != uids("other", sample=15, seed=1)
    assert max(int(uid.rsplit("-")[-1]) for uid in drawn) > 50  # from the whole file, not its head
    assert uids("limited", limit=4) == [f"sat-train-{number}" for number in range(4)]
    with pytest.raises(ConfigError, match="sample"):
        Job("sat", str(location), tmp_path / "x", sample=0)


def test_the_manifest_says_where_everything_came_from(tmp_path: Path) -> None:
    made = prepare.prepare(job("treevgr_rl", tmp_path / "raw", tmp_path / "out"))
    source = made["sources"]["treevgr_rl"]
    assert source["files"]["vstar30k_visdrone6k_x1y1x2y2.parquet"]["sha256"] == manifest.sha256(
        tmp_path / "raw" / "vstar30k_visdrone6k_x1y1x2y2.parquet"
    )
    assert (source["kept"], source["rejected"], source["revision"]) == (4, {}, None)
    assert "Apache" in source["licence"]
    assert made["code_version"]
    assert made["settings"]["frame"]["max_pixels"] == 1_003_520
    assert made["files"]["train.parquet"]["sha256"] == manifest.sha256(tmp_path / "out" / "train.parquet")
    assert manifest.read(tmp_path / "out") == json.loads(json.dumps(made))
