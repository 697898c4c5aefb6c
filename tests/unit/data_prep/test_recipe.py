"""Recipes: several sources, one mixture."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import training_sets as sets
import yaml

from data_prep import lock, manifest, recipe, sources
from data_prep.curation.settings import Contamination, Difficulty, Representative
from data_prep.frames import Frame
from data_prep.writers import read_rl
from faithful_rl.config import ConfigError


def write(tmp_path: Path, **changes: Any) -> Path:
    sat = sets.sat(tmp_path / "sat", copies=8)
    vgr, root = sets.vgr(tmp_path / "vgr")
    tree = {
        "description": "two sets",
        "val_rows": 3,
        "sources": {
            "sat": {"source": "sat", "in": str(sat), "amount": 12, "pool": 30, "options": {"split": "train"}},
            "vgr": {"source": "vgr", "in": str(vgr), "amount": 2, "options": {"cot": "short", "images": str(root)}},
        },
        **changes,
    }
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_mixture_has_its_amounts_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    path = write(tmp_path)
    made = recipe.run(recipe.read_recipe(str(path)), tmp_path / "a")
    assert made["rows"] == {"train.parquet": 11, "val.parquet": 3}
    assert made["chosen"] == {"sat": 12, "vgr": 2}
    train, val = (list(read_rl(tmp_path / "a" / f"{split}.parquet")) for split in ("train", "val"))
    assert {record.split for record in val} == {"val"}
    assert len({record.uid for record in train + val}) == 14
    assert [record.row for record in train] == list(range(11))
    assert [record.dataset for record in train + val].count("sat") == 12
    recipe.run(recipe.read_recipe(str(path)), tmp_path / "b")
    for name in ("train.parquet", "val.parquet", "rejects.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = recipe.run(recipe.read_recipe(str(path)), tmp_path / "a")
    assert again == json.loads(json.dumps(made))
    with pytest.raises(ConfigError, match="other settings"):
        recipe.run(recipe.read_recipe(str(path), {"val_rows": "2"}), tmp_path / "a")


def test_sources_are_spread_evenly(tmp_path: Path) -> None:
    path = write(tmp_path, val_rows=0)
    recipe.run(recipe.read_recipe(str(path), {"vgr.amount": "3", "sat.amount": "20"}), tmp_path / "out")
    order = [record.dataset for record in read_rl(tmp_path / "out" / "train.parquet")]
    assert order != sorted(order)
    assert pq.ParquetFile(tmp_path / "out" / "train.parquet").metadata.num_rows == 23
    assert not (tmp_path / "out" / "val.parquet").exists()


def test_overrides(tmp_path: Path) -> None:
    path = str(write(tmp_path))
    changed = recipe.read_recipe(
        path, {"sat.in": "/data/x", "vgr.images": "/images", "seed": "7", "frame.max_pixels": "501760", "sat.amount": "5"}
    )
    assert changed.sources["sat"].location == "/data/x"
    assert changed.sources["sat"].amount == 5
    assert changed.sources["vgr"].options["images"] == "/images"
    assert (changed.seed, changed.frame) == (7, Frame(max_pixels=501_760))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sat.amount": "1000"}, "usable rows of its pool"),
        ({"sat.amount": "many"}, r"sat\.amount"),
        ({"sat.in": "null"}, r"sat\.in=PATH"),
        ({"sat.in": "array/SAT-v2"}, "full commit"),
        ({"colour": "3"}, "colour"),
        ({"sat.colour": "3"}, r"sat\.colour"),
        ({"val_rows": "14"}, "val_rows"),
        ({"frame.colour": "3"}, r"frame\.colour"),
        ({"prompt": "shout"}, "prompt"),
        ({"reject_share": "many"}, "reject_share"),
        ({"reject_share": "1.5"}, "reject_share"),
        ({"frame": "3"}, "frame: found 3"),
        ({"frame.min_pixels": "few"}, r"frame\.min_pixels"),
        ({"curation": "all"}, "curation: found 'all'"),
        ({"curation.duplicate": "true"}, r"curation\.duplicate"),
        ({"sat.options": "val"}, r"sat\.options"),
        ({"sat.options": "[1"}, r"sat\.options: found .*no YAML"),
    ],
)
def test_mistakes_are_named(overrides: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe.run(recipe.read_recipe(str(write(tmp_path)), overrides), tmp_path / "out")


@pytest.mark.parametrize(
    ("mistake", "key"),
    [
        ({"vgr.colour": "3"}, "vgr.colour"),
        ({"vgr.in": "/absent"}, "vgr.in"),
        ({"vgr.in": "/"}, "vgr.in"),  # a directory that holds nothing of it
        ({"vgr.source": "vgrr"}, "source"),
        ({"vgr.images": "/absent"}, "vgr.images"),
        ({"vgr.cot": ""}, "vgr.cot"),
    ],
)
def test_a_mistake_in_the_last_source_is_found_before_the_first_pool(mistake: dict[str, str], key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe.run(recipe.read_recipe(str(write(tmp_path)), mistake), tmp_path / "out")
    assert caught.value.key == key
    assert not (tmp_path / "out").exists()


def test_every_row_that_is_not_in_the_mixture_has_a_line(tmp_path: Path) -> None:
    """Also without any curation; the row itself stays in its pool under the number that the line gives."""
    made = recipe.run(recipe.read_recipe(str(write(tmp_path))), tmp_path / "out")
    lines = [json.loads(text) for text in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert {name: sum(line["pool"] == name for line in lines) for name in ("sat", "vgr")} == {"sat": 18, "vgr": 1}
    assert {line["reason"] for line in lines} == {"not_drawn"}
    mixed = {record.uid for split in ("train", "val") for record in read_rl(tmp_path / "out" / f"{split}.parquet")}
    for name in ("sat", "vgr"):
        pool = {number: record.uid for number, record in enumerate(read_rl(tmp_path / "out" / "pools" / name / "train.parquet"))}
        here = {line["row"]: line["uid"] for line in lines if line["pool"] == name}
        assert {uid for number, uid in pool.items() if here.get(number) != uid} <= mixed
    assert made["files"]["dropped.jsonl"]["sha256"] == manifest.sha256(tmp_path / "out" / "dropped.jsonl")


def test_rejects_of_the_pools_are_kept_with_their_large_images(tmp_path: Path) -> None:
    sat = sets.sat(tmp_path / "sat", copies=2)
    path = sat / "SAT_train.parquet"
    table = pq.read_table(path)
    large = sets.jpeg()[:500] + bytes(2**20)
    pq.write_table(pa.Table.from_pylist([*table.to_pylist(), {**table.to_pylist()[0], "image_bytes": [large]}], schema=table.schema), path)
    tree = {"reject_share": 0.5, "sources": {"sat": {"in": str(sat), "amount": 3}}}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(tree))
    made = recipe.run(recipe.read_recipe(str(tmp_path / "one.yaml")), tmp_path / "out")
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    name = line["source_row"]["image_bytes"][0]["file"]
    assert (tmp_path / "out" / name).read_bytes() == large
    assert name in made["files"]


def test_two_runs_of_a_recipe_on_one_directory(tmp_path: Path) -> None:
    chosen = recipe.read_recipe(str(write(tmp_path)))
    with lock.held(tmp_path / "out"), pytest.raises(ConfigError, match="another process makes data"):
        recipe.run(chosen, tmp_path / "out")


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="limit"):
        recipe.run(recipe.read_recipe(str(write(tmp_path))), tmp_path / "out", limit=0)


def test_a_quick_look_is_limited(tmp_path: Path) -> None:
    made = recipe.run(recipe.read_recipe(str(write(tmp_path))), tmp_path / "out", limit=3)
    assert made["chosen"] == {"sat": 3, "vgr": 2}


@pytest.mark.parametrize("name", recipe.names())
def test_shipped_recipes_read(name: str) -> None:
    shipped = recipe.read_recipe(name)
    assert shipped.description
    assert shipped.frame == Frame()  # pinned in one place: data_prep.frames
    for part in shipped.sources.values():
        sources.get(part.source).resolved(part.options)


@pytest.mark.parametrize("name", recipe.names())
def test_shipped_recipes_repeat_no_default(name: str) -> None:
    """What a recipe says differs from what holds without it."""
    tree = yaml.safe_load((recipe.FOLDER / f"{name}.yaml").read_text())
    defaults = {field.name: field.default for field in fields(recipe.Recipe)} | {"frame": Frame().as_dict(), "curation": {}}
    assert [key for key, value in tree.items() if key != "sources" and value == defaults.get(key)] == []
    for source, node in tree["sources"].items():
        known = {**sources.COMMON_OPTIONS, **sources.get(node.get("source", source)).options}
        given = {"source": source, "in": None, "revision": None, "pool": None, "options": {}}
        assert [key for key, value in node.items() if key in given and given[key] == value] == []
        assert [key for key, value in node.get("options", {}).items() if known[key] == value] == []
    steps = {"difficulty": Difficulty, "contamination": Contamination, "representative": Representative}
    for step, kind in steps.items():
        own = tree["curation"].get(step) or {}
        assert [key for key, value in own.items() if getattr(kind(), key) == value] == []


def test_the_shipped_rl_recipe_curates_or_says_what_it_needs(tmp_path: Path) -> None:
    shipped = recipe.read_recipe("fgrpo_rl_49k", {f"{name}.in": str(tmp_path) for name in ("sat", "vgr", "viscot", "treevgr_rl")})
    with pytest.raises(ConfigError) as caught:
        recipe.run(shipped, tmp_path / "out")
    assert caught.value.key == "curation.contamination.benchmarks, curation.difficulty.base_url"
    assert caught.value.fix == (
        "Add curation.contamination.benchmarks='{cvbench: data/cv_bench}' curation.difficulty.base_url=http://127.0.0.1:8000/v1, "
        "or say curation.contamination=none curation.difficulty=none."
    )
    assert shipped.curation["duplicates"] is True
    assert not (tmp_path / "out").exists()


def test_the_papers_amounts() -> None:
    amounts = {name: part.amount for name, part in recipe.read_recipe("fgrpo_rl_49k").sources.items()}
    assert amounts == {"sat": 15_700, "vgr": 7_000, "viscot": 13_000, "treevgr_rl": 13_000}
    with pytest.raises(ConfigError, match="fgrpo_rl_49k"):
        recipe.read_recipe("fgrpo")
