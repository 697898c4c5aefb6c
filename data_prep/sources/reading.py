"""Streams of raw rows from parquet, JSON Lines and JSON lists, in flat memory; what is damaged comes out as a `Reject`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.record import Reject
from faithful_rl.config import ConfigError

_BATCH = 32  # rows of images held at a time
_READ_BUFFER = 2**20  # bytes; without it a column chunk is read whole, and that of SAT is 4.5 GB. Arrow still decodes 1024 rows at a time


def data_files(location: Path, patterns: Sequence[str], what: str) -> list[Path]:
    """`location` itself, or the files below it that the first matching pattern finds, sorted. Only the first, because a download may hold
    the same rows in two layouts. Raises ConfigError where there is none."""
    if location.is_file():
        return [location]
    for pattern in patterns:
        found = sorted(path for path in location.glob(pattern) if path.is_file())
        if found:
            return found
    raise ConfigError("in", f"{location} without a file {' or '.join(patterns)}", what, "Give the file or the directory that holds it.")


def numbered(rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """(row index, row). What stands for a file that broke off gets none, so that the rows of the files behind it keep theirs: those
    that `parquet_count` counts."""
    index = 0
    for row in rows:
        if isinstance(row, Reject) and row.lost_file:
            yield -1, row
        else:
            yield index, row
            index += 1


def rows_count(rows: Iterable[Any]) -> int:
    """Rows of a stream; a file that broke off is none."""
    return sum(1 for index, _ in numbered(rows) if index >= 0)


def parquet_rows(path: Path, name: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any] | Reject]:
    """Rows as dicts. A row group that cannot be read to its end gives one `Reject` for each lost row, and so does a row with text that
    is not UTF-8; a file without a readable footer gives one of reason `corrupt_file`."""
    try:
        file = pq.ParquetFile(path, buffer_size=_READ_BUFFER, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        yield Reject(f"{name}-{path.name}", {"file": path.name}, "corrupt_file", _first_line(error), rows=0)
        return
    with file:
        known = None if columns is None else [column for column in columns if column in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            done, total = 0, file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group], columns=known, use_threads=False):
                    for row in _rows_of(batch):
                        place = {"file": path.name, "row_group": group, "row": done}
                        done += 1
                        yield row if isinstance(row, dict) else Reject(f"{name}-{path.name}-{group}-{done - 1}", place, "not_unicode", row)
            except (pa.ArrowException, OSError) as error:
                for lost in range(done, total):
                    place = {"file": path.name, "row_group": group, "row": lost}
                    yield Reject(f"{name}-{path.name}-{group}-{lost}", place, "corrupt_parquet", _first_line(error))


def _rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Rows of a batch; for one whose text is not UTF-8 (parquet does not check it) what is wrong with it."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass  # one bad row: find it
    for number in range(batch.num_rows):
        try:
            yield batch.slice(number, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield _first_line(error)


def parquet_count(paths: Sequence[Path]) -> int:
    """Rows of parquet files by their footers; a file without one counts as 0 (and is rejected when read)."""
    total = 0
    for path in paths:
        try:
            total += int(pq.ParquetFile(path).metadata.num_rows)
        except (pa.ArrowInvalid, OSError):
            continue
    return total


def json_lines(path: Path, name: str) -> Iterator[dict[str, Any] | Reject]:
    """Objects of a JSON Lines file; blank lines are passed over, any other line that is no JSON object is a `Reject`."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                text = raw.decode("utf-8", errors="replace").rstrip("\n")
                yield Reject(f"{name}-{path.name}-line-{number}", text, "corrupt_json", _first_line(error))
                continue
            if isinstance(row, dict):
                yield row
            else:
                yield Reject(f"{name}-{path.name}-line-{number}", row, "corrupt_json", f"a {type(row).__name__}, not an object")


def lines_count(paths: Sequence[Path]) -> int:
    """Non-blank lines."""
    total = 0
    for path in paths:
        with path.open("rb") as file:
            total += sum(1 for line in file if line.strip())
    return total


def json_list(path: Path, name: str) -> Iterator[dict[str, Any] | Reject]:
    """Objects of one JSON list, however long, without loading it. Where the file is damaged the stream ends with a `Reject` of
    reason `corrupt_file`, because nobody knows how many rows are lost."""
    import ijson

    number = 0
    with path.open("rb") as file:
        try:
            for row in ijson.items(file, "item", use_float=True):
                if isinstance(row, dict):
                    yield row
                else:
                    yield Reject(f"{name}-{path.name}-{number}", row, "corrupt_json", f"a {type(row).__name__}, not an object")
                number += 1
        except (ijson.JSONError, UnicodeDecodeError) as error:
            place = {"file": path.name, "rows_read": number}
            yield Reject(f"{name}-{path.name}-after-{number}", place, "corrupt_file", _first_line(error), rows=0)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
