"""The three output formats as the runner sees them: parts of a few hundred rows, joined when all are there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.frames import Frame
from data_prep.manifest import write_text
from data_prep.prompts import system_prompt
from data_prep.record import Record
from data_prep.rl_schema import SCHEMA
from data_prep.writers import llama_factory, rl, sft
from data_prep.writers.parquet import Written, merge
from faithful_rl.config import ConfigError

# (records, part file, index of the first record, directory of the parts, prompt's name, frame)
PartWriter = Callable[[Sequence[Record], Path, int, Path, str, Frame], None]
# (part files, directory of the parts, output directory, name) -> finished files by name
Joiner = Callable[[Sequence[Path], Path, Path, str], dict[str, Path]]


@dataclass(frozen=True, slots=True)
class Format:
    """One output format: the suffix of its parts, the resize chain it needs and how parts are written and joined."""

    name: str
    suffix: str
    chain: str
    write_part: PartWriter
    join: Joiner


def _rl_part(records: Sequence[Record], path: Path, first: int, parts: Path, prompt: str, frame: Frame) -> None:
    rl.write_rl(records, path, prompt=prompt, frame=frame, first_index=first)


def _sft_part(records: Sequence[Record], path: Path, first: int, parts: Path, prompt: str, frame: Frame) -> None:
    sft.write_sft(records, path, prompt=prompt, frame=frame)


def _llama_factory_part(records: Sequence[Record], path: Path, first: int, parts: Path, prompt: str, frame: Frame) -> None:
    text = system_prompt(prompt)
    lines = [llama_factory.json_line(llama_factory.llama_factory_row(record, text, frame, parts)) for record in records]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _join_rl(files: Sequence[Path], parts: Path, out: Path, name: str) -> dict[str, Path]:
    return _joined(merge(files, out / f"{name}.parquet", SCHEMA))


def _join_sft(files: Sequence[Path], parts: Path, out: Path, name: str) -> dict[str, Path]:
    return _joined(merge(files, out / f"{name}.parquet", sft.SCHEMA))


def _join_llama_factory(files: Sequence[Path], parts: Path, out: Path, name: str) -> dict[str, Path]:
    images = out / llama_factory.IMAGE_FOLDER
    if (parts / llama_factory.IMAGE_FOLDER).is_dir():  # absent when an interrupted run had moved it already
        shutil.rmtree(images, ignore_errors=True)
        os.replace(parts / llama_factory.IMAGE_FOLDER, images)
    written = llama_factory.write_json_list(llama_factory.part_lines(files), out, name)
    return {**_joined(written), "dataset_info.json": out / "dataset_info.json"}


def _joined(written: Written) -> dict[str, Path]:
    return {written.path.name: written.path}


FORMATS: dict[str, Format] = {
    "rl": Format("rl", ".parquet", "verl", _rl_part, _join_rl),
    "sft": Format("sft", ".parquet", "verl", _sft_part, _join_sft),
    "llama_factory": Format("llama_factory", ".jsonl", "llama_factory", _llama_factory_part, _join_llama_factory),
}


def get_format(name: str) -> Format:
    """The format called `name`. Raises ConfigError for an unknown one."""
    if name not in FORMATS:
        raise ConfigError("format", repr(name), f"one of {', '.join(FORMATS)}", "Choose one of them.")
    return FORMATS[name]
