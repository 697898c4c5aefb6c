"""What must come back besides weights: multipliers, random states, the run's identity. And which checkpoint may be used at all.

A checkpoint folder `global_step_N` is filled in this order: `faithful_rl.json` (ours), verl's files, verl's
`latest_checkpointed_iteration.txt`, and last `complete.json` (ours: every file with its size). A folder without a `complete.json`
that agrees with the disk is never resumed from. verl's marker is not consulted: it is written in place, so a kill at the wrong
moment leaves it empty.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faithful_rl.config import ConfigError, FaithfulRLConfig

logger = logging.getLogger(__name__)

VERSION = 2
STATE_FILE = "faithful_rl.json"
COMPLETE_FILE = "complete.json"
_FOLDER = re.compile(r"global_step_(\d+)")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used, and why."""


def write_json_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` in one step, on the disk before this returns: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def identity(config: FaithfulRLConfig, training: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must share for one to continue the other's checkpoint, as flat JSON-able facts by key."""
    facts: dict[str, Any] = {
        "faithful_rl.recipe": config.recipe,
        "faithful_rl.method": config.method,
        "faithful_rl.seed": config.seed,
        "faithful_rl.coverage_floor": config.coverage_floor,
        **dict(_leaves("faithful_rl.advantage", asdict(config.advantage))),
        **training,
    }
    if config.rewards.design != "paper":  # absent from the checkpoints of all runs without one
        facts["faithful_rl.rewards.design"] = config.rewards.design
    for name, constraint in config.constraints.items():
        facts.update(_leaves(f"faithful_rl.constraints.{name}", asdict(constraint)))
    return facts


def _leaves(key: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{key}.{name}", value)
        else:
            yield f"{key}.{name}", value


def check_identity(saved: Mapping[str, Any], mine: Mapping[str, Any], folder: Path) -> None:
    """Refuse another recipe's checkpoint.

    Raises:
        CheckpointError: naming every key that differs, with both values.
    """
    absent = object()
    differing = [
        f"{key}: {saved.get(key, 'absent')!r} in the checkpoint, {mine.get(key, 'absent')!r} now"
        for key in sorted(set(saved) | set(mine))
        if saved.get(key, absent) != mine.get(key, absent)
    ]
    if differing:
        raise CheckpointError(
            f"{folder} belongs to another run: " + "; ".join(differing) + ". Resume with the same recipe and overrides, or choose an empty "
            "faithful_rl.output_dir"
        )


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `faithful_rl.json` into `folder`, before verl writes anything."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COMPLETE_FILE).unlink(missing_ok=True)  # a folder that is written again is incomplete until the end
    write_json_atomically(folder / STATE_FILE, {"version": VERSION, **state})


def read_state(folder: Path) -> dict[str, Any]:
    """Our state in a checkpoint.

    Raises:
        CheckpointError: the file is missing, unreadable or of another version.
    """
    path = folder / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {STATE_FILE}: its multipliers are lost, so it cannot be resumed") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): it cannot be resumed") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        found = state.get("version") if isinstance(state, dict) else None
        raise CheckpointError(
            f"{path} has version {found!r}, this code reads {VERSION}: continue the run with the version of faithful_rl that began it, or "
            "choose an empty faithful_rl.output_dir"
        )
    return state


def _files(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != COMPLETE_FILE and not path.name.endswith(".tmp")
    }


def mark_complete(folder: Path, step: int) -> None:
    """Say that everything is on disk, with the size of every file."""
    write_json_atomically(folder / COMPLETE_FILE, {"version": VERSION, "step": step, "files": _files(folder)})


def why_incomplete(folder: Path) -> str | None:
    """None for a complete checkpoint, else what is wrong with it."""
    try:
        marker = json.loads((folder / COMPLETE_FILE).read_text(encoding="utf-8"))
        expected = dict(marker["files"])
    except FileNotFoundError:
        return f"{COMPLETE_FILE} is missing: the run ended while it was being written"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return f"{COMPLETE_FILE} is unreadable"
    found = _files(folder)
    for name, size in expected.items():
        if found.get(name) != size:
            return f"{name} has {found.get(name, 'no')} bytes, {size} were written"
    return None


def _folders(root: Path) -> list[tuple[int, Path]]:
    if not root.is_dir():
        return []
    numbered = [(int(match.group(1)), path) for path in root.iterdir() if path.is_dir() and (match := _FOLDER.fullmatch(path.name))]
    return sorted(numbered, reverse=True)


def find_resumable(root: Path) -> Path | None:
    """The newest complete checkpoint below `root`; newer incomplete ones are named in the log and passed over."""
    for _, folder in _folders(root):
        problem = why_incomplete(folder)
        if problem is None:
            return folder
        logger.warning("%s is passed over: %s", folder, problem)
    return None


def prune(root: Path, keep: int | None) -> list[Path]:
    """Remove complete checkpoints beyond the newest `keep`, and incomplete ones older than those; returns what was removed."""
    if not keep or keep < 1:
        return []
    removed, kept = [], 0
    for _, folder in _folders(root):
        if kept < keep:
            kept += why_incomplete(folder) is None
            continue
        (folder / COMPLETE_FILE).unlink(missing_ok=True)  # never leave a half-removed folder that claims to be whole
        shutil.rmtree(folder)
        removed.append(folder)
    return removed


def read_usable(folder: Path, mine: Mapping[str, Any]) -> dict[str, Any]:
    """Our state of a checkpoint that is whole and belongs to this run.

    Raises:
        CheckpointError: it is incomplete, unreadable, or another recipe's.
    """
    problem = why_incomplete(folder)
    if problem is not None:
        raise CheckpointError(f"{folder} cannot be resumed: {problem}")
    state = read_state(folder)
    check_identity(state.get("identity", {}), mine, folder)
    return state


# Settings of verl's tree that decide whether another run's optimizer state and data order make sense here.
TRAINING_KEYS = (
    "data.train_batch_size",
    "data.seed",
    "data.shuffle",
    "actor_rollout_ref.model.path",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.seed",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.optim.lr",
    "trainer.v1.trainer_mode",
    "trainer.n_gpus_per_node",
    "trainer.nnodes",
)


def training_facts(config: Any) -> dict[str, Any]:
    """`TRAINING_KEYS` of an OmegaConf tree; absent keys are None."""
    facts: dict[str, Any] = {}
    for key in TRAINING_KEYS:
        node = config
        for part in key.split("."):
            node = node.get(part) if node is not None else None
        facts[key] = node
    return facts


def refuse_unsupported(config: Any) -> None:
    """Settings under which what this package promises would not hold.

    Args:
        config: mappings or an OmegaConf tree with `algorithm` and `actor_rollout_ref.actor`.

    Raises:
        ConfigError: naming the key, what was found and what to set instead.
    """
    algorithm, actor = config["algorithm"], config["actor_rollout_ref"]["actor"]
    if algorithm["adv_estimator"] != "grpo":
        raise ConfigError(
            "algorithm.adv_estimator",
            repr(algorithm["adv_estimator"]),
            "grpo: the constrained advantage takes its place, and needs verl's critic-free path",
            "Leave it out; advantages are chosen by faithful_rl.advantage.kind.",
        )
    if algorithm["use_kl_in_reward"]:
        raise ConfigError(
            "algorithm.use_kl_in_reward",
            True,
            "false: the penalty would enter the advantages twice",
            "Use actor_rollout_ref.actor.use_kl_loss instead.",
        )
    if (actor.get("checkpoint") or {}).get("async_save", False):
        raise ConfigError(
            "actor_rollout_ref.actor.checkpoint.async_save", True, "false: nobody would know when a checkpoint is whole", "Leave it out."
        )
