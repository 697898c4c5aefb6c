"""The figures of one benchmark from its rows: metrics with 95% intervals, the four cells, task types, and the benchmark's conventions.

Intervals are those of `faithful_rl.heldout_statistics`: percentile bootstraps by scipy over questions, exact ones where every value is the
same. Trials that share a group (an MMVP pair, the orders of one SAT row) are resampled together, because they are not independent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from faithful_rl.evaluation.rows import Row
from faithful_rl.heldout_statistics import CONFIDENCE, NOTHING, RESAMPLES, SEED, Array, Estimate, Quantity, estimate

HALF = 0.5  # a consistency from here on counts as consistent; most judges give 0 or 1
SHOWN = 10  # ids that a note lists
WIDE = 0.05  # half an interval's width for accuracy above which a set is called small

CELLS = ("correct_consistent", "correct_inconsistent", "wrong_consistent", "wrong_inconsistent")


def _always(row: Row) -> float:
    return 1.0


def _scored(signal: str) -> Callable[[Row], float]:
    return lambda row: float(bool(row[f"{signal}_scored"]))


def _known(column: str) -> Callable[[Row], float]:
    return lambda row: float(row[column] is not None)


METRICS: tuple[Quantity, ...] = (
    Quantity("accuracy", "accuracy", 1, lambda row: float(row["correct"]), _always),
    Quantity("inconsistency_rate", "IR", -1, lambda row: 1.0 - row["consistent"], _scored("consistent")),
    Quantity("semantic_grounding", "R_S", 1, lambda row: row["semantic_grounding"], _scored("semantic_grounding")),
    Quantity("spatial_grounding", "R_G", 1, lambda row: row["spatial_grounding"], _scored("spatial_grounding")),
    Quantity("format_rate", "format", 1, lambda row: float(row["format"]), _known("format")),
    Quantity("unparsed_rate", "unparsed", -1, lambda row: float(not row["parsed"]), _always),
    Quantity("truncated_rate", "truncated", -1, lambda row: float(row["truncated"]), _known("truncated")),
    Quantity("response_tokens", "tokens", 0, lambda row: float(row["response_tokens"]), _known("response_tokens"), percent=False),
    Quantity(
        "right_for_a_false_reason",
        "false reason",
        -1,
        lambda row: float(row["correct_sentence_count"] < row["judged_sentence_count"]),
        lambda row: float(bool(row["correct"]) and row["judged_sentence_count"] > 0),
    ),
)
BY_NAME = {quantity.name: quantity for quantity in METRICS}


def plain(found: Estimate) -> dict[str, Any]:
    """`{"value", "low", "high", "n"}` as JSON knows it: what was not measured is null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {"value": number(found.value), "low": number(found.low), "high": number(found.high), "n": found.count}


def figure(rows: Sequence[Row], quantity: Quantity) -> Estimate:
    """One metric of generated rows, its interval over groups; `count` are the rows that count."""
    if not rows:
        return NOTHING
    values, weights = quantity.arrays(rows)
    counted = int((weights > 0).sum())
    pooled, pooled_weights = by_group(values, weights, [str(row["group"]) for row in rows])
    found = estimate(pooled, pooled_weights)
    return Estimate(found.value, found.low, found.high, counted)


def by_group(values: Array, weights: Array, groups: Sequence[str]) -> tuple[Array, Array]:
    """(mean of each group, weight of each group); their weighted mean is that of the rows."""
    names, positions = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) == len(values):
        return values, weights
    total: Array = np.bincount(positions, weights=weights, minlength=len(names)).astype(np.float64)
    summed: Array = np.bincount(positions, weights=values * weights, minlength=len(names)).astype(np.float64)
    return np.divide(summed, total, out=np.zeros_like(summed), where=total > 0), total


def metrics(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Every metric by name over the rows that have a response."""
    generated = [row for row in rows if row["generated"]]
    return {quantity.name: plain(figure(generated, quantity)) for quantity in METRICS}


def cells(rows: Sequence[Row]) -> dict[str, int]:
    """Responses by answer and consistency; `unscored` are those without a verdict on consistency."""
    counts = Counter(_cell(row) for row in rows if row["generated"])
    return {name: counts.get(name, 0) for name in (*CELLS, "unscored")}


def _cell(row: Row) -> str:
    if not row["consistent_scored"]:
        return "unscored"
    return f"{'correct' if row['correct'] else 'wrong'}_{'consistent' if row['consistent'] >= HALF else 'inconsistent'}"


def by_task_type(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """`metrics` for each task type, in the order of their names."""
    types = sorted({str(row["task_type"]) for row in rows})
    return {name: metrics([row for row in rows if str(row["task_type"]) == name]) for name in types if name}


def conventions(rows: Sequence[Row], kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracy as each convention of the benchmark counts it: `per_question` always, beside it the `kinds` that it has.

    - `per_pair`, `all_orders`: a group is right when all of its trials are; groups that lack a trial's response are left out.
    - `circular_mean`: the mean over all trials, which is `per_question` under the name that SAT's authors use.
    - `mean_of_strata`: the mean of the strata's accuracies, each with equal weight (CV-Bench 2D: ADE20K and COCO), beside each of them.
    """
    generated = [row for row in rows if row["generated"]]
    plain_accuracy = plain(figure(generated, BY_NAME["accuracy"]))
    result = {"per_question": plain_accuracy}
    for kind in kinds:
        if kind in ("per_pair", "all_orders"):
            result[kind] = plain(all_right(rows))
        elif kind == "circular_mean":
            result[kind] = plain_accuracy
        elif kind == "mean_of_strata":
            strata = _strata(generated)
            result |= {f"stratum {name}": plain(figure(part, BY_NAME["accuracy"])) for name, part in strata.items()}
            result[kind] = plain(mean_of_strata(list(strata.values())))
        else:
            raise ValueError(f"unknown convention {kind!r}")
    return result


def all_right(rows: Sequence[Row]) -> Estimate:
    """Share of groups whose every trial is right, over the groups whose every trial has a response."""
    right = groups_right(rows)
    values = np.array([float(value) for value in right.values()])
    return estimate(values, np.ones_like(values)) if len(values) else NOTHING


def groups_right(rows: Sequence[Row]) -> dict[str, bool]:
    """Group -> whether all of its trials are right; a group with a trial that has no response is not there."""
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(str(row["group"]), []).append(row)
    return {name: all(row["correct"] for row in part) for name, part in members.items() if all(row["generated"] for row in part)}


def _strata(rows: Sequence[Row]) -> dict[str, list[Row]]:
    names = sorted({str(row["stratum"]) for row in rows if row["stratum"]})
    return {name: [row for row in rows if row["stratum"] == name] for name in names}


def mean_of_strata(strata: Sequence[Sequence[Row]]) -> Estimate:
    """Mean of the strata's accuracies with its bootstrap interval; each stratum is resampled on its own."""
    samples = [np.array([float(row["correct"]) for row in rows]) for rows in strata if rows]
    if not samples:
        return NOTHING
    value = float(np.mean([sample.mean() for sample in samples]))
    count = sum(len(sample) for sample in samples)
    if all(np.ptp(sample) == 0 for sample in samples) or any(len(sample) < 2 for sample in samples):
        return Estimate(value, math.nan, math.nan, count)  # no spread to resample inside the strata

    def statistic(*parts: Array, axis: int = -1) -> Any:
        return np.mean([np.mean(part, axis=axis) for part in parts], axis=0)

    result: Any = stats.bootstrap(
        samples, statistic, vectorized=True, n_resamples=RESAMPLES, batch=250, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return Estimate(value, float(result.confidence_interval.low), float(result.confidence_interval.high), count)


@dataclass(frozen=True, slots=True)
class Coverage:
    """`questions` that the benchmark has, `generated` responses, and `scored`: responses on which every asked judge gave its word (a
    reasoning without anything to judge counts). `share` is scored / questions: below 1 the evaluation is a partial one."""

    questions: int
    generated: int
    scored: int

    @property
    def share(self) -> float:
        return self.scored / self.questions if self.questions else 0.0


FAILED_REASONS = frozenset({"judge_error", "judge_timeout", "judge_unavailable"})


def coverage(rows: Sequence[Row], questions: int) -> Coverage:
    """How much of a benchmark of so many questions stands in its rows."""
    generated = [row for row in rows if row["generated"]]
    judged = [row for row in generated if not {row["consistent_reason"], row["semantic_grounding_reason"]} & FAILED_REASONS]
    return Coverage(questions, len(generated), len(judged))


def notes(rows: Sequence[Row], found: Coverage) -> list[str]:
    """What a reader must know before believing the figures: failures by kind, and a set that is too small."""
    lines = []
    failed: dict[str, list[str]] = {}
    for row in rows:
        if not row["generated"]:
            failed.setdefault(str(row["failure"]).split(":")[0], []).append(str(row["uid"]))
    for kind, uids in sorted(failed.items()):
        lines.append(
            f"{len(uids)} question(s) without a response ({kind}): {', '.join(uids[:SHOWN])}{', ...' if len(uids) > SHOWN else ''}"
        )
    for signal, name in (("consistent", "consistency"), ("semantic_grounding", "semantic grounding")):
        reasons = Counter(row[f"{signal}_reason"] for row in rows if row["generated"])
        lines += [
            f"{reasons[reason]} response(s) without a verdict on {name}: {reason}" for reason in sorted(FAILED_REASONS & set(reasons))
        ]
    accuracy = figure([row for row in rows if row["generated"]], BY_NAME["accuracy"])
    half = (accuracy.high - accuracy.low) / 2
    if math.isfinite(half) and half > WIDE:
        lines.append(
            f"small set: accuracy is known to within {100 * half:.1f} points only ({found.generated} responses); "
            "see `compare` for the smallest difference that it can show"
        )
    return lines


def benchmark_summary(rows: Sequence[Row], questions: int, kinds: Sequence[str], remarks: Sequence[str] = ()) -> dict[str, Any]:
    """The entry of one benchmark in `evaluation.json`."""
    found = coverage(rows, questions)
    return {
        **asdict(found),
        "coverage": found.share,
        "metrics": metrics(rows),
        "cells": cells(rows),
        "by_task_type": by_task_type(rows),
        "conventions": conventions(rows, kinds),
        "notes": [*remarks, *notes(rows, found)],
    }


def combined_mean(parts: Mapping[str, Mapping[str, Any]], names: Sequence[str], convention: Sequence[str]) -> dict[str, Any] | None:
    """Mean of conventions of several benchmarks (CV-Bench: of 2D's mean of strata and 3D's accuracy); None unless all are there."""
    values = [parts[name]["conventions"].get(kind, {}).get("value") for name, kind in zip(names, convention, strict=True) if name in parts]
    if len(values) != len(names) or any(value is None for value in values):
        return None
    questions = sum(parts[name]["metrics"]["accuracy"]["n"] for name in names)
    return {"value": float(np.mean(values)), "low": None, "high": None, "n": questions}
