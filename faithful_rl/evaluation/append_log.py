"""An append-only JSON Lines file, one line per question: whatever was finished before a crash is there after it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError
from faithful_rl.metrics import cut_torn_line, read_jsonl


class AppendLog:
    """Lines by uid; a later line of a uid replaces an earlier one. A last line torn by a crash is cut off.

    Raises:
        ConfigError: a line that is not the last one is damaged, or has no uid.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lines: dict[str, dict[str, Any]] = {}
        if path.exists():
            cut_torn_line(path)
        try:
            for number, line in read_jsonl(path) if path.exists() else ():
                if not isinstance(line.get("uid"), str):
                    raise ValueError(f"{path}:{number} has no uid")
                self.lines[line["uid"]] = line
        except ValueError as error:
            raise ConfigError(
                "out", f"a damaged file ({error})", "one JSON object per line", "Restore it, or choose another out."
            ) from error
        self._stream = path.open("a", encoding="utf-8")

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, which has a `uid`; it is on the disk when this returns."""
        self._stream.write(json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.lines[str(line["uid"])] = dict(line)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
