"""A reward design and its data: a policy is not paid for tags that nobody asked it to write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight.rows import data_files
from faithful_rl.rewards.designs import Design, get

ROWS = 16  # of each training file; a file is made with one prompt


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Every tag of the design stands in the prompts of the data files, which exist. Two kinds of data are not looked at, because the tiny
    policy knows its tags from its warm start and reads no prompt: scenes, and on a CPU puzzles without a system prompt.

    Raises:
        ConfigError: a tag that the prompts do not ask for.
    """
    design = get(typed.rewards.design)
    source, prompt = typed.data.source, typed.data.puzzles.prompt
    if design is None or source == "scenes" or (source == "puzzles" and prompt == "none" and typed.hardware.world == "cpu"):
        return
    remake = {
        "puzzles": f"Set faithful_rl.data.puzzles.prompt={design.name}, or choose another design.",
        "parquet": f"Make the data with `python -m data_prep ... prompt={design.name}`, or choose another design.",
    }
    for path in data_files(config["data"]["train_files"]):
        missing = _not_asked_for(path, design)
        if missing:
            raise ConfigError(
                "faithful_rl.rewards.design",
                f"{design.name}, with prompts in {path} that do not ask for <{missing}>",
                f"prompts that name {', '.join(f'<{tag}>' for tag in design.tags)}",
                remake[source],
            )


def _not_asked_for(path: Path, design: Design) -> str:
    """The first tag that a prompt among a file's first rows does not name; "" where all do."""
    batch = next(pq.ParquetFile(path).iter_batches(batch_size=ROWS, columns=["prompt"]))
    for row in batch.to_pylist():
        text = " ".join(message["content"] for message in row["prompt"] if isinstance(message.get("content"), str))
        missing = [tag for tag in design.tags if f"<{tag}>" not in text]
        if missing:
            return missing[0]
    return ""
