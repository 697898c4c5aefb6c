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
from faithful_rl.config.advantage import BASE_SIGNALS
from faithful_rl.config.constraints import JUDGED, REACTIVE, known_columns
from faithful_rl.config.run_size import RunSize, check_run_size, run_size_warnings
from faithful_rl.constraints import ConstrainedProblem
from faithful_rl.preflight import steps
from faithful_rl.preflight.batches import local_updates
from faithful_rl.preflight.rows import data_files
from faithful_rl.rewards.ranges import RESPONSE_TOKENS

OF_BOXES = ("spatial_grounding", "has_reference_boxes", "reference_box_count")  # no value, or 0, on rows without ground-truth boxes


def check(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """Refuse what cannot take effect. The data files exist and are whole (`rows.check`).

    Raises:
        ConfigError: a schedule or an update that the run is too short for; more rollouts asked for than a step has; a mask that holds for
            no row; a threshold on the response's length beyond what a response can have; a threshold for a source that the data does not
            hold; settings that the core refuses.
    """
    _check_core(typed)
    _check_boxes(config, typed)
    check_run_size(typed, _size(config))
    limit = config["data"]["max_response_length"]
    for name, constraint in typed.constraints.items():
        if (constraint.column or name) == RESPONSE_TOKENS and constraint.threshold > limit:
            raise ConfigError(
                f"faithful_rl.constraints.{name}.threshold", constraint.threshold,
                f"at most data.max_response_length = {limit} tokens, which no response exceeds", "Lower it.",
            )  # fmt: skip
        _check_sources(name, constraint, config)


def warnings(config: Mapping[str, Any], typed: FaithfulRLConfig) -> list[str]:
    """One line for each signal of the advantage that no row of the training data, or no judge, will give a value, and for each setting of a
    constraint that does nothing, or less than it says."""
    found = [*_without_effect(config, typed), *run_size_warnings(typed, _size(config))]
    weighed = BASE_SIGNALS.get(typed.advantage.kind, tuple(typed.advantage.weights))
    boxed = [name for name in weighed if name in OF_BOXES]
    if boxed and not any(_has_boxes(path) for path in _train_files(config)):
        found.append(
            f"no row of data.train_files has ground-truth boxes: {', '.join(boxed)} will have no part in the advantage "
            f"({typed.advantage.kind})."
        )
    judged = [name for name in typed.advantage.weights if name in JUDGED]
    if judged and not typed.judges.ask_masked:
        found.append(
            f"judges are asked about right answers only (faithful_rl.judges.ask_masked=false): {', '.join(judged)} will be weighed among "
            f"these alone ({typed.advantage.kind})."
        )
    return found


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


def _check_boxes(config: Mapping[str, Any], typed: FaithfulRLConfig) -> None:
    """A constraint whose mask or column comes from ground-truth boxes needs some."""
    wanting = [name for name, one in typed.constraints.items() if {one.mask, one.column or name} & set(OF_BOXES)]
    if not wanting or any(_has_boxes(path) for path in _train_files(config)):
        return
    one = typed.constraints[wanting[0]]
    known = [name for name in known_columns(typed.rewards.design) if name not in OF_BOXES]
    raise ConfigError(
        f"faithful_rl.constraints.{wanting[0]}",
        f"a constraint on {one.column or wanting[0]} with the mask {one.mask}, which hold for no row of data.train_files: none has boxes",
        "columns that this data gives a value: " + ", ".join(known),
        f"Add ground-truth boxes (extra_info.gt_boxes), or leave it out: ~faithful_rl.constraints.{wanting[0]}.",
    )


def _size(config: Mapping[str, Any]) -> RunSize:
    """An asynchronous step makes several dual steps, each on its share of the step's rollouts."""
    updates, rollouts = local_updates(config), config["data"]["train_batch_size"] * config["actor_rollout_ref"]["rollout"]["n"]
    return RunSize(steps.planned(config), rollouts // updates, updates)


def _without_effect(config: Mapping[str, Any], typed: FaithfulRLConfig) -> Iterator[str]:
    """Thresholds that every value meets, thresholds that move although nothing answers them, and multipliers that stay at 0."""
    columns, limit = known_columns(typed.rewards.design), float(config["data"]["max_response_length"])
    for name, constraint in typed.constraints.items():
        column, schedule, kind = constraint.column or name, constraint.threshold_schedule, constraint.multiplier.kind
        if kind == "fixed" and constraint.multiplier.start == 0.0:
            yield f"faithful_rl.constraints.{name}.multiplier is fixed at 0: the constraint has no part in the advantage."
        if kind not in REACTIVE:
            if schedule.kind != "constant":
                yield (
                    f"faithful_rl.constraints.{name}.threshold_schedule moves the threshold that is reported and nothing else: a "
                    f"multiplier of kind {kind} answers no violation."
                )
            continue
        if schedule.kind == "relative":
            continue  # depends on the rate at the start
        low, high = columns[column][0], limit if column == RESPONSE_TOKENS else columns[column][1]
        demands = [constraint.threshold, *constraint.by_source.values(), *([] if schedule.start is None else [schedule.start])]
        if constraint.direction == "at_least" and max(demands) <= low:
            yield f"faithful_rl.constraints.{name}: {column} is always at least {low:g}, so at_least {max(demands):g} never binds."
        if constraint.direction == "at_most" and min(demands) >= high:
            yield f"faithful_rl.constraints.{name}: {column} is always at most {high:g}, so at_most {min(demands):g} never binds."


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
