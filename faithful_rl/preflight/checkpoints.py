"""The checkpoint that a run would continue, looked at before any worker starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig
from faithful_rl.verl_plugin import checkpoint  # plain files; imports neither verl nor torch


def check_settings(config: Mapping[str, Any]) -> None:
    """Refuse settings of which no checkpoint could be resumed as promised.

    Raises:
        ConfigError: naming the key.
    """
    checkpoint.refuse_unsupported(config)


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Refuse a checkpoint of another recipe, of another number of workers, or one that is not whole.

    Raises:
        ConfigError: naming the key, or the folder and every key that differs.
    """
    trainer = config["trainer"]
    if trainer["resume_mode"] == "auto":
        folder = checkpoint.find_resumable(Path(trainer["default_local_dir"]))
        key = "trainer.default_local_dir"
    elif trainer["resume_mode"] == "resume_path":
        key, named = "trainer.resume_from_path", trainer["resume_from_path"]
        folder = Path(str(named)) if named else None
        if folder is None or not folder.is_dir():
            raise ConfigError(
                key, named or "nothing", "the folder of a checkpoint (.../global_step_N)", "Correct the path, or leave it out."
            )
    else:
        return
    if folder is None:
        return
    try:
        checkpoint.read_usable(folder, checkpoint.identity(typed, checkpoint.training_facts(config)))
    except checkpoint.CheckpointError as error:
        raise ConfigError(
            key,
            f"a checkpoint that this run cannot continue: {error}",
            "one of the same recipe, settings and number of workers",
            "Choose another faithful_rl.output_dir, or repeat the settings of the run that wrote it.",
        ) from error
