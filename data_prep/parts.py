"""Parts of an unfinished data set: a few hundred source rows each, complete or absent, so that an interrupted run continues."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep import manifest, rejects
from data_prep.formats import Format
from data_prep.frames import Frame
from data_prep.record import FILTERED, Record, Reject
from data_prep.rejects import Tally

PARTS = ".parts"


class Parts:
    """`part-N<suffix>`, `part-N.rejects.jsonl` and, written last, `part-N.json`, in one directory.

    Attributes:
        rows: source rows behind the parts.
        end_row: the next run begins here.
    """

    def __init__(self, directory: Path, settings_key: str) -> None:
        """Continue the parts of `directory`; those of other settings or other input are removed."""
        self.directory = directory
        self.tally = Tally()
        self.files: list[Path] = []
        self.rows = 0
        self.end_row = 0
        self._uids: set[str] = set()
        self._lost: set[str] = set()  # uids of the files that broke off
        key = directory / "settings.json"
        if not key.is_file() or key.read_text(encoding="utf-8") != settings_key:
            self.clear()
        directory.mkdir(parents=True, exist_ok=True)
        manifest.write_text(key, settings_key)
        self._read()

    def _read(self) -> None:
        counts: dict[str, Any] = {}
        while (state_file := self.directory / f"part-{len(self.files):05d}.json").is_file():
            state = json.loads(state_file.read_text(encoding="utf-8"))
            self.files.append(self.directory / state["file"])
            self.rows, self.end_row, counts = state["rows"], state["end_row"], state["tally"]
            self._uids.update(state["uids"])
            self._lost.update(state["lost"])
        self.tally = Tally(counts)

    def unseen(self, items: Iterator[Record | Reject]) -> Iterator[Record | Reject]:
        """Without the files that are known to have broken off: a continued run is told of them again, wherever it begins."""
        return (item for item in items if not (isinstance(item, Reject) and item.lost_file and item.uid in self._lost))

    def add(self, items: Sequence[Record | Reject], form: Format, prompt: str, frame: Frame) -> None:
        """Write one part. Raises ConfigError when the disk is full."""
        number = len(self.files)
        first = self.tally.kept
        kept: list[Record] = []
        turned_down: list[Reject] = []
        for item in items:
            if isinstance(item, Record) and item.uid in self._uids:
                row = item.source_row if item.source_row is not None else {"question": item.question}
                item = Reject(item.uid, row, "duplicate_uid", "this uid stands above", row=item.row)
            self.tally.add(item)
            if isinstance(item, Record):
                self._uids.add(item.uid)
                kept.append(item)
            elif item.reason != FILTERED:
                turned_down.append(item)
        lost = [item.uid for item in turned_down if item.lost_file]
        self._lost.update(lost)
        path = self.directory / f"part-{number:05d}{form.suffix}"
        form.write_part(kept, path, first, self.directory, prompt, frame)
        text = "".join(f"{rejects.line(reject, self.directory)}\n" for reject in turned_down)
        manifest.write_text(self.directory / f"part-{number:05d}.{rejects.FILE}", text)
        indices = {item.row for item in items if item.row >= 0}
        self.rows += len(indices)
        self.end_row = max(indices, default=self.end_row - 1) + 1
        state = {
            "file": path.name,
            "rows": self.rows,
            "end_row": self.end_row,
            "tally": self.tally.as_dict(),
            "uids": [record.uid for record in kept],
            "lost": lost,
        }
        manifest.write_text(self.directory / f"part-{number:05d}.json", json.dumps(state))
        self.files.append(path)

    def write_rejects(self, out: Path) -> None:
        """All rejects so far in one file of `out`, with the files that its lines point to."""
        texts = [(self.directory / f"part-{number:05d}.{rejects.FILE}").read_text(encoding="utf-8") for number in range(len(self.files))]
        folder, wanted = self.directory / rejects.FOLDER, out / rejects.FOLDER
        if folder != wanted and folder.is_dir():  # absent when an interrupted run had moved it already
            shutil.rmtree(wanted, ignore_errors=True)
            os.replace(folder, wanted)
        manifest.write_text(out / rejects.FILE, "".join(texts))

    def clear(self, keep: Sequence[str] = ()) -> None:
        """Remove everything but the names in `keep`."""
        if not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if path.name not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
