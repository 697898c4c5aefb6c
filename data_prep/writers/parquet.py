"""Parquet files that appear under their final name only when complete, with small row groups and the same bytes for the same rows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.manifest import sha256
from faithful_rl.config import ConfigError

ROW_GROUP = 200  # rows: a reader with shuffled access holds a few dozen megabytes at most
GROUP_BYTES = 32 * 2**20  # of encoded images in one row group
_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Written:
    """A finished file."""

    path: Path
    rows: int

    @property
    def sha256(self) -> str:
        """Read when it is asked for: the parts of a data set need none."""
        return sha256(self.path)


def write_rows(rows: Iterable[dict[str, Any]], path: Path, schema: pa.Schema) -> Written:
    """Stream rows into `path`; nothing is left under that name, nor beside it, when it fails.

    Raises:
        ConfigError: the disk has no room for the next row group.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        with _writer(temporary, schema) as writer:
            for chunk in _groups(rows):
                table = pa.Table.from_pylist(chunk, schema=schema)
                need_room(path.parent, table.nbytes)
                writer.write_table(table, row_group_size=ROW_GROUP)
                count += len(chunk)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Written(path, count)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Everything compressed and by dictionary but encoded images, which neither makes smaller and both make slow."""
    leaves = [leaf for field in schema for leaf in _leaves(field.type, field.name)]
    kinds = {name: "none" if binary else "zstd" for name, binary in leaves}
    return pq.ParquetWriter(path, schema, compression=kinds, use_dictionary=[name for name, binary in leaves if not binary])


def _leaves(kind: pa.DataType, path: str) -> Iterator[tuple[str, bool]]:
    """Parquet's path of every leaf column, and whether it is binary."""
    if pa.types.is_list(kind):
        yield from _leaves(kind.value_type, f"{path}.list.element")
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(field.type, f"{path}.{field.name}")
    else:
        yield path, pa.types.is_binary(kind)


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists of one row group each: at most `ROW_GROUP` rows and, beyond the first row, `GROUP_BYTES` of images."""
    chunk: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        weight = sum(len(cell["bytes"]) for cell in row.get("images", ()))
        if chunk and (len(chunk) == ROW_GROUP or size + weight > GROUP_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += weight
    if chunk:
        yield chunk


def merge(parts: Sequence[Path], path: Path, schema: pa.Schema) -> Written:
    """Join parquet files of one schema, row group by row group."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    need_room(path.parent, sum(part.stat().st_size for part in parts))
    count = 0
    try:
        with _writer(temporary, schema) as writer:
            for part in parts:
                with pq.ParquetFile(part) as file:
                    for group in range(file.num_row_groups):
                        table = file.read_row_group(group)
                        writer.write_table(table, row_group_size=ROW_GROUP)
                        count += table.num_rows
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Written(path, count)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a file, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP, columns=columns):
            yield from batch.to_pylist()


def put_whole(data: bytes, path: Path) -> None:
    """Write bytes under a name that says what they are (their hash), complete or not at all; an existing file is left as it is.

    Raises:
        ConfigError: the disk is full.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    need_room(path.parent, len(data))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def need_room(directory: Path, size: int) -> None:
    """Raise ConfigError when the disk of `directory` has less than `size` bytes and a little more."""
    free = shutil.disk_usage(directory).free
    if free < size + _SPARE_BYTES:
        raise ConfigError(
            "out",
            f"{free / 2**20:.0f} MiB free on the disk of {directory}",
            f"{(size + _SPARE_BYTES) / 2**20:.0f} MiB for what comes next",
            "Free some space and run the same command again: what is done is kept.",
        )
