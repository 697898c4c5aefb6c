"""What is known of every row of a pool without its images in memory: question, gold answer, hashes of the images.

Two hashes: one of the decoded pixels, equal only for the same picture, and the perceptual hash of the library imagehash (pHash: the
lowest 8 x 8 frequencies of a 32 x 32 grey image, one bit each; Zauner 2010), which survives scaling and recompression.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.images import opened
from data_prep.manifest import sha256
from data_prep.record import Image, Record, Unusable
from data_prep.sources import in_order
from data_prep.sources.fields import inline_options
from data_prep.writers.parquet import read_rows, write_rows
from data_prep.writers.rl import record_of
from faithful_rl.config import ConfigError
from faithful_rl.rewards.accuracy import normalise

_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("question", pa.string()),
        ("stem", pa.string()),
        ("gold", pa.string()),
        ("pixels", pa.list_(pa.string())),
        ("perceptual", pa.list_(pa.uint64())),
        ("pool", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a pool; its number is its place in the table.

    Attributes:
        question: normalised question and options, as the accuracy reward normalises.
        stem: normalised question alone, also without options that an open question lists in its text.
        gold: normalised gold answer's text.
        pixels: SHA-256 (hex) of each image's size and RGB pixels; "" for an image that does not open any more.
        perceptual: 64 bits of each image.
    """

    uid: str
    question: str
    stem: str
    gold: str
    pixels: tuple[str, ...]
    perceptual: tuple[int, ...]


def table(pool: Path, kept_at: Path, workers: int = 0) -> list[Row]:
    """The rows of an RL parquet file, in its order. What was worked out for the same file before is read from `kept_at`."""
    digest = sha256(pool)
    if kept_at.is_file():
        rows = _kept(kept_at)
        if len(rows) == pq.ParquetFile(pool).metadata.num_rows and all(found == digest for found, _ in rows):
            return [row for _, row in rows]
    found: list[Row] = list(in_order(lambda raw: row_of(record_of(raw)), read_rows(pool), workers))
    write_rows(({**_cells(row), "pool": digest} for row in found), kept_at, _SCHEMA)
    return found


def _kept(path: Path) -> list[tuple[str, Row]]:
    """(hash of the pool, row) of a kept table; [] where it has other columns, as an earlier version wrote them."""
    try:
        if pq.read_schema(path).names != _SCHEMA.names:
            return []
        return [(row.pop("pool"), _row(row)) for row in read_rows(path)]
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ConfigError(str(path), f"no table of hashes ({error})", "what curation wrote", "Remove the file.") from error


def row_of(record: Record) -> Row:
    """Hashes of one record."""
    hashes = [_hashes(image) for image in record.images]
    return Row(
        record.uid,
        normalised_question(record),
        normalise(record.question if record.options else inline_options(record.question)[0]),
        normalise(record.gold_text),
        tuple(pixels for pixels, _ in hashes),
        tuple(perceptual for _, perceptual in hashes),
    )


def normalised_question(record: Record) -> str:
    """Question and options, each normalised, options in alphabetical order: shuffling makes no new question."""
    return " | ".join([normalise(record.question), *sorted(normalise(option) for option in record.options)])


def perceptual_hash(picture: Any) -> int:
    """64 bits of a PIL image."""
    bits = _imagehash().phash(picture, hash_size=8).hash.flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _hashes(image: Image) -> tuple[str, int]:
    try:
        picture = opened(image)
    except (Unusable, OSError):
        return "", 0
    digest = hashlib.sha256(f"{picture.width}x{picture.height}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest(), perceptual_hash(picture)


def _imagehash() -> Any:
    try:
        return importlib.import_module("imagehash")
    except ImportError as error:
        raise ConfigError("curation", f"no package imagehash ({error})", "the extra `data`", "pip install 'faithful_rl[data]'.") from error


def _cells(row: Row) -> dict[str, Any]:
    return {
        "uid": row.uid,
        "question": row.question,
        "stem": row.stem,
        "gold": row.gold,
        "pixels": list(row.pixels),
        "perceptual": list(row.perceptual),
    }


def _row(cells: dict[str, Any]) -> Row:
    return Row(cells["uid"], cells["question"], cells["stem"], cells["gold"], tuple(cells["pixels"]), tuple(cells["perceptual"]))


def without_images(rows: Iterator[Row]) -> list[str]:
    """uids of rows with an image that does not open."""
    return [row.uid for row in rows if not all(row.pixels)]
