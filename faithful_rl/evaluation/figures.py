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

from faithful_rl.evaluation.rows import CANNOT_JUDGE, DOES_NOT_APPLY, FAILED, Row
from faithful_rl.heldout_statistics import CONFIDENCE, NOTHING, RESAMPLES, SEED, Array, Estimate, Quantity, estimate

HALF = 0.5  # a consistency from here on counts as consistent; most judges give 0 or 1
SHOWN = 10  # ids that a note lists
WIDE = 0.05  # half an interval's width for accuracy above which a set is called small

CELLS = ("correct_consistent", "correct_inconsistent", "wrong_consistent", "wrong_inconsistent")


def _scored(signal: str) -> Callable[[Row], float]:
    return lambda row: float(bool(row[f"{signal}_scored"]))


def _known(column: str) -> Callable[[Row], float]:
    return lambda row: float(row[column] is not None)


def _applies(signal: str) -> Callable[[Row], bool]:
    """Whether a response has what the signal is about: reasoning with something to judge, reference boxes."""
    return lambda row: row[f"{signal}_reason"] not in DOES_NOT_APPLY


METRICS: tuple[Quantity, ...] = (
    Quantity("accuracy", "accuracy", 1, lambda row: float(row["correct"]), _known("correct")),
    Quantity("inconsistency_rate", "IR", -1, lambda row: 1.0 - row["consistent"], _scored("consistent")),
    Quantity("semantic_grounding", "R_S", 1, lambda row: row["semantic_grounding"], _scored("semantic_grounding")),
    Quantity("spatial_grounding", "R_G", 1, lambda row: row["spatial_grounding"], _scored("spatial_grounding")),
    Quantity("format_rate", "format", 1, lambda row: float(row["format"]), _known("format")),
    Quantity("unparsed_rate", "unparsed", -1, lambda row: float(not row["parsed"]), _known("parsed")),
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

# The responses that a figure is about, whether or not they were measured; a figure that is not named is about all of them.
APPLIES: Mapping[str, Callable[[Row], bool]] = {
    "inconsistency_rate": _applies("consistent"),
    "semantic_grounding": _applies("semantic_grounding"),
    "spatial_grounding": _applies("spatial_grounding"),
    "right_for_a_false_reason": lambda row: bool(row["correct"]) and _applies("semantic_grounding")(row),
}
SIGNALS = ("consistent", "semantic_grounding", "spatial_grounding")  # as the columns of rows are called


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
    """Every metric by name over the rows that have a response: `n` of them are measured, of the `of` rows that it is about; one without a
    response may be about anything."""
    generated = [row for row in rows if row["generated"]]
    found = {quantity.name: plain(figure(generated, quantity)) for quantity in METRICS}
    return {name: {**one, "of": sum(map(APPLIES.get(name, bool), rows))} for name, one in found.items()}


def cells(rows: Sequence[Row]) -> dict[str, int]:
    """Responses by answer and consistency; `unscored` are those of which one of the two is not known."""
    counts = Counter(_cell(row) for row in rows if row["generated"])
    return {name: counts.get(name, 0) for name in (*CELLS, "unscored")}


def _cell(row: Row) -> str:
    if not row["consistent_scored"] or row["correct"] is None:
        return "unscored"
    return f"{'correct' if row['correct'] else 'wrong'}_{'consistent' if row['consistent'] >= HALF else 'inconsistent'}"


def by_task_type(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """`metrics` for each task type, in the order of their names."""
    types = sorted({str(row["task_type"]) for row in rows})
    return {name: metrics([row for row in rows if str(row["task_type"]) == name]) for name in types if name}


def conventions(rows: Sequence[Row], kinds: Sequence[str], questions: int | None = None) -> dict[str, dict[str, Any]]:
    """Accuracy as each convention of the benchmark counts it: `per_question` always, beside it the `kinds` that it has.

    - `per_pair`, `all_orders`: a group is right when all of its trials are; groups of which a trial is not known are left out.
    - `circular_mean`: the mean over all trials, which is `per_question` under the name that SAT's authors use.
    - `mean_of_strata`: the mean of the strata's accuracies, each with equal weight (CV-Bench 2D: ADE20K and COCO), beside each of them;
      not known where a stratum is not.

    Args:
        questions: that the benchmark has; None: as many as rows.

    Returns:
        by convention what `plain` gives, with `of` and `unit`: `n` of so many questions, trials, pairs or rows of the source.
    """
    total = len(rows) if questions is None else questions
    known = [row for row in rows if row["generated"] and row["correct"] is not None]
    accuracy = plain(figure(known, BY_NAME["accuracy"]))
    result = {"per_question": {**accuracy, "of": total, "unit": "questions"}}
    for kind in kinds:
        if kind == "per_pair":
            result[kind] = {**plain(all_right(rows, 2)), "of": -(-total // 2), "unit": "pairs"}
        elif kind == "all_orders":  # a row has as many trials as options: those that were not asked are taken to be like the others
            groups = len({str(row["group"]) for row in rows})
            result[kind] = {**plain(all_right(rows)), "of": round(total * groups / max(len(rows), 1)), "unit": "rows"}
        elif kind == "circular_mean":
            result[kind] = {**accuracy, "of": total, "unit": "trials"}
        elif kind == "mean_of_strata":
            asked = Counter(str(row["stratum"]) for row in rows if row["stratum"])
            strata = {name: [row for row in known if row["stratum"] == name] for name in sorted(asked)}
            for name, part in strata.items():
                result[f"stratum {name}"] = {**plain(figure(part, BY_NAME["accuracy"])), "of": asked[name], "unit": "questions"}
            result[kind] = {**plain(mean_of_strata(list(strata.values()))), "of": total, "unit": "questions"}
        else:
            raise ValueError(f"unknown convention {kind!r}")
    return result


def all_right(rows: Sequence[Row], size: int = 1) -> Estimate:
    """Share of groups whose every trial is right, over the groups of `size` trials or more whose every trial is known."""
    right = groups_right(rows, size)
    values = np.array([float(value) for value in right.values()])
    return estimate(values, np.ones_like(values)) if len(values) else NOTHING


def groups_right(rows: Sequence[Row], size: int = 1) -> dict[str, bool]:
    """Group -> whether all of its trials are right; a group with a trial that has no response, whose answer nobody could read, or that is
    not among the rows (fewer than `size`) is not there."""
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(str(row["group"]), []).append(row)
    return {
        name: all(row["correct"] for row in part)
        for name, part in members.items()
        if len(part) >= size and all(row["generated"] and row["correct"] is not None for row in part)
    }


def mean_of_strata(strata: Sequence[Sequence[Row]]) -> Estimate:
    """Mean of the strata's accuracies with its bootstrap interval; each stratum is resampled on its own. Nothing where one is empty: the
    mean of the others is another figure."""
    samples = [np.array([float(row["correct"]) for row in rows]) for rows in strata]
    if not samples or not all(map(len, samples)):
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
    """`questions` that the benchmark has, `generated` responses, and `scored`: responses whose answer is known and on which every asked
    judge gave its word (a reasoning without anything to judge counts). `share` is scored / questions: below 1 the evaluation is a partial
    one."""

    questions: int
    generated: int
    scored: int

    @property
    def share(self) -> float:
        return self.scored / self.questions if self.questions else 0.0


def coverage(rows: Sequence[Row], questions: int) -> Coverage:
    """How much of a benchmark of so many questions stands in its rows.

    A response that the chosen judge cannot judge is not scored where others of the benchmark are: the figure is then of a part. Where it
    can judge none of them there is no figure, as without a judge.
    """
    generated = [row for row in rows if row["generated"]]
    measured = [signal for signal in SIGNALS if any(row[f"{signal}_scored"] for row in generated)]

    def scored(row: Row) -> bool:
        failed = {row.get("answer_reason"), *(row[f"{signal}_reason"] for signal in SIGNALS)} & FAILED
        return not failed and not any(row[f"{signal}_reason"] == CANNOT_JUDGE for signal in measured)

    return Coverage(questions, len(generated), sum(map(scored, generated)))


def notes(rows: Sequence[Row], found: Coverage) -> list[str]:
    """What a reader must know before believing the figures: failures by kind, and a set that is too small."""
    lines = []
    failed: dict[str, list[str]] = {}
    unread: dict[str, list[str]] = {}
    for row in rows:
        if not row["generated"]:
            failed.setdefault(str(row["failure"]).split(":")[0], []).append(str(row["uid"]))
        elif row.get("answer_reason") in FAILED:
            unread.setdefault(str(row["answer_reason"]), []).append(str(row["uid"]))
    lines += [f"{len(uids)} question(s) without a response ({kind}): {listed(uids)}" for kind, uids in sorted(failed.items())]
    why = "neither right nor wrong, because the rule reads none and the extracting model failed"
    lines += [f"{len(uids)} answer(s) {why} ({reason}): {listed(uids)}" for reason, uids in sorted(unread.items())]
    for signal, name in (("consistent", "consistency"), ("semantic_grounding", "semantic grounding")):
        judged = [row for row in rows if row["generated"] and not (signal == "consistent" and row.get("answer_reason") in FAILED)]
        reasons = Counter(row[f"{signal}_reason"] for row in judged)
        lines += [f"{reasons[reason]} response(s) without a verdict on {name}: {reason}" for reason in sorted(FAILED & set(reasons))]
    accuracy = figure([row for row in rows if row["generated"]], BY_NAME["accuracy"])
    half = (accuracy.high - accuracy.low) / 2
    if math.isfinite(half) and half > WIDE:
        lines.append(
            f"small set: accuracy is known to within {100 * half:.1f} points only ({accuracy.count} responses); "
            "see `compare` for the smallest difference that it can show"
        )
    return lines


def listed(ids: Sequence[str]) -> str:
    """The first ten ids, and whether there are more."""
    return f"{', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}"


def benchmark_summary(rows: Sequence[Row], questions: int, kinds: Sequence[str], remarks: Sequence[str] = ()) -> dict[str, Any]:
    """The entry of one benchmark in `evaluation.json`. `reasons` counts, for each signal, the responses without a value by why."""
    found = coverage(rows, questions)
    return {
        **asdict(found),
        "coverage": found.share,
        "metrics": metrics(rows),
        "reasons": {signal: _reasons(rows, signal) for signal in SIGNALS},
        "cells": cells(rows),
        "by_task_type": by_task_type(rows),
        "conventions": conventions(rows, kinds, questions),
        "notes": [*remarks, *notes(rows, found)],
    }


def _reasons(rows: Sequence[Row], signal: str) -> dict[str, int]:
    counts = Counter(str(row[f"{signal}_reason"]) for row in rows if row["generated"] and not row[f"{signal}_scored"])
    return dict(sorted(counts.items()))


def combined_mean(parts: Mapping[str, Mapping[str, Any]], names: Sequence[str], convention: Sequence[str]) -> dict[str, Any] | None:
    """Mean of conventions of several benchmarks (CV-Bench: of 2D's mean of strata and 3D's accuracy); None unless all are there."""
    values = [parts[name]["conventions"].get(kind, {}).get("value") for name, kind in zip(names, convention, strict=True) if name in parts]
    if len(values) != len(names) or any(value is None for value in values):
        return None
    answered = sum(parts[name]["metrics"]["accuracy"]["n"] for name in names)
    questions = sum(parts[name]["questions"] for name in names)
    return {"value": float(np.mean(values)), "low": None, "high": None, "n": answered, "of": questions, "unit": "questions"}
