"""Reward columns of a batch, as verl's TransferQueue returns them, as NumPy arrays by name. Plain data in, plain data out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faithful_rl.rewards import designs
from faithful_rl.rewards.ranges import RESPONSE_TOKENS
from faithful_rl.rewards.suite import COLUMNS


@dataclass(frozen=True)
class RewardBatch:
    """The rows of a batch that enter statistics: one per finished rollout, in an order that no timing can change.

    Attributes:
        rows: positions in verl's batch, (B,) int64, sorted by (uid, rollout number).
        uids: prompt of each row, (B,) str; rows of one prompt are a group.
        columns: `COLUMNS` and `response_tokens` -> (B,) float64.
        scattered: for every position of verl's batch the index into `rows` whose advantage it takes, -1 for padding, (N,) int64.
    """

    rows: np.ndarray
    uids: np.ndarray
    columns: dict[str, np.ndarray]
    scattered: np.ndarray


def split_key(key: str) -> tuple[str, int, int]:
    """`{uid}_{rollout}_{sequence}` taken apart.

    Raises:
        ValueError: the key has another form; verl's naming has changed.
    """
    parts = key.rsplit("_", 2)
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise ValueError(f"trajectory key {key!r} is not <uid>_<rollout>_<sequence>: verl's key format has changed")
    return parts[0], int(parts[1]), int(parts[2])


def select_rows(keys: Sequence[str], tags: Sequence[Mapping[str, Any]]) -> tuple[list[int], np.ndarray]:
    """Positions of the last sequence of each real rollout sorted by (uid, rollout), and which of them every position belongs to.

    Padding rows (tag `is_padding`) belong to none (-1). Earlier sequences of a multi-turn rollout share the last one's advantage.
    """
    last: dict[tuple[str, int], tuple[int, int]] = {}
    owners: list[tuple[str, int] | None] = []
    for position, (key, tag) in enumerate(zip(keys, tags, strict=True)):
        if tag.get("is_padding", False):
            owners.append(None)
            continue
        uid, rollout, sequence = split_key(key)
        owners.append((uid, rollout))
        if (uid, rollout) not in last or last[uid, rollout][0] < sequence:
            last[uid, rollout] = (sequence, position)
    ordered = sorted(last)
    index = {owner: number for number, owner in enumerate(ordered)}
    scattered = np.array([-1 if owner is None else index[owner] for owner in owners], dtype=np.int64)
    return [last[owner][1] for owner in ordered], scattered


def read_batch(keys: Sequence[str], tags: Sequence[Mapping[str, Any]], extra_fields: Sequence[Mapping[str, Any]]) -> RewardBatch:
    """Collect the columns of all real rows.

    Raises:
        ValueError: a row lacks a column; names both. Values that are not finite are kept for the step guard to find.
    """
    rows, scattered = select_rows(keys, tags)
    columns = {name: np.empty(len(rows), dtype=np.float64) for name in COLUMNS}
    for number, row in enumerate(rows):
        info = extra_fields[row].get("reward_extra_info") or {}
        missing = [name for name in COLUMNS if name not in info]
        if missing:
            raise ValueError(
                f"rollout {keys[row]} has no reward column {missing[0]!r}: reward.reward_manager must be FaithfulRewardManager, "
                f"and its reward_extra_info held {sorted(info)[:5]}"
            )
        for name in COLUMNS:
            columns[name][number] = float(info[name])
    # Not part of the reward: the rollout server's own count, absent (NaN) only where verl's tags lack it.
    columns[RESPONSE_TOKENS] = np.array([float(tags[row].get("response_len", math.nan)) for row in rows], dtype=np.float64)
    uids = np.array([split_key(keys[row])[0] for row in rows], dtype=object)
    return RewardBatch(np.array(rows, dtype=np.int64), uids, columns, scattered)


def scatter(values: np.ndarray, batch: RewardBatch) -> np.ndarray:
    """Values per rollout (B,) to every position of verl's batch (N,); padding gets 0."""
    padded = np.append(np.asarray(values, dtype=np.float64), 0.0)
    return padded[batch.scattered]


def design_metrics(batch: RewardBatch, design: str) -> dict[str, float]:
    """`train/<part>`: the mean of each part that a reward design (a name of `designs.DESIGNS`) pays for; nothing for `paper`."""
    chosen = designs.get(design)
    parts = () if chosen is None or not len(batch.rows) else chosen.columns
    return {f"train/{name}": float(batch.columns[name].mean()) for name in parts}


def rollout_metrics(batch: RewardBatch, signals: Sequence[str]) -> dict[str, float]:
    """`train/<signal>` over scored rows, `train/inconsistency_rate` (1 - mean consistency over scored rows) and counts.

    A signal that was scored nowhere has no entry: there is no mean of nothing.
    """
    metrics: dict[str, float] = {}
    for signal in signals:
        scored = batch.columns[f"{signal}_scored"] > 0
        if scored.any():
            metrics[f"train/{signal}"] = float(batch.columns[signal][scored].mean())
    if "train/consistency" in metrics:
        metrics["train/inconsistency_rate"] = 1.0 - metrics["train/consistency"]
    if len(batch.rows):
        metrics["train/sentence_count"] = float(batch.columns["sentence_count"].mean())
        metrics["train/predicted_box_count"] = float(batch.columns["predicted_box_count"].mean())
    return metrics
