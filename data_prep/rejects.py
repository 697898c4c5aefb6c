"""Rows that are not used: kept with their reason in `rejects.jsonl`, counted in the manifest, and fatal above a share."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from data_prep.record import FILTERED, REASONS, Record, Reject
from faithful_rl.config import ConfigError

MAX_KEPT_BYTES = 2**20  # of one binary value; a longer one is kept as its length and hash
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


def line(reject: Reject) -> str:
    """One line of `rejects.jsonl`: uid, row, reason, detail and the source row as it was (binary values in base64)."""
    entry = {
        "uid": reject.uid,
        "row": reject.row,
        "reason": reject.reason,
        "detail": reject.detail,
        "rows": reject.rows,
        "source_row": plain(reject.source_row),
    }
    # Half of a character, which no file can hold, is written as JSON's own escape for it, so that the row stays as it was.
    return json.dumps(entry, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def plain(value: Any) -> Any:
    """A JSON-able copy of a source row."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if len(data) > MAX_KEPT_BYTES:
            return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return {"base64": base64.b64encode(data).decode("ascii")}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)
