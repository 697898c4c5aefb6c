"""One source into one data set: parts of a few hundred source rows, each complete or absent, joined at the end.

An interrupted run continues behind its last complete part; parts are cut by source rows, so the result has the same bytes whether it was
interrupted or not. `manifest.json` is written last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from data_prep import hub, manifest
from data_prep.formats import Format, get_format
from data_prep.frames import Frame
from data_prep.prompts import system_prompt
from data_prep.record import FILTERED, Record, Reject
from data_prep.rejects import DEFAULT_SHARE, Tally, TooManyRejects, check_share, line
from data_prep.sources import Source, get
from faithful_rl.config import ConfigError

PART_ROWS = 500  # source rows
PART_BYTES = 64 * 2**20  # of images held in memory; a part is closed early above it
PARTS = ".parts"
REJECTS = "rejects.jsonl"
# Options that change no byte of the result.
_SILENT = ("workers", "images")

Progress = Callable[[int, int | None], None]  # (source rows done, of how many)


@dataclass(frozen=True, slots=True)
class Job:
    """One source to prepare.

    Attributes:
        location: local path or hub id.
        out: directory of the result.
        limit: at most so many source rows, from the start; None: all.
        sample: so many source rows drawn at random by the seed; None: all.
        reject_share: in [0, 1]; with more rejects than this share of the rows the run fails.
        pinned: hub revisions must be full commits.
    """

    source: str
    location: str
    out: Path
    format: str = "rl"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    limit: int | None = None
    sample: int | None = None
    prompt: str = "think"
    frame: Frame | None = None
    reject_share: float = DEFAULT_SHARE
    revision: str | None = None
    pinned: bool = False

    def __post_init__(self) -> None:
        for name in ("limit", "sample"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, value, "a whole number >= 1", f"Correct or leave out {name}=.")
        if not 0.0 <= self.reject_share <= 1.0:
            raise ConfigError("reject_share", self.reject_share, "a share in [0, 1]", "Correct reject_share=.")


def prepare(job: Job, progress: Progress | None = None) -> dict[str, Any]:
    """Make the data set of `job`, or continue it; returns its manifest. A finished data set is checked against its hashes and left.

    Raises:
        ConfigError: a wrong option or location, another data set in `out`, a full disk.
        TooManyRejects: more rejects than `reject_share`; `rejects.jsonl` lies in `out/.parts` then.
    """
    plan = _plan(job)
    existing = manifest.read(job.out)
    if existing is not None:
        _same(job.out, existing, plan)
        manifest.intact(job.out, existing)
        return existing
    _usable(job.out)
    parts = _Parts(job.out / PARTS, plan.settings_key)
    try:
        _convert(job, plan, parts, progress)
        check_share(job.source, parts.tally, job.reject_share, str(parts.directory / REJECTS))
    except TooManyRejects:
        parts.write_rejects(parts.directory / REJECTS)
        parts.clear(keep=REJECTS)  # corrected images would otherwise stay rejected in the parts
        raise
    if parts.tally.kept == 0:
        raise ConfigError(f"{job.source}", "no usable row", "at least one", f"Look at limit, sample and options.\n{parts.tally.table()}")
    return _finish(job, plan, parts)


@dataclass(frozen=True, slots=True)
class _Plan:
    source: Source
    options: dict[str, Any]
    located: hub.Located
    format: Format
    frame: Frame
    settings: dict[str, Any]
    input_files: dict[str, Any]
    name: str

    @property
    def settings_key(self) -> str:
        return manifest.fingerprint([self.settings, self.input_files])


def _plan(job: Job) -> _Plan:
    source, wanted = get(job.source), get_format(job.format)
    options = source.resolved(job.options)
    frame = job.frame or Frame(chain=wanted.chain)
    if frame.chain != wanted.chain:
        raise ConfigError("frame", repr(frame.chain), f"{wanted.chain} for format={wanted.name}", "Leave frame= out.")
    files = source.hub_files(options) if source.hub_files else None
    located = hub.locate(job.location, revision=job.revision, files=files, pinned=job.pinned, key=f"{job.source}.in")
    settings = {
        "source": source.name,
        "source_version": source.version,
        "options": {key: _plain(value) for key, value in sorted(options.items()) if key not in _SILENT},
        "seed": job.seed,
        "limit": job.limit,
        "sample": job.sample,
        "format": wanted.name,
        "prompt": job.prompt,
        "system_prompt": system_prompt(job.prompt),
        "frame": frame.as_dict(),
    }
    name = str(options.get("split") or "train")
    return _Plan(source, options, located, wanted, frame, settings, manifest.source_files(located.path), name)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _same(out: Path, existing: dict[str, Any], plan: _Plan) -> None:
    sources = existing.get("sources", {}).get(plan.source.name, {})
    if existing.get("settings") == plan.settings and sources.get("files") == plan.input_files:
        return
    differing = sorted(key for key, value in plan.settings.items() if existing.get("settings", {}).get(key) != value) or ["input files"]
    raise ConfigError(
        "out", f"{out} with another data set (other {', '.join(differing)})", "an absent or empty directory", "Choose another out=DIR."
    )


def _usable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError("out", f"the file {out}", "a directory", "Choose another out=DIR.")
    if out.is_dir() and any(out.iterdir()) and not (out / PARTS).is_dir():
        raise ConfigError("out", f"{out} with other files", "an absent or empty directory", "Choose another out=DIR.")


def _convert(job: Job, plan: _Plan, parts: _Parts, progress: Progress | None) -> None:
    total = plan.source.count(plan.located.path, plan.options) if plan.source.count else None
    total = min(total, job.limit) if total is not None and job.limit else total
    wanted: frozenset[int] | None = None
    if job.sample:
        if total is None:
            raise ConfigError("sample", job.sample, "a source that knows its number of rows", "Use limit= instead.")
        wanted = frozenset(Random(f"sample/{job.source}/{job.seed}").sample(range(total), min(job.sample, total)))
        total = len(wanted)
    start = parts.end_row
    stream = plan.source.load(
        plan.located.path,
        limit=job.limit,
        seed=job.seed,
        options=plan.options,
        chosen=lambda row: row >= start and (wanted is None or row in wanted),
    )
    for items in _batches(stream):
        parts.add(items, plan.format, job.prompt, plan.frame)
        if progress:
            progress(parts.rows, total)
        if total and parts.tally.rejects > job.reject_share * total:
            check_share(job.source, parts.tally, job.reject_share, str(parts.directory / REJECTS))


def _batches(stream: Iterator[Record | Reject]) -> Iterator[list[Record | Reject]]:
    """Items of `PART_ROWS` source rows at a time; what one row gave is never parted."""
    items: list[Record | Reject] = []
    rows, size, last = 0, 0, None
    for item in stream:
        if item.row != last or item.row < 0:
            if rows == PART_ROWS or size > PART_BYTES:
                yield items
                items, rows, size = [], 0, 0
            rows, last = rows + 1, item.row
        items.append(item)
        if isinstance(item, Record):
            size += sum(len(image.data or b"") for image in item.images)
    if items:
        yield items


class _Parts:
    """Complete parts of an unfinished data set: `part-N<suffix>`, `part-N.rejects.jsonl` and, written last, `part-N.json`."""

    def __init__(self, directory: Path, settings_key: str) -> None:
        self.directory = directory
        self.tally = Tally()
        self.files: list[Path] = []
        self.rows = 0  # source rows behind the parts
        self.end_row = 0  # the next run begins here
        self._uids: set[str] = set()
        key = directory / "settings.json"
        if not key.is_file() or key.read_text(encoding="utf-8") != settings_key:
            self.clear()  # parts of other settings or other input
        directory.mkdir(parents=True, exist_ok=True)
        manifest.write_text(key, settings_key)
        self._read()

    def _read(self) -> None:
        counts: dict[str, Any] = {}
        while (state_file := self.directory / f"part-{len(self.files):05d}.json").is_file():
            state = json.loads(state_file.read_text(encoding="utf-8"))
            if state["end_row"] < 0:  # a source without row numbers cannot be continued
                self.clear()
                self.files, self._uids, counts = [], set(), {}
                self.rows = self.end_row = 0
                break
            self.files.append(self.directory / state["file"])
            self.rows, self.end_row, counts = state["rows"], state["end_row"], state["tally"]
            self._uids.update(state["uids"])
        self.tally = Tally(counts)

    def add(self, items: list[Record | Reject], form: Format, prompt: str, frame: Frame) -> None:
        number = len(self.files)
        first = self.tally.kept
        kept: list[Record] = []
        rejects: list[Reject] = []
        for item in items:
            if isinstance(item, Record) and item.uid in self._uids:
                item = Reject(item.uid, {"question": item.question}, "duplicate_uid", "this uid stands above", row=item.row)
            self.tally.add(item)
            if isinstance(item, Record):
                self._uids.add(item.uid)
                kept.append(item)
            elif item.reason != FILTERED:
                rejects.append(item)
        path = self.directory / f"part-{number:05d}{form.suffix}"
        form.write_part(kept, path, first, self.directory, prompt, frame)
        text = "".join(f"{line(reject)}\n" for reject in rejects)
        manifest.write_text(self.directory / f"part-{number:05d}.{REJECTS}", text)
        self.rows += len({item.row for item in items}) if items[0].row >= 0 else len(items)
        self.end_row = items[-1].row + 1 if items[-1].row >= 0 else -1
        state = {
            "file": path.name,
            "rows": self.rows,
            "end_row": self.end_row,
            "tally": self.tally.as_dict(),
            "uids": [record.uid for record in kept],
        }
        manifest.write_text(self.directory / f"part-{number:05d}.json", json.dumps(state))
        self.files.append(path)

    def write_rejects(self, path: Path) -> None:
        """All rejects so far in one file."""
        texts = [(self.directory / f"part-{number:05d}.{REJECTS}").read_text(encoding="utf-8") for number in range(len(self.files))]
        manifest.write_text(path, "".join(texts))

    def clear(self, keep: str = "") -> None:
        if not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            if path.name != keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _finish(job: Job, plan: _Plan, parts: _Parts) -> dict[str, Any]:
    files = plan.format.join(parts.files, parts.directory, job.out, plan.name)
    parts.write_rejects(job.out / REJECTS)
    source = {
        "licence": plan.source.licence,
        "home": plan.source.home,
        "origin": plan.located.origin,
        "revision": plan.located.revision,
        "files": plan.input_files,
        "images": str(plan.options["images"]),
        "rows_read": parts.rows,
        **parts.tally.as_dict(),
    }
    made = manifest.build(
        plan.format.name,
        plan.settings,
        {plan.source.name: source},
        {**files, REJECTS: job.out / REJECTS},
        rows={path.name: parts.tally.kept for path in files.values() if path.name != "dataset_info.json"},
        reject_share=job.reject_share,
    )
    manifest.write(job.out, made)
    shutil.rmtree(parts.directory, ignore_errors=True)
    return made
