"""Two models on the same questions: McNemar's exact test for accuracy and inconsistency, paired bootstraps for means, several seeds.

Tests are statsmodels' (`mcnemar` with the binomial distribution; Holm's correction over all p values of one comparison), intervals scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.figures import BY_NAME, METRICS, groups_right, plain
from faithful_rl.evaluation.rows import FORMAT, Row, read_rows
from faithful_rl.heldout_statistics import Array, Estimate, Quantity, Seeds, change, difference_over_seeds, over_seeds, seed_t_interval
from faithful_rl.judges.options import require
from faithful_rl.run_directory import EVALUATION, read_json

POWER = 0.8
ALPHA = 0.05
BINARY = ("accuracy", "inconsistency_rate")  # McNemar's test is for these
MEANS = ("semantic_grounding", "spatial_grounding", "right_for_a_false_reason", "response_tokens")


@dataclass(frozen=True)
class Evaluated:
    """One evaluation directory: its summary and the rows of each benchmark, by uid, with a response only."""

    directory: Path
    summary: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Row]]


def read_evaluation(directory: Path) -> Evaluated:
    """Raises ConfigError where the directory holds no finished evaluation of this format, or a question twice."""
    try:
        summary = read_json(directory / EVALUATION)
    except ValueError as error:
        raise ConfigError(str(directory), str(error), "a finished evaluation", "Evaluate it again.") from error
    if not summary:
        raise ConfigError(str(directory), f"no {EVALUATION}", "the directory of a finished evaluation", "Finish it, or correct the path.")
    if summary.get("format") != FORMAT:
        raise ConfigError(str(directory / EVALUATION), f"format {summary.get('format')!r}", f"format {FORMAT}", "Evaluate it again.")
    rows: dict[str, dict[str, Row]] = {}
    for name in summary["benchmarks"]:
        found = [row for row in read_rows(directory, name) if row["generated"]]
        rows[name] = {str(row["uid"]): row for row in found}
        if len(rows[name]) != len(found):
            raise ConfigError(str(directory), f"a question twice in {name}", "each question once", "Evaluate it again.")
    return Evaluated(directory, summary, rows)


def compare(a: Sequence[Evaluated], b: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """Every paired figure b - a, by benchmark and metric; several evaluations of one side are seeds of one method.

    Raises:
        ConfigError: nothing in common, or questions of one uid that differ.
    """
    benchmarks = [name for name in a[0].rows if all(name in one.rows for one in (*a, *b))]
    if not benchmarks:
        raise ConfigError("compare", "no benchmark in common", "evaluations of the same benchmarks", "Evaluate both on one.")
    single = len(a) == len(b) == 1
    found = []
    for name in benchmarks:
        found += _pair(name, a[0].rows[name], b[0].rows[name]) if single else _seeds(name, a, b)
    _correct_for_many(found)
    return found


def _shared(name: str, sides: Sequence[Mapping[str, Row]]) -> list[str]:
    uids = sorted(set.intersection(*(set(side) for side in sides)))
    for uid in uids:
        asked = {(row["question"], tuple(row["options"] or ()), row["gold"]) for row in (side[uid] for side in sides)}
        if len(asked) > 1:
            raise ConfigError(f"compare.{name}", f"two questions called {uid}", "the same questions", "Evaluate both on the same files.")
    if not uids:
        raise ConfigError(
            f"compare.{name}", "no question in common", "evaluations of the same questions", "Evaluate both on the same files."
        )
    return uids


def _pair(name: str, a: Mapping[str, Row], b: Mapping[str, Row]) -> list[dict[str, Any]]:
    uids = _shared(name, (a, b))
    entries = []
    for metric in (*BINARY, *MEANS):
        quantity = BY_NAME[metric]
        both = [uid for uid in uids if quantity.weight(a[uid]) and quantity.weight(b[uid])]
        if both:
            entries.append(_paired(name, quantity, {uid: a[uid] for uid in both}, {uid: b[uid] for uid in both}, len(uids)))
    groups = {uid: a[uid]["group"] for uid in uids}
    if len(set(groups.values())) < len(uids):
        entries.append(_by_group(name, [a[uid] for uid in uids], [b[uid] for uid in uids]))
    return entries


def _paired(name: str, quantity: Quantity, a: Mapping[str, Row], b: Mapping[str, Row], shared: int) -> dict[str, Any]:
    uids = list(a)
    old = np.array([quantity.value(a[uid]) for uid in uids])
    new = np.array([quantity.value(b[uid]) for uid in uids])
    entry: dict[str, Any] = {
        "benchmark": name,
        "metric": quantity.name,
        "shared": shared,
        "n": len(uids),
        "a": float(old.mean()),
        "b": float(new.mean()),
        "difference": plain(change(a, b, quantity)),
    }
    if quantity.name in BINARY:
        entry |= mcnemar(old > 0.5, new > 0.5)
    entry["detectable_difference"] = detectable_difference(new - old)
    return entry


def _by_group(name: str, a: Sequence[Row], b: Sequence[Row]) -> dict[str, Any]:
    """Accuracy by group (all trials right): trials of a group are not independent, groups are."""
    old, new = groups_right(a), groups_right(b)
    names = sorted(old.keys() & new.keys())
    before, after = (np.array([side[one] for one in names], dtype=bool) for side in (old, new))
    difference = after.astype(float) - before.astype(float)
    rows = [{str(one): {"value": float(side[one])} for one in names} for side in (old, new)]
    quantity = Quantity("all_right", "", 1, lambda row: row["value"], lambda row: 1.0)
    return {
        "benchmark": name,
        "metric": "accuracy_all_right",
        "shared": len(names),
        "n": len(names),
        "a": float(before.mean()),
        "b": float(after.mean()),
        "difference": plain(change(rows[0], rows[1], quantity)),
        **mcnemar(before, after),
        "detectable_difference": detectable_difference(difference),
    }


def mcnemar(before: Any, after: Any) -> dict[str, Any]:
    """McNemar's exact test on two boolean arrays (questions,): `only_a` and `only_b` are the questions where one side alone is true."""
    tests = require("statsmodels.stats.contingency_tables", "paired tests")
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    table = [[int((before & after).sum()), int((before & ~after).sum())], [int((~before & after).sum()), int((~before & ~after).sum())]]
    return {"test": "McNemar exact", "only_a": table[0][1], "only_b": table[1][0], "p": float(tests.mcnemar(table, exact=True).pvalue)}


def detectable_difference(differences: Array) -> float | None:
    """The smallest true difference that a paired test on as many questions finds with power 0.8 at level 0.05, given the spread that was
    observed; in the metric's unit. None below three questions or without any spread."""
    spread = float(np.std(differences, ddof=1)) if len(differences) > 2 else 0.0
    if spread == 0.0:
        return None
    power = require("statsmodels.stats.power", "power of paired tests")
    effect = power.TTestPower().solve_power(nobs=len(differences), alpha=ALPHA, power=POWER, alternative="two-sided")
    return float(np.squeeze(effect)) * spread


def _correct_for_many(entries: Sequence[dict[str, Any]]) -> None:
    tested = [entry for entry in entries if entry.get("p") is not None]
    if tested:
        many = require("statsmodels.stats.multitest", "paired tests")
        corrected = many.multipletests([entry["p"] for entry in tested], alpha=ALPHA, method="holm")[1]
        for entry, value in zip(tested, corrected, strict=True):
            entry["p_holm"] = float(value)


def _seeds(name: str, a: Sequence[Evaluated], b: Sequence[Evaluated]) -> list[dict[str, Any]]:
    uids = _shared(name, [one.rows[name] for one in (*a, *b)])
    entries = []
    for quantity in METRICS:
        sides = [_stacked([[one.rows[name][uid] for uid in uids] for one in side], quantity) for side in (a, b)]
        if not all(side.weights.any(axis=1).all() for side in sides):
            continue
        old, new = sides
        difference = difference_over_seeds(new, old)
        entry: dict[str, Any] = {
            "benchmark": name,
            "metric": quantity.name,
            "shared": len(uids),
            "n": len(uids),
            "seeds": [len(a), len(b)],
            "a": over_seeds(old).value,
            "b": over_seeds(new).value,
            "difference": plain(difference),
            "test": "two-way bootstrap over questions and seeds",
        }
        if len(a) == len(b) and len(a) > 1:
            entry["difference_t_over_seeds"] = plain(seed_t_interval(new, old))
        entries.append(entry)
    return entries


def _stacked(runs: Sequence[Sequence[Row]], quantity: Quantity) -> Seeds:
    pairs = [quantity.arrays(rows) for rows in runs]
    return Seeds(np.stack([values for values, _ in pairs]), np.stack([weights for _, weights in pairs]))


def excludes_zero(entry: Mapping[str, Any]) -> bool:
    """Whether the entry's interval for the difference lies on one side of zero."""
    difference = entry["difference"]
    if difference["low"] is None:
        return False
    return Estimate(difference["value"], difference["low"], difference["high"], difference["n"]).excludes_zero


def power_note(entry: Mapping[str, Any]) -> str:
    """One sentence for a comparison that found nothing because it could not; "" otherwise."""
    detectable = entry.get("detectable_difference")
    if detectable is None or excludes_zero(entry) or not math.isfinite(detectable):
        return ""
    quantity = BY_NAME.get(entry["metric"])
    percent = quantity is None or quantity.percent
    size = f"{100 * detectable:.1f} points" if percent else f"{detectable:.1f}"
    return (
        f"{entry['benchmark']}, {entry['metric']}: {entry['n']} questions show a difference of {size} or more (power {POWER:g}), not less"
    )
