"""Recipes: several sources, one mixture."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import training_sets as sets
import yaml

from data_prep import recipe
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


@pytest.mark.parametrize("mistake", [{"vgr.colour": "3"}, {"vgr.in": "/absent"}, {"vgr.source": "vgrr"}])
def test_a_mistake_in_the_last_source_is_found_before_the_first_pool(mistake: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        recipe.run(recipe.read_recipe(str(write(tmp_path)), mistake), tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
        from data_prep import sources

        sources.get(part.source).resolved(part.options)


def test_the_papers_amounts() -> None:
    amounts = {name: part.amount for name, part in recipe.read_recipe("fgrpo_rl_49k").sources.items()}
    assert amounts == {"sat": 15_700, "vgr": 7_000, "viscot": 13_000, "treevgr_rl": 13_000}
    with pytest.raises(ConfigError, match="fgrpo_rl_49k"):
        recipe.read_recipe("fgrpo")
