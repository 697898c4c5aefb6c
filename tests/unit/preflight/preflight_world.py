"""A sound model, sound data and an output directory, of which a test spoils one thing."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from faithful_rl import main


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(stream, "PNG")
    return stream.getvalue()


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "data_source": "scenes",
        "prompt": [{"role": "user", "content": "<image>What is left of the red circle?"}],
        "images": [{"bytes": png()}],
        "reward_model": {"style": "rule", "ground_truth": "A"},
        "extra_info": {"index": 0},
    }
    return {**good, **changes}


def boxed(**changes: Any) -> dict[str, Any]:
    return row(
        extra_info={"index": 0, "gt_boxes": [[0.0, 0.0, 2.0, 2.0]], "img_wh": [[4, 4]], "min_pixels": 1, "max_pixels": 10**6}, **changes
    )


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


# Numbers that messages are checked with, whatever the recipe's own are.
SIZES = ("data.train_batch_size=16", "actor_rollout_ref.actor.ppo_mini_batch_size=8", "trainer.total_training_steps=80")


class World:
    """A sound model, sound data and an output directory below one folder; tests break one thing each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model, self.data, self.out = root / "model", root / "train.parquet", root / "out"
        self.model.mkdir()
        (self.model / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "vision_config": {}}))
        (self.model / "tokenizer.json").write_text("{}")
        (self.model / "preprocessor_config.json").write_text("{}")
        (self.model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        write_rows(self.data, [boxed() for _ in range(48)])
        write_rows(root / "val.parquet", [row() for _ in range(4)])

    def run(self, *overrides: str) -> int:
        return main.main(
            [
                "recipe=fgrpo_tiny",
                "mode=check",
                *SIZES,
                f"actor_rollout_ref.model.path={self.model}",
                "faithful_rl.data.source=parquet",
                f"data.train_files={self.data}",
                f"data.val_files={self.root / 'val.parquet'}",
                f"faithful_rl.output_dir={self.out}",
                *overrides,
            ]
        )


def remove(name: str) -> Callable[[World], None]:
    return lambda world: (world.model / name).unlink()


def rows_of(*rows: dict[str, Any]) -> Callable[[World], None]:
    return lambda world: write_rows(world.data, [*rows])


def run_of(**fields: Any) -> Callable[[World], None]:
    def put(world: World) -> None:
        world.out.mkdir()
        (world.out / "run.json").write_text(json.dumps({"recipe": "fgrpo_tiny", "fingerprint": "x", "status": "running", **fields}))

    return put


def nothing(world: World) -> None:
    """Only the overrides of the case are wrong."""


def without_boxes(world: World) -> None:
    write_rows(world.data, [row() for _ in range(48)])


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
