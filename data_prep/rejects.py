"""Rows that are not used: kept with their reason in `rejects.jsonl`, counted in the manifest, and fatal above a share."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.record import FILTERED, REASONS, Record, Reject
from data_prep.writers.parquet import put_whole
from faithful_rl.config import ConfigError

MAX_INLINE_BYTES = 2**20  # of one binary value in a line; a longer one becomes a file of its own
FILE = "rejects.jsonl"
FOLDER = "rejects"  # of those files, beside `rejects.jsonl`
DEFAULT_SHARE = 0.01


class Tally:
    """Counts of one source: kept records, notes on them, rejected and filtered rows by reason."""

    def __init__(self, counts: Mapping[str, Any] | None = None) -> None:
        counts = counts or {}
        self.kept = int(counts.get("kept", 0))
        self.rejected: Counter[str] = Counter(counts.get("rejected", {}))
        self.notes: Counter[str] = Counter(counts.get("notes", {}))
        self.filtered = int(counts.get("filtered", 0))
        self.broken = bool(counts.get("broken", False))

    def add(self, item: Record | Reject) -> None:
        if isinstance(item, Record):
            self.kept += 1
            self.notes.update(item.notes)
        elif item.reason == FILTERED:
            self.filtered += item.rows
        else:
            self.rejected[item.reason] += max(1, item.rows)
            self.broken = self.broken or item.rows == 0

    @property
    def rejects(self) -> int:
        return sum(self.rejected.values())

    @property
    def share(self) -> float:
        """Rejected of (kept + rejected), in [0, 1]; 0 where there is neither. Rows left out on purpose do not count."""
        total = self.kept + self.rejects
        return self.rejects / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `Tally(tally.as_dict())` is equal."""
        return {
            "kept": self.kept,
            "filtered": self.filtered,
            "rejected": dict(sorted(self.rejected.items())),
            "notes": dict(sorted(self.notes.items())),
            "broken": self.broken,
        }

    def table(self) -> str:
        """Counts by reason as text, one a line, most frequent first."""
        total = self.kept + self.rejects
        lines = [f"{self.kept:>9}  kept"]
        if self.filtered:
            lines.append(f"{self.filtered:>9}  {FILTERED:<22} {REASONS[FILTERED]}")
        for reason, number in sorted(self.rejected.items(), key=lambda entry: (-entry[1], entry[0])):
            lines.append(f"{number:>9}  {reason:<22} {REASONS[reason]} ({number / total:.2%})")
        return "\n".join(lines)


class TooManyRejects(ConfigError):
    """The share of rejected rows is above the limit. The message holds the table."""


def check_share(name: str, tally: Tally, limit: float, rejects_file: str) -> None:
    """Raise TooManyRejects when more than `limit` (in [0, 1]) of the rows were rejected, or when a file broke off."""
    found = None
    if tally.broken and limit < 1.0:
        found = "a file that cannot be read to its end, so that nobody knows how many rows are lost"
    elif tally.share > limit:
        found = f"{tally.rejects} of {tally.kept + tally.rejects} rows rejected ({tally.share:.2%})"
    if found:
        raise TooManyRejects(
            f"{name}: reject_share",
            found,
            f"at most {limit:.2%}",
            f"Look at {rejects_file}, correct the input, or raise reject_share=.\n{tally.table()}\n",
        )


def line(reject: Reject, directory: Path | None = None) -> str:
    """One line of `rejects.jsonl`: uid, row, reason, detail and the source row as it was: binary values in base64, those above 1 MiB as
    files of `directory/rejects/` (without a directory as their length and hash only).

    Raises:
        ConfigError: the disk has no room for such a file.
    """
    entry = {
        "uid": reject.uid,
        "row": reject.row,
        "reason": reject.reason,
        "detail": reject.detail,
        "rows": reject.rows,
        "source_row": plain(reject.source_row, directory),
    }
    # Half of a character, which no file can hold, is written as JSON's own escape for it, so that the row stays as it was.
    return json.dumps(entry, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def plain(value: Any, directory: Path | None = None) -> Any:
    """A JSON-able copy of a source row; `directory` as in `line`."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if len(data) > MAX_INLINE_BYTES:
            digest = hashlib.sha256(data).hexdigest()
            entry: dict[str, Any] = {"bytes": len(data), "sha256": digest}
            return entry if directory is None else {**entry, "file": _put(data, digest, directory)}
        return {"base64": base64.b64encode(data).decode("ascii")}
    if isinstance(value, Mapping):
        return {str(key): plain(item, directory) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, directory) for item in value]
    return str(value)


def _put(data: bytes, digest: str, directory: Path) -> str:
    """Write a value under its hash, complete or not at all; returns its path relative to `directory`."""
    relative = f"{FOLDER}/{digest[:32]}.bin"
    put_whole(data, directory / relative)
    return relative


def files(directory: Path) -> dict[str, Path]:
    """Name -> file of `rejects.jsonl` and of what its lines point to."""
    kept = sorted((directory / FOLDER).glob("*.bin"))
    return {FILE: directory / FILE, **{f"{FOLDER}/{path.name}": path for path in kept}}
