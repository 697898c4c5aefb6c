"""One source into one data set: parts of a few hundred source rows, each complete or absent, joined at the end.

An interrupted run continues behind its last complete part; parts are cut by source rows, so the result has the same bytes whether it was
interrupted or not. `manifest.json` is written last.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from data_prep import hub, manifest, rejects
from data_prep.formats import Format, get_format
from data_prep.frames import Frame
from data_prep.lock import LOCK, held
from data_prep.parts import PARTS, Parts
from data_prep.prompts import system_prompt
from data_prep.record import Record, Reject
from data_prep.rejects import DEFAULT_SHARE, TooManyRejects, check_share
from data_prep.sources import Source, get
from faithful_rl.config import ConfigError

PART_ROWS = 500  # source rows
PART_BYTES = 64 * 2**20  # of images held in memory; a part is closed early above it
REJECTS = rejects.FILE
# Options that change no byte of the result, and the image root, which stands in the settings as the directory that it is.
_SILENT = ("workers", "images")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]+")

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
        revision: of a hub id, a full commit; may also stand behind its `@`.
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
        ConfigError: a wrong option or location, another data set in `out`, another process that makes one there, a full disk.
        TooManyRejects: more rejects than `reject_share`; `rejects.jsonl` lies in `out/.parts` then.
    """
    plan = _plan(job)
    finished = _finished(job.out, plan)  # nobody writes in a finished one, which may lie where we may not write
    if finished is not None:
        return finished
    with held(job.out):
        return _finished(job.out, plan) or _prepared(job, plan, progress)


def _finished(out: Path, plan: _Plan) -> dict[str, Any] | None:
    existing = manifest.read(out)
    if existing is not None:
        _same(out, existing, plan)
        manifest.intact(out, existing)
    return existing


def _prepared(job: Job, plan: _Plan, progress: Progress | None) -> dict[str, Any]:
    _usable(job.out)
    parts = Parts(job.out / PARTS, plan.settings_key)
    try:
        _convert(job, plan, parts, progress)
        check_share(job.source, parts.tally, job.reject_share, str(parts.directory / REJECTS))
    except TooManyRejects:
        parts.write_rejects(parts.directory)
        parts.clear(keep=(REJECTS, rejects.FOLDER))  # corrected images would otherwise stay rejected in the parts
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
    source.check_root(options, f"{job.source}.images")
    located = hub.locate(job.location, revision=job.revision, files=files, key=f"{job.source}.in")
    settings = {
        "source": source.name,
        "source_version": source.version,
        "options": {key: _plain(value) for key, value in sorted(options.items()) if key not in _SILENT},
        "images": _image_root(source, located, options),
        "seed": job.seed,
        "limit": job.limit,
        "sample": job.sample,
        "format": wanted.name,
        "prompt": job.prompt,
        "system_prompt": system_prompt(job.prompt),
        "frame": frame.as_dict(),
    }
    name = str(options.get("split") or "train")
    if not _FILE_NAME.fullmatch(name):
        raise ConfigError(f"{job.source}.split", repr(name), "a word that can name a file", "Correct split=.")
    read = manifest.source_files(located.path, source.files(located.path, options))
    return _Plan(source, options, located, wanted, frame, settings, read, name)


def _image_root(source: Source, located: hub.Located, options: Mapping[str, Any]) -> str | None:
    """What names the images, which are not hashed one by one: their root; inside a data set of the hub its commit, wherever it is kept."""
    root = source.root(located.path, options)
    if root is None:
        return None
    if located.revision and root.is_relative_to(located.path):
        return f"{located.origin}@{located.revision}/{root.relative_to(located.path).as_posix()}"
    return str(root.resolve())


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
    if any(path.name != LOCK for path in out.iterdir()) and not (out / PARTS).is_dir():
        raise ConfigError("out", f"{out} with other files", "an absent or empty directory", "Choose another out=DIR.")


def _convert(job: Job, plan: _Plan, parts: Parts, progress: Progress | None) -> None:
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
    for items in _batches(parts.unseen(stream)):
        parts.add(items, plan.format, job.prompt, plan.frame)
        if progress:
            progress(parts.rows, total)
        if parts.tally.broken or (total and parts.tally.rejects > job.reject_share * total):
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


def _finish(job: Job, plan: _Plan, parts: Parts) -> dict[str, Any]:
    files = plan.format.join(parts.files, parts.directory, job.out, plan.name)
    parts.write_rejects(job.out)
    source = {
        "licence": plan.source.licence,
        "home": plan.source.home,
        "origin": plan.located.origin,
        "revision": plan.located.revision,
        "files": plan.input_files,
        "images": plan.settings["images"],
        "rows_read": parts.rows,
        **parts.tally.as_dict(),
    }
    made = manifest.build(
        plan.format.name,
        plan.settings,
        {plan.source.name: source},
        {**files, **rejects.files(job.out)},
        rows={path.name: parts.tally.kept for path in files.values() if path.name != "dataset_info.json"},
        reject_share=job.reject_share,
    )
    manifest.write(job.out, made)
    shutil.rmtree(parts.directory, ignore_errors=True)
    return made
