"""Constraints, weights and schedules against the run and its data: what would never take effect is refused, or said, before the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from faithful_rl.advantage import AdvantageSettings
from faithful_rl.config import ConfigError, ConstraintConfig, FaithfulRLConfig
from faithful_rl.constraints import ConstrainedProblem
from faithful_rl.preflight.rows import data_files
from faithful_rl.rewards.ranges import RESPONSE_TOKENS


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Refuse what cannot take effect. The data files exist and are whole (`rows.check`).

    Raises:
        ConfigError: a schedule, a first step or a measurement that the run is too short for; a threshold on the response's length beyond
            what a response can have; a threshold for a source that the data does not hold; settings that the core refuses.
    """
    _check_core(typed)
    steps = planned_steps(config)
    for key, needed in _needed_steps(typed):
        if needed > steps:
            raise ConfigError(
                f"faithful_rl.{key}", f"something that ends at step {needed}", f"at most the run's {steps} steps",
                "Shorten it, or raise trainer.total_training_steps.",
            )  # fmt: skip
    limit = config["data"]["max_response_length"]
    for name, constraint in typed.constraints.items():
        if (constraint.column or name) == RESPONSE_TOKENS and constraint.threshold > limit:
            raise ConfigError(
                f"faithful_rl.constraints.{name}.threshold", constraint.threshold,
                f"at most data.max_response_length = {limit} tokens, which no response exceeds", "Lower it.",
            )  # fmt: skip
        _check_sources(name, constraint, config)


def warnings(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    """One line for each constraint whose mask holds for no row of the training data."""
    masked = [name for name, constraint in typed.constraints.items() if constraint.mask == "has_reference_boxes"]
    if not masked or any(_has_boxes(path) for path in _train_files(config)):
        return []
    return [
        f"constraint {name}: its mask has_reference_boxes holds for no row of data.train_files, so it will constrain nothing. "
        "Add ground-truth boxes (extra_info.gt_boxes), or leave the constraint out."
        for name in masked
    ]


def planned_steps(config: Mapping[str, Any]) -> int:
    """Training steps of the run: as told, else epochs over the rows of the training files as verl counts them."""
    told = config["trainer"]["total_training_steps"]
    if told is not None:
        return int(told)
    data = config["data"]
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in _train_files(config))
    if data["train_max_samples"] > 0:
        rows = min(rows, data["train_max_samples"])
    steps: int = int(config["trainer"]["total_epochs"]) * (int(rows) // int(data["train_batch_size"]))
    return steps


def _check_core(typed: FaithfulRLConfig) -> None:
    """The core has the last word on its own settings."""
    try:
        AdvantageSettings.from_settings(asdict(typed.advantage))
        ConstrainedProblem.from_settings(
            {name: asdict(constraint) for name, constraint in typed.constraints.items()}, typed.coverage_floor, typed.constraint_patience
        )
    except ValueError as error:
        raise ConfigError(
            "faithful_rl.constraints or faithful_rl.advantage", f"a problem ({error})", "settings that fit together", ""
        ) from error


def _needed_steps(typed: FaithfulRLConfig) -> Iterator[tuple[str, int]]:
    """(key, step that the run must reach for it to have its full effect)."""
    for name, weight in typed.advantage.weights.items():
        yield f"advantage.weights.{name}", weight.begin + weight.steps
    for name, constraint in typed.constraints.items():
        key, threshold, multiplier = f"constraints.{name}", constraint.threshold_schedule, constraint.multiplier
        yield f"{key}.threshold_schedule", threshold.begin + threshold.steps + threshold.measure
        yield f"{key}.multiplier.first_step", multiplier.first_step
        yield f"{key}.multiplier.update_every", multiplier.update_every
        if multiplier.schedule is not None:
            yield f"{key}.multiplier.schedule", multiplier.schedule.begin + multiplier.schedule.steps


def _check_sources(name: str, constraint: ConstraintConfig, config: Mapping[str, Any]) -> None:
    if not constraint.by_source:
        return
    known: set[str] = set()
    for path in _train_files(config):
        known.update(pc.unique(pq.read_table(path, columns=["data_source"])["data_source"]).to_pylist())
    for source in constraint.by_source:
        if source not in known:
            raise ConfigError(
                f"faithful_rl.constraints.{name}.by_source", repr(source), "one of the data's sources: " + ", ".join(sorted(known)),
                "Correct the name, or leave it out.",
            )  # fmt: skip


def _has_boxes(path: Path) -> bool:
    try:
        boxes = pq.read_table(path, columns=["extra_info.gt_boxes"])["gt_boxes"]
    except (KeyError, pa.ArrowInvalid):
        return False  # the column itself is absent
    return bool(pc.any(pc.greater(pc.fill_null(pc.list_value_length(boxes), 0), 0)).as_py())


def _train_files(config: Mapping[str, Any]) -> list[Path]:
    return data_files(config["data"]["train_files"])
