"""Two models on the same questions: McNemar's exact test for what is true or false, sign flips for means and where trials form groups,
bootstraps for every difference, several seeds.

Holm's correction (statsmodels) runs over all p values of one comparison. The tests are in `paired_tests`; `alike` says what must not be
compared because it was not measured alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.alike import Alike, alike, by_rule, refuse_twins
from faithful_rl.evaluation.figures import BY_NAME, METRICS, by_group, groups_right, plain
from faithful_rl.evaluation.paired_tests import (
    ALPHA,
    FEWEST,
    POWER,
    detectable_difference,
    detectable_from_interval,
    mcnemar,
    paired_difference,
    pooled,
    sign_flips,
)
from faithful_rl.evaluation.rows import FORMAT, Row, read_rows
from faithful_rl.heldout_statistics import Estimate, Quantity, Seeds, difference_over_seeds, over_seeds, seed_t_interval
from faithful_rl.judges.options import require
from faithful_rl.run_directory import EVALUATION, read_json

__all__ = ["ALPHA", "POWER", "Evaluated", "compare", "detectable_difference", "differs", "excludes_zero", "mcnemar", "power_note"]

BINARY = ("accuracy", "inconsistency_rate", "right_for_a_false_reason", "format_rate", "unparsed_rate", "truncated_rate")
ALL_RIGHT = "accuracy_all_right"  # of a group: an MMVP pair, the orders of one SAT row
GROUPED = "sign flips over groups"
UNGROUPED = "sign flips over questions"
OVER_SEEDS = "two-way bootstrap over questions and seeds"
WORDS = {
    "McNemar exact": "McNemar's exact test",
    GROUPED: "sign flips (an exact or drawn permutation test) over groups of trials",
    UNGROUPED: "sign flips (an exact or drawn permutation test) over questions for means",
    OVER_SEEDS: "for several seeds whether the interval of a two-way bootstrap over questions and seeds excludes zero",
}


@dataclass(frozen=True)
class Evaluated:
    """One evaluation directory: its summary and the rows of each benchmark, by uid, with a response only. `trials` says how many trials
    each group of a benchmark has, those without a response too."""

    directory: Path
    summary: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Row]]
    trials: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


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
    trials: dict[str, dict[str, int]] = {}
    for name in summary["benchmarks"]:
        asked = read_rows(directory, name)
        trials[name] = dict(Counter(str(row["group"]) for row in asked))
        found = [row for row in asked if row["generated"]]
        rows[name] = {str(row["uid"]): row for row in found}
        if len(rows[name]) != len(found):
            raise ConfigError(str(directory), f"a question twice in {name}", "each question once", "Evaluate it again.")
    return Evaluated(directory, summary, rows, trials)


def compare(a: Sequence[Evaluated], b: Sequence[Evaluated], names: tuple[str, str] = ("a", "b")) -> list[dict[str, Any]]:
    """Every paired figure b - a, by benchmark and metric; several evaluations of one side are seeds of one method.

    The first entry of a benchmark has `cautions` where the sides were not measured alike (see `alike`).

    Args:
        names: what cautions call the two sides.

    Raises:
        ConfigError: nothing in common, questions of one uid that differ, or one evaluation given as two seeds.
    """
    for side in (a, b):
        refuse_twins([one.directory for one in side], [one.rows for one in side])
    benchmarks = [name for name in a[0].rows if all(name in one.rows for one in (*a, *b))]
    if not benchmarks:
        raise ConfigError("compare", "no benchmark in common", "evaluations of the same benchmarks", "Evaluate both on one.")
    found = []
    for name in benchmarks:
        terms = alike(name, [one.summary for one in a], [one.summary for one in b], names)
        found += _benchmark(name, a, b, terms)
    _correct_for_many(found)
    return found


def _benchmark(name: str, a: Sequence[Evaluated], b: Sequence[Evaluated], terms: Alike) -> list[dict[str, Any]]:
    def rows(one: Evaluated) -> Mapping[str, Row]:
        return {uid: by_rule(row) for uid, row in one.rows[name].items()} if terms.by_rule else one.rows[name]

    sides = [[rows(one) for one in side] for side in (a, b)]
    metrics = [quantity for quantity in METRICS if quantity.name not in terms.left_out]
    if len(a) == len(b) == 1:
        trials = Counter(a[0].trials.get(name, {})) | Counter(b[0].trials.get(name, {}))
        entries = _pair(name, sides[0][0], sides[1][0], metrics, trials)
    else:
        entries = _seeds(name, sides[0], sides[1], metrics)
    if entries and terms.cautions:
        entries[0]["cautions"] = [f"{name}: {caution}" for caution in terms.cautions]
    return entries


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


def _pair(
    name: str, a: Mapping[str, Row], b: Mapping[str, Row], metrics: Sequence[Quantity], trials: Mapping[str, int]
) -> list[dict[str, Any]]:
    uids = _shared(name, (a, b))
    entries = []
    for quantity in metrics:
        both = [uid for uid in uids if quantity.weight(a[uid]) and quantity.weight(b[uid])]
        if both:
            entries.append(_paired(name, quantity, [a[uid] for uid in both], [b[uid] for uid in both], len(uids)))
    counts = Counter(str(a[uid]["group"]) for uid in uids)
    if len(counts) < len(uids):
        whole = [uid for uid in uids if counts[str(a[uid]["group"])] >= trials.get(str(a[uid]["group"]), 0)]
        entries += _by_group(name, [a[uid] for uid in whole], [b[uid] for uid in whole])
    return entries


def _paired(name: str, quantity: Quantity, a: Sequence[Row], b: Sequence[Row], shared: int) -> dict[str, Any]:
    """Trials of one group are resampled, and flipped, together: they are not independent. Figures that are neither better nor worse get
    no p value."""
    old, new = (np.array([quantity.value(row) for row in rows]) for rows in (a, b))
    groups = [str(row["group"]) for row in a]
    means, weights = pooled(new - old, groups)
    entry: dict[str, Any] = {
        "benchmark": name,
        "metric": quantity.name,
        "shared": shared,
        "n": len(a),
        "a": float(old.mean()),
        "b": float(new.mean()),
        "difference": plain(paired_difference(new - old, groups, quantity.percent)),
    }
    if quantity.name in BINARY:
        entry |= mcnemar(old > 0.5, new > 0.5)
    if len(means) < len(a):
        entry["groups"] = len(means)
    if quantity.better and (len(means) < len(a) or quantity.name not in BINARY):
        entry |= {"test": GROUPED if len(means) < len(a) else UNGROUPED, "p": sign_flips(means * weights)}
    entry["detectable_difference"] = detectable_difference(means, quantity.percent)
    return entry


def _by_group(name: str, a: Sequence[Row], b: Sequence[Row]) -> list[dict[str, Any]]:
    """Accuracy by group (all trials right), over the groups whose every trial both sides answered; [] where there is none."""
    old, new = groups_right(a), groups_right(b)
    groups = sorted(old.keys() & new.keys())
    if not groups:
        return []
    before, after = (np.array([side[one] for one in groups], dtype=bool) for side in (old, new))
    difference = after.astype(float) - before.astype(float)
    entry = {
        "benchmark": name,
        "metric": ALL_RIGHT,
        "shared": len(groups),
        "n": len(groups),
        "a": float(before.mean()),
        "b": float(after.mean()),
        "difference": plain(paired_difference(difference, groups, share=True)),
        **mcnemar(before, after),
        "detectable_difference": detectable_difference(difference),
    }
    return [entry]


def _correct_for_many(entries: Sequence[dict[str, Any]]) -> None:
    tested = [entry for entry in entries if entry.get("p") is not None]
    if tested:
        many = require("statsmodels.stats.multitest", "paired tests")
        corrected = many.multipletests([entry["p"] for entry in tested], alpha=ALPHA, method="holm")[1]
        for entry, value in zip(tested, corrected, strict=True):
            entry["p_holm"] = float(value)


def _seeds(name: str, a: Sequence[Mapping[str, Row]], b: Sequence[Mapping[str, Row]], metrics: Sequence[Quantity]) -> list[dict[str, Any]]:
    uids = _shared(name, [*a, *b])
    entries = []
    for quantity in metrics:
        runs = [[[one[uid] for uid in uids] for one in side] for side in (a, b)]
        old, new = (stacked(side, quantity) for side in runs)
        if not (old.weights.any(axis=1).all() and new.weights.any(axis=1).all()):
            continue
        difference = difference_over_seeds(new, old, quantity.percent)
        counted = min(quantity.coverage(rows).counted for side in runs for rows in side)
        entry: dict[str, Any] = {
            "benchmark": name,
            "metric": quantity.name,
            "shared": len(uids),
            "n": counted,
            "seeds": [len(a), len(b)],
            "a": over_seeds(old).value,
            "b": over_seeds(new).value,
            "difference": plain(Estimate(difference.value, difference.low, difference.high, counted)),
            "test": OVER_SEEDS,
            "detectable_difference": detectable_from_interval(difference, quantity.percent),
        }
        if len(a) == len(b) and len(a) > 1:
            entry["difference_t_over_seeds"] = plain(seed_t_interval(new, old))
        entries.append(entry)
    return entries


def stacked(runs: Sequence[Sequence[Row]], quantity: Quantity) -> Seeds:
    """One quantity of several evaluations of the same questions in the same order, (seeds, groups): trials of one group together."""
    pairs = [by_group(*quantity.arrays(rows), [str(row["group"]) for row in rows]) for rows in runs]
    return Seeds(np.stack([values for values, _ in pairs]), np.stack([weights for _, weights in pairs]))


def excludes_zero(entry: Mapping[str, Any]) -> bool:
    """Whether the entry's interval for the difference lies on one side of zero."""
    difference = entry["difference"]
    if difference["low"] is None:
        return False
    return Estimate(difference["value"], difference["low"], difference["high"], difference["n"]).excludes_zero


def differs(entry: Mapping[str, Any]) -> bool:
    """Whether the comparison finds a difference: by Holm's p value where there is one, else by the interval."""
    p = entry.get("p_holm", entry.get("p"))
    return bool(p < ALPHA) if p is not None else excludes_zero(entry)


def cautions(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before believing a comparison, one sentence each."""
    return [str(text) for entry in entries for text in entry.get("cautions", ())]


def by_which_test(entries: Iterable[Mapping[str, Any]]) -> str:
    """By what these entries tell a difference from chance, in words; "" without entries."""
    known = list(entries)
    used = list(dict.fromkeys(WORDS[entry["test"]] for entry in known if "test" in entry))
    corrected = any(entry.get("p") is not None for entry in known)
    return "; ".join(used) + ("; Holm corrects for all of them" if corrected else "")


def power_note(entry: Mapping[str, Any]) -> str:
    """One sentence for a comparison that found nothing because it could not; "" otherwise."""
    told = power_words(entry)
    return f"{entry['benchmark']}, {entry['metric']}: {told}" if told else ""


def power_words(entry: Mapping[str, Any]) -> str:
    """`80 questions show a difference of 12.0 points or more (power 0.8), not less`; "" where a difference was found."""
    units, things = entry.get("groups", entry["n"]), "groups" if "groups" in entry or entry["metric"] == ALL_RIGHT else "questions"
    quantity = BY_NAME.get(entry["metric"])
    percent = quantity is None or quantity.percent
    if differs(entry):
        return ""
    if percent and units < FEWEST:
        return f"{units} {things} are too few to show any difference"
    detectable = entry.get("detectable_difference")
    if detectable is None or not math.isfinite(detectable):
        return ""
    size = f"{100 * detectable:.1f} points" if percent else f"{detectable:.1f}"
    return f"{units} {things} show a difference of {size} or more (power {POWER:g}), not less"
