"""The questions to search: rows of an RL file, with the system prompt and the frame that training will use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.frames import Frame
from data_prep.record import Record
from data_prep.writers.parquet import read_rows
from data_prep.writers.rl import record_of
from faithful_rl.config import ConfigError
from faithful_rl.provenance import read_manifest, sha256


@dataclass(frozen=True, slots=True)
class Question:
    """A record, the text of its system prompt ("" for none), and its resize chain."""

    record: Record
    system: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class Source:
    """An RL parquet file, its number of rows, its hash, and the manifest beside it (None: there is none)."""

    path: Path
    rows: int
    sha256: str
    manifest: dict[str, Any] | None

    def questions(self, limit: int = 0, shard: tuple[int, int] = (0, 1)) -> Iterator[Question]:
        """In the order of the file: the first `limit` rows (0: all), of these every `shard[1]`-th from `shard[0]`."""
        for number, row in enumerate(islice(read_rows(self.path), limit or None)):
            if number % shard[1] == shard[0]:
                yield _question(row)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest of what is made from it."""
        described = {
            key: self.manifest[key] for key in ("dataset", "kind", "sources", "settings") if self.manifest and key in self.manifest
        }
        return {"file": self.path.name, "rows": self.rows, "sha256": self.sha256, "manifest": described or None}


def open_source(location: Path, split: str = "train") -> Source:
    """An RL file, or a directory with `<split>.parquet`; where a manifest lies beside the file, its hash must agree.

    Raises:
        ConfigError: no such file, no RL parquet, or a file that is not the manifest's.
    """
    path = location / f"{split}.parquet" if location.is_dir() else location
    if not path.is_file():
        raise ConfigError("in", str(location), "an RL parquet file, or a directory with train.parquet", "Make the data first.")
    try:
        with pq.ParquetFile(path) as file:
            rows, columns = file.metadata.num_rows, file.schema_arrow.names
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError("in", f"{path}, which is no readable parquet file ({error})", "an RL parquet file", "Make it again.") from error
    missing = [name for name in ("prompt", "images", "reward_model", "extra_info") if name not in columns]
    if missing or rows == 0:
        found = f"{path} {'without ' + ', '.join(missing) if missing else 'without rows'}"
        raise ConfigError("in", found, "an RL parquet file", "Make it with format=rl, or with `python -m data_prep scenes`.")
    digest, beside = sha256(path), read_manifest(path.parent)  # of any maker, with a version of its own
    listed = (beside or {}).get("files", {}).get(path.name)
    if listed is not None and listed.get("sha256") != digest:
        raise ConfigError("in", f"{path}, which differs from its manifest", "the file that the manifest names", "Make the data again.")
    return Source(path, rows, digest, beside if listed is not None else None)


def _question(row: dict[str, Any]) -> Question:
    record, extra = record_of(row), row["extra_info"]
    if extra.get("scene_json"):
        record = replace(record, metadata={**record.metadata, "scene_json": extra["scene_json"]})
    first = row["prompt"][0]
    system = first["content"] if first["role"] == "system" else ""
    return Question(record, system, Frame(min_pixels=extra["min_pixels"], max_pixels=extra["max_pixels"]))
