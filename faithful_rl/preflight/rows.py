"""The data files: made where the recipe generates them, opened and checked row by row where they exist."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from data_prep.puzzles.dataset import PuzzleDataSettings, write_puzzles
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from faithful_rl.config import ConfigError, FaithfulRLConfig, PuzzlesConfig

IMAGE_TAG = "<image>"
GENERATED = ("train.parquet", "val.parquet", "test.parquet")
COLUMNS = ("data_source", "prompt", "images", "reward_model", "extra_info")


def prepare(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Generate the scenes or puzzles that the recipe asks for where they are not there yet; their hashes are checked.

    Raises:
        ConfigError: other data lies in their place, the recipe names files elsewhere, or there are fewer different puzzles than rows.
    """
    if typed.data.source == "parquet":
        return
    _refuse_other_files(config, typed)
    if typed.data.source == "puzzles":
        _prepare_puzzles(config, typed.data.puzzles)
        return
    sizes = typed.data.scenes
    settings = SceneDataSettings(seed=sizes.seed, train=sizes.train, val=sizes.val, test=sizes.test)
    try:
        write_scenes(Path(config["data"]["train_files"]).parent, settings)
    except FileExistsError as error:
        raise ConfigError(
            "faithful_rl.data.scenes.directory", "data that is not the recipe's", "the generator's files", f"{error}."
        ) from error


def _refuse_other_files(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Generated files lie where the recipes put them, in a folder whose name begins with seed and sizes: a folder of the user's would be
    filled, or he would be told to remove it."""
    one: Any = typed.data.puzzles if typed.data.source == "puzzles" else typed.data.scenes
    place, name = Path(one.directory).expanduser(), f"seed{one.seed}-{one.train}-{one.val}-{one.test}"
    for key in ("train_files", "val_files"):
        for path in data_files(config["data"][key]):
            own = Path(os.path.abspath(path.parents[1])) == Path(os.path.abspath(place)) if len(path.parents) > 1 else False
            if not (own and path.parent.name.startswith(name) and path.name in GENERATED):
                raise ConfigError(
                    f"data.{key}",
                    f"{path} beside faithful_rl.data.source={typed.data.source}",
                    f"a file that the generator makes below {place}",
                    "Set faithful_rl.data.source=parquet to use files of your own.",
                )


def _prepare_puzzles(config: Mapping[str, Any], puzzles: PuzzlesConfig) -> None:
    given: dict[str, Any] = {key: value for key, value in vars(puzzles).items() if key != "directory"}
    given.update(kinds=tuple(puzzles.kinds), levels=tuple(puzzles.levels))
    try:
        write_puzzles(Path(config["data"]["train_files"]).parent, PuzzleDataSettings(**given))
    except FileExistsError as error:
        raise ConfigError(
            "faithful_rl.data.puzzles.directory", "data that is not the recipe's", "the generator's files", f"{error}."
        ) from error
    except ValueError as error:
        found = f"settings without data ({error})"
        raise ConfigError("faithful_rl.data.puzzles", found, "settings that give data", "Change them.") from error


def check(config: Mapping[str, Any], limit: int) -> None:
    """Open every data file and check its first `limit` rows (-1: all of them).

    Raises:
        ConfigError: a file that is missing, is no parquet, lacks columns or rows; a row without an image, with another number
            of `<image>` tags than images, with an image that does not open, or without ground truth.
    """
    data = config["data"]
    for key in ("train_files", "val_files"):
        for name in _names(data[key]):
            _check_file(Path(name).expanduser(), f"data.{key}", limit)
    rows = sum(pq.ParquetFile(Path(name).expanduser()).metadata.num_rows for name in _names(data["train_files"]))
    if data["train_max_samples"] > 0:
        rows = min(rows, data["train_max_samples"])
    if rows < data["train_batch_size"]:
        raise ConfigError(
            "data.train_batch_size", data["train_batch_size"], f"at most the {rows} rows of data.train_files", "Use fewer prompts per step."
        )


def present(config: Mapping[str, Any]) -> bool:
    """Whether every training file is on this machine."""
    return all(path.is_file() for path in data_files(config["data"]["train_files"]))


def data_files(files: str | Sequence[str]) -> list[Path]:
    """The files that verl's `data.train_files` or `data.val_files` names."""
    return [Path(name).expanduser() for name in _names(files)]


def _names(files: str | Sequence[str]) -> list[str]:
    return [files] if isinstance(files, str) else list(files)


def _check_file(path: Path, key: str, limit: int) -> None:
    if not path.is_file():
        raise ConfigError(key, f"{path}, which does not exist", "a parquet file", "Correct the path, or make the data first.")
    try:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(
            key, f"{path}, which is not a readable parquet file ({error})", "a parquet file", "Make or copy the file again."
        ) from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ConfigError(
            key, f"{path} without the column(s) {', '.join(missing)}", f"the columns {', '.join(COLUMNS)}", "Make the file again."
        )
    if file.metadata.num_rows == 0:
        raise ConfigError(key, f"{path} without rows", "at least one row", "Make the file again.")
    try:
        for number, row in _rows(file, limit):
            _check_row(row, f"{path}, row {number}", key)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(
            key, f"{path}, which is damaged ({error})", "a parquet file that reads to its end", "Make or copy the file again."
        ) from error


def _rows(file: pq.ParquetFile, limit: int, columns: Sequence[str] = COLUMNS) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in file.iter_batches(batch_size=64, columns=list(columns)):
        for row in batch.to_pylist():
            if 0 <= limit <= number:
                return
            yield number, row
            number += 1


def spread(file: pq.ParquetFile, stride: int, columns: Sequence[str] = COLUMNS) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of every `stride`-th row of the whole file. Row groups come in an order whose every beginning is spread over the
    file (1st, middle, quarters, eighths ...): whoever stops early has seen all parts of it."""
    starts, total = [], 0
    for group in range(file.metadata.num_row_groups):
        starts.append(total)
        total += file.metadata.row_group(group).num_rows
    for group in sorted(range(len(starts)), key=_bits_reversed):
        number = starts[group]
        for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=list(columns)):
            first = -number % stride  # numbers that the stride divides
            for offset in range(first, batch.num_rows, stride):
                yield number + offset, batch.slice(offset, 1).to_pylist()[0]
            number += batch.num_rows


def _bits_reversed(number: int) -> float:
    """Of numbers below n, those near 0, n/2, n/4, 3n/4, n/8 ... come first when they are sorted by this."""
    value, weight = 0.0, 0.5
    while number:
        number, bit = divmod(number, 2)
        value, weight = value + weight * bit, weight / 2
    return value


def _check_row(row: dict[str, Any], where: str, key: str) -> None:
    check_content(row, where, key)
    for image in row["images"]:
        _check_image(image, where, key)


def check_content(row: Mapping[str, Any], where: str, key: str) -> None:
    """A row without a look into its images.

    Raises:
        ConfigError: no image, another number of tags than images, no ground truth.
    """
    images = row["images"] or []
    if not images:
        raise ConfigError(key, f"no image in {where}", "at least one image in every row", "Drop the row, or add its image.")
    tags = sum(_text(message.get("content")).count(IMAGE_TAG) for message in row["prompt"] or [])
    if tags != len(images):
        raise ConfigError(
            key,
            f"{tags} {IMAGE_TAG} tag(s) for {len(images)} image(s) in {where}",
            f"one {IMAGE_TAG} tag in the prompt for every image",
            "Correct the prompt.",
        )
    if not str((row["reward_model"] or {}).get("ground_truth") or ""):
        raise ConfigError(key, f"no reward_model.ground_truth in {where}", "the right answer's text", "Drop the row, or add its answer.")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else ""


def _check_image(image: Any, where: str, key: str) -> None:
    payload = image.get("bytes") if isinstance(image, Mapping) else None
    source: Any = io.BytesIO(payload) if payload else (image.get("path") or image.get("image")) if isinstance(image, Mapping) else None
    try:
        if source is None:
            raise FileNotFoundError("neither bytes nor a path")
        with Image.open(source.removeprefix("file://") if isinstance(source, str) else source) as opened:
            opened.verify()
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise unopened(key, where, error) from error


def unopened(key: str, where: str, error: Exception) -> ConfigError:
    return ConfigError(key, f"an image that does not open in {where} ({error})", "a PNG or JPEG image", "Make the row again, or drop it.")
