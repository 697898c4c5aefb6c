"""Rows in verl's format, parquet files and a manifest: the same settings give the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.generated import existing_manifest, write_once
from data_prep.manifest import sha256
from data_prep.rl_schema import SCHEMA
from data_prep.scenes.questions import FAMILIES, LEARNABLE, Sample, draw_sample
from data_prep.scenes.splits import SPLITS, in_split
from data_prep.scenes.world import SIDE, encode_png, render, scene_image
from faithful_rl.judges.scene_language import LETTERS, write_question
from faithful_rl.judges.scene_world import write_scene

FORMAT_VERSION = 1  # of the manifest
# Of the columns. Files without this word in their manifest hold the same rows, but no pixel limits beside each image: a run that trains
# on them continues, so they are left as they are.
COLUMNS_VERSION = 2
_PIXELS = SIDE * SIDE  # minimum and maximum: the image is never resized, so original and model pixels are the same
_ROW_GROUP = 200


@dataclass(frozen=True, slots=True)
class SceneDataSettings:
    """What decides the bytes of a scene data set. `train`, `val`, `test` are numbers of rows, at least 0."""

    seed: int = 0
    train: int = 6400
    val: int = 200
    test: int = 600
    families: tuple[str, ...] = LEARNABLE
    shuffle_options: bool = False
    system_prompt: str = ""  # empty: no system message

    def __post_init__(self) -> None:
        for name in SPLITS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 rows, found {getattr(self, name)}")
        unknown = sorted(set(self.families) - set(FAMILIES))
        if unknown or not self.families:
            raise ValueError(f"families must name some of {list(FAMILIES)}, found {list(self.families)}")


def write_scenes(directory: Path | str, settings: SceneDataSettings) -> dict[str, Any]:
    """Write `train.parquet`, `val.parquet`, `test.parquet` and, last, `manifest.json`; returns the manifest.

    Files are made beside `directory` and renamed into place. A directory that already holds the data set of the same settings
    is left as it is; raises FileExistsError when it holds anything else.
    """
    directory = Path(directory)
    head = {"dataset": "scenes", "format_version": FORMAT_VERSION, "settings": {**asdict(settings), "families": list(settings.families)}}
    found = existing_manifest(directory, head)
    if found is not None:
        return found

    def write(folder: Path) -> dict[str, Any]:
        files = {}
        for split in SPLITS:
            path = folder / f"{split}.parquet"
            rows = list(scene_rows(settings, split))
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=_ROW_GROUP, compression="zstd")
            files[path.name] = {"rows": len(rows), "sha256": sha256(path)}
        return files

    return write_once(directory, {**head, "columns_version": COLUMNS_VERSION}, write)


def scene_rows(settings: SceneDataSettings, split: str) -> Iterator[dict[str, Any]]:
    """The rows of one split in verl's format, families in turn, no question twice."""
    rng = Random(f"scenes/{settings.seed}/{split}")
    seen: set[str] = set()
    while len(seen) < getattr(settings, split):
        index = len(seen)
        sample = draw_sample(rng, settings.families[index % len(settings.families)], settings.shuffle_options)
        uid = sample_uid(sample)
        if uid in seen or not in_split(sample.scenes, split):
            continue
        seen.add(uid)
        yield _row(sample, uid, split, index, settings.system_prompt)


def sample_uid(sample: Sample) -> str:
    """A name for the content of a question: same images, question and options, same uid (16 hexadecimal digits)."""
    content = [_scene_json(sample), write_question(sample.question), list(sample.options)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def user_text(question: str, options: tuple[str, ...]) -> str:
    """A question and its lettered options, one a line."""
    return "\n".join([question, *(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))])


def _row(sample: Sample, uid: str, split: str, index: int, system_prompt: str) -> dict[str, Any]:
    question = write_question(sample.question)
    content = "<image>" * len(sample.scenes) + user_text(question, sample.options)
    prompt = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return {
        "data_source": "scenes",
        "prompt": [*prompt, {"role": "user", "content": content}],
        "images": [{"bytes": encode_png(render(scene)), "min_pixels": _PIXELS, "max_pixels": _PIXELS} for scene in sample.scenes],
        "ability": "spatial",
        "reward_model": {"style": "rule", "ground_truth": sample.letter},
        "extra_info": {
            "split": split,
            "index": index,
            "uid": uid,
            "dataset": "scenes",
            "task_type": sample.question.kind,
            "question": question,
            "options": list(sample.options),
            "gold_index": sample.gold_index,
            "gt_boxes": [shape.box.as_list() for shape in sample.relevant],
            "box_labels": [shape.name for shape in sample.relevant],
            "box_image_idx": [0] * len(sample.relevant),
            "img_wh": [[SIDE, SIDE]] * len(sample.scenes),
            "min_pixels": _PIXELS,
            "max_pixels": _PIXELS,
            "scene_json": _scene_json(sample),
            "meta_json": json.dumps({"shapes": [len(scene) for scene in sample.scenes]}),
        },
    }


def _scene_json(sample: Sample) -> str:
    return write_scene(scene_image(scene) for scene in sample.scenes)
