"""Preflight's prompt lengths against the real processor and against training's own dataset class."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faithful_rl import main
from faithful_rl.config import ConfigError

pytest.importorskip("verl")
pytest.importorskip("qwen_vl_utils")

MODEL = main.PROJECT_ROOT / "models" / "tiny_warm_start"


def image(width: int, height: int, **limits: int) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), **{"min_pixels": None, "max_pixels": None, **limits}}


def row(question: str, *images: dict[str, Any]) -> dict[str, Any]:
    return {
        "data_source": "scenes",
        "prompt": [{"role": "system", "content": "Think first."}, {"role": "user", "content": "<image>" * len(images) + question}],
        "images": list(images),
        "reward_model": {"style": "rule", "ground_truth": "A"},
        "extra_info": {"index": 0},
    }


ROWS = [
    row("Which?", image(112, 112)),
    row("What is left of the red circle? (A) a blue square (B) a green triangle", image(56, 84)),
    row("Which?", image(112, 112), image(300, 40)),
    row("Which?", image(640, 480, max_pixels=28 * 28 * 20)),
    row("Which?", image(30, 30, min_pixels=28 * 28 * 9)),
    row("Which?", image(200, 333)),
]


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    job = main.prepare(
        [
            *("recipe=fgrpo_tiny", "faithful_rl.data.source=parquet", f"actor_rollout_ref.model.path={MODEL}"),
            *(f"data.{split}_files={tmp_path / 'rows.parquet'}" for split in ("train", "val")),
        ]
    )
    return job.typed, main.resolved(job.composed)


def test_lengths_from_sizes_are_those_of_the_real_processor(prepared: tuple[Any, dict[str, Any]]) -> None:
    from faithful_rl.preflight import prompt_lengths

    _, config = prepared
    measure = prompt_lengths.Measure(*prompt_lengths._load(str(MODEL)), config)
    computed = [measure.computed(one) for one in ROWS]
    assert computed == [measure.real(one) for one in ROWS]
    assert computed[2] == computed[0] + measure.image_tokens(ROWS[2]["images"][1]) + 2  # and the two marks around an image


def test_what_is_too_long_is_what_training_would_drop(
    prepared: tuple[Any, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    monkeypatch.setattr("datasets.config.TORCHCODEC_AVAILABLE", False)  # a guard's test of the same process may have hidden it

    from faithful_rl.preflight import prompt_lengths

    _, config = prepared
    processor, tokenizer = prompt_lengths._load(str(MODEL))
    measure = prompt_lengths.Measure(processor, tokenizer, config)
    lengths = sorted(measure.computed(one) for one in ROWS)
    limit = lengths[3]
    settings = {
        "max_prompt_length": limit,
        "filter_overlong_prompts": True,
        "filter_overlong_prompts_workers": None,
        "cache_dir": str(tmp_path),
    }
    data = OmegaConf.create({**config["data"], **settings})
    kept = RLHFDataset(config["data"]["train_files"], tokenizer, data, processor)
    assert len(kept) == sum(length <= limit for length in lengths) == 4


def test_prompts_beyond_the_limit_are_refused_with_the_worst_rows(prepared: tuple[Any, dict[str, Any]]) -> None:
    from faithful_rl.preflight import prompt_lengths

    typed, config = prepared
    (line,) = prompt_lengths.check({**config, "data": {**config["data"], "max_prompt_length": 4096}}, typed)
    assert line.startswith("prompts    6 rows read, the longest has ")
    short = {**config, "data": {**config["data"], "max_prompt_length": 60}}
    with pytest.raises(ConfigError) as caught:
        prompt_lengths.check(short, typed)
    measure = prompt_lengths.Measure(*prompt_lengths._load(str(MODEL)), config)
    worst = max(range(len(ROWS)), key=lambda number: measure.computed(ROWS[number]))
    text = str(caught.value)
    assert text.startswith("data.max_prompt_length: found 60, and ")
    assert (
        f"(row {worst} of {config['data']['train_files']}: {measure.real(ROWS[worst])} tokens with {len(ROWS[worst]['images'])} image(s)"
        in text
    )
    assert "data.filter_overlong_prompts=true" in text
    (line,) = prompt_lengths.check({**short, "data": {**short["data"], "filter_overlong_prompts": True}}, typed)
    assert "longer ones are dropped" in line


class Clock:
    """Moves by a second at each look."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


class Measured:
    """Every row is 7 tokens long; row 41 is 99."""

    def computed(self, one: dict[str, Any]) -> int:
        return int(one["extra_info"]["index"])


def many(path: Path, rows: int, group: int) -> Path:
    table = [{**row("Which?", image(28, 28)), "extra_info": {"index": 99 if number == rows - 1 else 7}} for number in range(rows)]
    pq.write_table(pa.Table.from_pylist(table), path, row_group_size=group)
    return path


def test_every_row_is_read_where_there_is_time(tmp_path: Path) -> None:
    from faithful_rl.preflight import prompt_lengths

    found = prompt_lengths.audit([many(tmp_path / "rows.parquet", 300, 100)], Measured(), Clock(0.0))  # type: ignore[arg-type]
    assert (len(found.lengths), max(found.lengths), found.longest[0][0].row) == (300, 99, 299)  # the last one is beyond check_rows
    assert found.described() == "300 rows read"


def test_where_there_is_not_rows_of_the_whole_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from faithful_rl.preflight import prompt_lengths

    path = many(tmp_path / "rows.parquet", 301, 100)
    monkeypatch.setattr(prompt_lengths, "TRIAL", 2)
    monkeypatch.setattr(prompt_lengths, "AUDIT_SECONDS", 50.0)  # two rows a second are 150 s for all: every 4th
    clock = Clock(1.0)
    found = prompt_lengths.audit([path], Measured(), clock)  # type: ignore[arg-type]
    assert found.stride == 4
    assert found.longest[0][0].row == 300
    assert found.described() == "76 of 301 rows read (one in 4 of the whole file)"
    monkeypatch.setattr(prompt_lengths, "AUDIT_SECONDS", 10.0)  # every 16th, of which 20 s allow 19
    found = prompt_lengths.audit([path], Measured(), Clock(1.0))  # type: ignore[arg-type]
    assert len(found.lengths) == 19 < 301 / found.stride + 1


def test_row_groups_are_read_from_all_parts_of_the_file_first(tmp_path: Path) -> None:
    from faithful_rl.preflight import rows

    numbers = [number for number, _ in rows.spread(pq.ParquetFile(many(tmp_path / "rows.parquet", 80, 10)), 10)]
    assert numbers == [0, 40, 20, 60, 10, 50, 30, 70]


def test_a_row_beyond_those_that_are_opened_is_named(prepared: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    from faithful_rl.preflight import prompt_lengths

    typed, config = prepared
    file = config["data"]["train_files"]
    pq.write_table(pa.Table.from_pylist([*ROWS, row("Which?", {**image(28, 28), "bytes": b"no image"})]), file)
    with pytest.raises(ConfigError, match=r"data\.train_files: found an image that does not open in .*rows\.parquet, row 6 "):
        prompt_lengths.check(config, typed)
    pq.write_table(pa.Table.from_pylist([*ROWS, {**row("<image>Which?", image(28, 28))}]), file)
    with pytest.raises(ConfigError, match=r"found 2 <image> tag\(s\) for 1 image\(s\) in .*row 6"):
        prompt_lengths.check(config, typed)


def test_a_processor_that_does_not_load_is_named(prepared: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    from faithful_rl.preflight import prompt_lengths

    typed, config = prepared
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    policy = {**config["actor_rollout_ref"], "model": {**config["actor_rollout_ref"]["model"], "path": str(tmp_path / "model")}}
    with pytest.raises(ConfigError, match=r"actor_rollout_ref\.model\.path: found .*whose processor does not load"):
        prompt_lengths.check({**config, "actor_rollout_ref": policy}, typed)
