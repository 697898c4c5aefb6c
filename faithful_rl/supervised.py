"""What a supervised recipe on verl's SFT tree means: its files, its number of steps, and where its model goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from faithful_rl.config import ConfigError, FaithfulRLConfig


def model_dir(typed: FaithfulRLConfig, run_dir: Path) -> Path:
    """Where the finished model goes."""
    return Path(typed.sft.model_dir).expanduser() if typed.sft.model_dir else run_dir / "model"


def train_files(config: Mapping[str, Any]) -> list[Path]:
    """The recipe's SFT parquet files."""
    files = config["data"]["train_files"]
    return [Path(name).expanduser() for name in ([files] if isinstance(files, str) else files)]


def total_steps(config: Mapping[str, Any]) -> int:
    """Optimiser steps of the whole run: verl drops the incomplete last batch of each epoch.

    Raises:
        ConfigError: batches that do not divide, fewer rows than one batch, or more steps than the epochs hold.
    """
    data, trainer = config["data"], config["trainer"]
    batch, workers = data["train_batch_size"], trainer["n_gpus_per_node"]
    if batch < 1 or batch % workers:
        raise ConfigError("data.train_batch_size", batch, f"a multiple of the {workers} ranks", "Change it.")
    found = sum(pq.ParquetFile(path).metadata.num_rows for path in train_files(config))
    if 0 < data["train_max_samples"] < found:
        found = data["train_max_samples"]
    # Each rank gets an equal number of rows and cuts its own batches.
    per_epoch = (found // workers) // (batch // workers)
    if per_epoch == 0:
        raise ConfigError("data.train_batch_size", batch, f"at most the {found} rows of data.train_files", "Use fewer rows per step.")
    most = per_epoch * trainer["total_epochs"]
    wanted = trainer["total_training_steps"]
    if wanted is not None and not 1 <= wanted <= most:
        raise ConfigError(
            "trainer.total_training_steps",
            wanted,
            f"a number in [1, {most}], which is all that {trainer['total_epochs']} epoch(s) of {per_epoch} steps hold",
            "Raise trainer.total_epochs too: verl would end without a checkpoint.",
        )
    return int(wanted or most)
