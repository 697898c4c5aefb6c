"""How many training steps a run will take, and whether its epochs hold as many as it was told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from faithful_rl.config import ConfigError
from faithful_rl.preflight.batches import local_updates
from faithful_rl.preflight.rows import data_files


def planned(config: Mapping[str, Any]) -> int:
    """Training steps of the run: as told, else all that its epochs hold."""
    told = config["trainer"]["total_training_steps"]
    return in_epochs(config) if told is None else int(told)


def in_epochs(config: Mapping[str, Any]) -> int:
    """Steps in `trainer.total_epochs`, as verl counts them: what is left of an epoch after whole batches is dropped."""
    return int(config["trainer"]["total_epochs"]) * _per_epoch(config)


def check(config: Mapping[str, Any]) -> None:
    """verl's loop ends with its epochs, and says nothing where that is before the last step that it was told. The files are whole.

    Raises:
        ConfigError: the epochs hold fewer steps than `trainer.total_training_steps`.
    """
    told, held = config["trainer"]["total_training_steps"], in_epochs(config)
    if told is not None and told > held:
        epochs = -(-int(told) // max(1, _per_epoch(config)))
        raise ConfigError(
            "trainer.total_training_steps",
            told,
            f"at most the {held} steps of trainer.total_epochs = {config['trainer']['total_epochs']}, after which verl ends without a word",
            f"Set trainer.total_epochs={epochs}, or train for fewer steps.",
        )


def warnings(config: Mapping[str, Any]) -> list[str]:
    """A learning rate that never gets there: no refusal, because a run of a few steps is how one tries a recipe."""
    updates = planned(config) * local_updates(config)
    warm_up = config["actor_rollout_ref"]["actor"]["optim"]["lr_warmup_steps"]
    if warm_up is None or warm_up <= updates:
        return []
    return [f"actor_rollout_ref.actor.optim.lr_warmup_steps is {warm_up}, the run has {updates} updates: its rate stays below optim.lr."]


def checkpoint_warnings(config: Mapping[str, Any]) -> list[str]:
    """A run that could not be continued after a failure."""
    if config["trainer"]["save_freq"] > 0:
        return []
    return [
        f"trainer.save_freq is {config['trainer']['save_freq']}: no checkpoints but the one that a stop signal asks for; a run that fails "
        "begins again."
    ]


def _per_epoch(config: Mapping[str, Any]) -> int:
    data = config["data"]
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in data_files(data["train_files"]))
    if data["train_max_samples"] > 0:
        rows = min(rows, data["train_max_samples"])
    return int(rows) // int(data["train_batch_size"])
