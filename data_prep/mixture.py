"""From pools to one RL data set: the chosen rows well mixed, and a line for every row that was not chosen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from data_prep import rejects
from data_prep.manifest import write_text
from data_prep.rl_schema import SCHEMA
from data_prep.writers.parquet import Written, read_rows, write_rows
from faithful_rl.config import ConfigError

DROPPED = "dropped.jsonl"
NOT_DRAWN = "not_drawn"


@dataclass(frozen=True, slots=True)
class Selection:
    """What curation decided.

    Attributes:
        rows: numbers of the chosen rows of each pool, in ascending order.
        reasons: why the others are left out, by pool and row number; a row without one was not drawn.
        report: counts for the manifest (JSON-able).
    """

    rows: Mapping[str, list[int]]
    reasons: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


def pool_file(pool: Path) -> Path:
    """The parquet file of a pool. Raises ConfigError where there is none."""
    found = sorted(pool.glob("*.parquet"))
    if len(found) != 1:
        raise ConfigError(str(pool), f"{len(found)} parquet files", "one", "Remove the directory and run again.")
    return found[0]


def write_mixture(pools: Mapping[str, Path], selection: Selection, out: Path, *, seed: int, val_rows: int) -> list[Written]:
    """Write the chosen rows, well mixed and numbered anew; `val_rows` of them, drawn by the seed, become `val.parquet`."""
    total = sum(len(rows) for rows in selection.rows.values())
    if total <= val_rows:
        raise ConfigError("val_rows", val_rows, f"fewer than the {total} rows of the mixture", "Lower val_rows=.")
    held_out = frozenset(Random(f"val/{seed}").sample(range(total), val_rows))

    def rows(split: str) -> Iterator[dict[str, Any]]:
        index = 0
        for position, row in enumerate(mixed(pools, selection, seed)):
            if (position in held_out) == (split == "val"):
                row["extra_info"].update(index=index, split=split)
                index += 1
                yield row

    splits = ("train", "val") if held_out else ("train",)
    return [write_rows(rows(split), out / f"{split}.parquet", SCHEMA) for split in splits]


def mixed(pools: Mapping[str, Path], selection: Selection, seed: int) -> Iterator[dict[str, Any]]:
    """The chosen rows of all pools in one stream, each pool read once from start to end: the next pool is drawn by what it has left,
    so the sources are spread evenly and the memory stays flat."""
    left = {name: len(rows) for name, rows in sorted(selection.rows.items())}
    streams = {name: _chosen(pools[name], selection.rows[name]) for name in left}
    random = Random(f"order/{seed}")
    while any(left.values()):
        name = random.choices(list(left), weights=list(left.values()))[0]
        left[name] -= 1
        yield next(streams[name])


def _chosen(pool: Path, numbers: list[int]) -> Iterator[dict[str, Any]]:
    wanted = frozenset(numbers)
    yield from (row for number, row in enumerate(read_rows(pool_file(pool))) if number in wanted)


def write_dropped(pools: Mapping[str, Path], selection: Selection, out: Path) -> Path:
    """`dropped.jsonl`: pool, row number, uid and reason of every row of the pools that was not chosen. The row itself stays in
    `pools/NAME`, under that number."""
    path = out / DROPPED
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for name, pool in pools.items():
                chosen, reasons = frozenset(selection.rows[name]), selection.reasons.get(name, {})
                for number, row in enumerate(read_rows(pool_file(pool), ["extra_info.uid"])):
                    if number not in chosen:
                        entry = {"pool": name, "row": number, "uid": row["extra_info"]["uid"], "reason": reasons.get(number, NOT_DRAWN)}
                        file.write(json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_rejects(pools: Mapping[str, Path], out: Path) -> dict[str, Path]:
    """The rejects of all pools in one file, with the files that its lines point to; name -> file."""
    shutil.rmtree(out / rejects.FOLDER, ignore_errors=True)  # of an interrupted run
    for pool in pools.values():
        for name, path in rejects.files(pool).items():
            if name != rejects.FILE:
                (out / rejects.FOLDER).mkdir(exist_ok=True)
                shutil.copyfile(path, out / name)  # named by its hash: the same name is the same content
    write_text(out / rejects.FILE, "".join((pool / rejects.FILE).read_text(encoding="utf-8") for pool in pools.values()))
    return rejects.files(out)
