"""A reward design and its data: a policy is not paid for tags that nobody asked it to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.preflight.rows import data_files
from faithful_rl.rewards.designs import get

ROWS = 16  # of each training file; a file is made with one prompt


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Every tag of the design stands in the prompts of existing data files. Data that a recipe makes itself is not looked at: the tiny
    policy knows its tags from its warm start, and reads none.

    Raises:
        ConfigError: a tag that the prompts do not ask for.
    """
    design = get(typed.rewards.design)
    if design is None or typed.data.source != "parquet":
        return
    for path in data_files(config["data"]["train_files"]):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROWS, columns=["prompt"]):
            for row in batch.to_pylist():
                text = " ".join(message["content"] for message in row["prompt"] if isinstance(message.get("content"), str))
                missing = [tag for tag in design.tags if f"<{tag}>" not in text]
                if missing:
                    raise ConfigError(
                        "faithful_rl.rewards.design",
                        f"{design.name}, with prompts in {path} that do not ask for <{missing[0]}>",
                        f"prompts that name {', '.join(f'<{tag}>' for tag in design.tags)}",
                        f"Make the data with `python -m data_prep ... prompt={design.name}`, or choose another design.",
                    )
            break
