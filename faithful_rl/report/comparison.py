"""Methods beside each other over seeds, from one warm start on one set of held-out questions: numbers, Markdown, JSON.

A method is a recipe, or the name that a caller gives to its runs; its seeds are its runs. Any list of methods can be compared: each
is set against one of them, the baseline. The warm start's numbers are the `before` evaluations of all runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faithful_rl.heldout_statistics import (
    CONFIDENCE,
    QUANTITIES,
    RESAMPLES,
    Coverage,
    Estimate,
    Quantity,
    Row,
    Seeds,
    difference_over_seeds,
    over_seeds,
    read_heldout,
    seed_t_interval,
    worst,
)
from faithful_rl.report.cells import cell, escaped, star
from faithful_rl.rewards.designs import DESIGNS
from faithful_rl.run_directory import DECODING_LABELS, DECODINGS, RUN, heldout_file, read_json

WARM_START = "warm start"
BASELINE = "GRPO"  # what others are set against where nobody says otherwise and it was run
# Recipe without its size -> what tables and pictures call it, in the order of the tables; others go by their own name, after these.
LABELS = {
    "grpo": "GRPO",
    "dr_grpo": "Dr. GRPO",
    "additive": "GRPO, additive reward",
    "multiplicative": "GRPO, multiplicative reward",
    "gdpo": "GDPO",
    "hras": "HRAS",
    "cora": "HRAS + CRM",
    "cora_summed": "GRPO + CRM, summed",
    "fgrpo_consistency": "FGRPO, consistency only",
    "fgrpo_fixed": "FGRPO, fixed multipliers",
    "fgrpo_pid": "FGRPO, PID",
    "fgrpo": "FGRPO, adaptive",
    **{f"design_{name}": f"design: {name}" for name in DESIGNS},
}
SIZES = ("_tiny", "_3b", "_7b", "_72b")
COLUMNS = (
    "accuracy",
    "inconsistency_rate",
    "semantic_grounding",
    "spatial_grounding",
    "format",
    "sentence_count",
    "right_for_false_reason",
)
Evaluations = Mapping[str, Sequence[Mapping[str, Row]]]  # method -> one evaluation (question id -> line) per seed


@dataclass(frozen=True)
class Difference:
    """`method` - `other` in one quantity: two-way bootstrap, t interval over seeds, and the difference of each seed."""

    method: str
    other: str
    decoding: str
    quantity: str
    bootstrap: Estimate
    seed_t: Estimate | None
    per_seed: tuple[float, ...]
    coverage: Coverage


@dataclass(frozen=True)
class Comparison:
    """`estimates[decoding][method][quantity]` over seeds, `per_seed` likewise with one number per seed, `coverage` with that of the seed
    that lacks most; `baseline` is "" where there is one method only, and then there are no differences."""

    methods: tuple[str, ...]
    seeds: Mapping[str, tuple[int, ...]]
    steps: tuple[int, ...]
    questions: int
    code_versions: tuple[str, ...]
    estimates: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    per_seed: Mapping[str, Mapping[str, Mapping[str, tuple[float, ...]]]]
    coverage: Mapping[str, Mapping[str, Mapping[str, Coverage]]]
    differences: tuple[Difference, ...]
    baseline: str = ""

    def difference(self, method: str, decoding: str, quantity: str) -> Difference | None:
        """`method` - baseline in one quantity, None where it was not computed."""
        wanted = (method, decoding, quantity)
        return next((d for d in self.differences if (d.method, d.decoding, d.quantity) == wanted), None)

    @property
    def seed_note(self) -> str:
        """What intervals leave out where a method has one seed; "" elsewhere."""
        if all(len(seeds) > 1 for seeds in self.seeds.values()):
            return ""
        return "With one seed an interval holds the questions' chance alone: another seed may differ by more."

    def measured_differences(self, decoding: str, quantity: str) -> dict[str, Difference]:
        """Each method's difference to the baseline in one quantity, where both were measured."""
        found = [d for d in self.differences if (d.decoding, d.quantity) == (decoding, quantity)]
        return {d.method: d for d in found if not math.isnan(d.bootstrap.value)}


def method_label(recipe: str) -> str:
    """What tables and pictures call a recipe."""
    stem = next((recipe.removesuffix(size) for size in SIZES if recipe.endswith(size)), recipe)
    return LABELS.get(stem, recipe)


def method_of(run_dir: Path, names: Mapping[Path, str] | None = None) -> str:
    """The method of a run: the name given to its directory, else its recipe's."""
    given = (names or {}).get(run_dir)
    return given or method_label(str(read_json(run_dir / RUN).get("recipe", run_dir.name)))


def compare(run_dirs: Sequence[Path], baseline: str | None = None, names: Mapping[Path, str] | None = None) -> Comparison:
    """Read the runs and compute every number of the tables.

    Args:
        baseline: the method that all others are set against; None: GRPO where it was run, else the first method.
        names: methods of run directories that should not go by their recipe; directories with one name are seeds of one method.

    Raises:
        ValueError: if a run is not evaluated after training, two runs share method and seed, the runs answered other questions, or
            no run is of the baseline.
    """
    by_method = _group(run_dirs, names)
    against = _baseline(by_method, baseline)
    methods = (WARM_START, *by_method)
    estimates: dict[str, dict[str, dict[str, Estimate]]] = {}
    per_seed: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
    coverage: dict[str, dict[str, dict[str, Coverage]]] = {}
    differences: list[Difference] = []
    questions = 0
    for decoding in DECODINGS:
        evaluations = _evaluations(by_method, decoding)
        if not evaluations:
            continue
        questions = len(next(iter(evaluations.values()))[0])
        seeds = {(method, quantity.name): _seeds(found, quantity) for method, found in evaluations.items() for quantity in QUANTITIES}
        estimates[decoding] = {m: {q.name: over_seeds(seeds[m, q.name]) for q in QUANTITIES} for m in evaluations}
        per_seed[decoding] = {m: {q.name: tuple(map(float, seeds[m, q.name].per_seed())) for q in QUANTITIES} for m in evaluations}
        coverage[decoding] = {
            m: {q.name: worst([q.coverage(list(rows.values())) for rows in found]) for q in QUANTITIES} for m, found in evaluations.items()
        }
        differences += _differences(by_method, decoding, seeds, against, coverage[decoding])
    if not estimates:
        raise ValueError(f"none of {', '.join(map(str, run_dirs))} has an evaluation after training; a comparison needs finished runs")
    records = [read_json(run_dir / RUN) for runs in by_method.values() for run_dir in runs.values()]
    return Comparison(
        methods=tuple(method for method in methods if method in next(iter(estimates.values()))),
        seeds={method: tuple(runs) for method, runs in by_method.items()},
        steps=tuple(sorted({_last_step(run_dir) for runs in by_method.values() for run_dir in runs.values()})),
        questions=questions,
        code_versions=tuple(sorted({str(record.get("code_version", "unknown")) for record in records})),
        estimates=estimates,
        per_seed=per_seed,
        coverage=coverage,
        differences=tuple(differences),
        baseline=against,
    )


def ready(run_dirs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(runs that can be compared, runs that are not evaluated after training yet): a run that still trains must not hide the others.

    A run can be compared when it has every decoding that any of them has.
    """
    having = {run_dir: {one for one in DECODINGS if heldout_file(run_dir, "after", one).is_file()} for run_dir in run_dirs}
    wanted = set().union(*having.values()) if having else set()
    return [one for one in run_dirs if wanted and having[one] == wanted], [one for one in run_dirs if not wanted or having[one] != wanted]


def _baseline(by_method: Mapping[str, object], wanted: str | None) -> str:
    if wanted is not None and wanted not in by_method:
        raise ValueError(f"the baseline {wanted!r} is none of the methods {', '.join(by_method)}; give a run of it, or another baseline")
    chosen = wanted or (BASELINE if BASELINE in by_method else next(iter(by_method)))
    return chosen if len(by_method) > 1 else ""


def _group(run_dirs: Sequence[Path], names: Mapping[Path, str] | None = None) -> dict[str, dict[int, Path]]:
    """Method label -> seed -> run directory, methods in the tables' order and seeds rising."""
    found: dict[str, dict[int, Path]] = {}
    for run_dir in run_dirs:
        record = read_json(run_dir / RUN)
        if not record:
            raise ValueError(f"{run_dir} holds no run ({RUN} is missing); give the directory that a training command printed")
        method, seed = method_of(run_dir, names), int(record.get("seed", 0))
        other = found.setdefault(method, {}).setdefault(seed, run_dir)
        if other != run_dir:
            raise ValueError(f"{other} and {run_dir} are both {method}, seed {seed}; give each recipe and seed once")
    return {name: dict(sorted(found[name].items())) for name in in_order(found)}


def in_order(methods: Iterable[str]) -> list[str]:
    """Method labels in the order of tables and legends: known ones from GRPO to adaptive multipliers, then others as they are given."""
    order = list(LABELS.values())
    return sorted(dict.fromkeys(methods), key=lambda name: order.index(name) if name in order else len(order))


def _last_step(run_dir: Path) -> int:
    after = read_json(run_dir / "heldout" / "summary.json").get("after") or {}
    return int(after.get("step", 0))


def _evaluations(by_method: Mapping[str, Mapping[int, Path]], decoding: str) -> dict[str, list[dict[str, Row]]]:
    """Method -> evaluations of its seeds, all on the same questions in the same order; {} where the decoding was not evaluated."""
    paths = [(method, run_dir) for method, runs in by_method.items() for run_dir in runs.values()]
    found: dict[str, list[dict[str, Row]]] = {}
    expected: set[str] = set()
    for moment in ("after", "before"):
        for method, run_dir in paths:
            rows = read_heldout(run_dir, moment, decoding)
            if not rows and (moment == "before" or not expected):
                continue
            expected = expected or set(rows)
            if set(rows) != expected:
                what = f"{len(set(rows) ^ expected)} questions differ" if rows else "there is no evaluation after training"
                raise ValueError(
                    f"{run_dir}, {DECODING_LABELS[decoding]}: {what}; methods are compared on the same held-out questions only"
                )
            found.setdefault(method if moment == "after" else WARM_START, []).append(rows)
    if any(len(found.get(method, ())) != len(runs) for method, runs in by_method.items()) and expected:
        missing = [method for method, runs in by_method.items() if len(found.get(method, ())) != len(runs)]
        raise ValueError(
            f"{', '.join(missing)}, {DECODING_LABELS[decoding]}: a run has no evaluation after training; finish it or leave it out"
        )
    order = sorted(expected)
    return {method: [{uid: rows[uid] for uid in order} for rows in runs] for method, runs in found.items()}


def _seeds(evaluations: Sequence[Mapping[str, Row]], quantity: Quantity) -> Seeds:
    arrays = [quantity.arrays(list(rows.values())) for rows in evaluations]
    return Seeds(np.stack([values for values, _ in arrays]), np.stack([weights for _, weights in arrays]))


def _differences(
    by_method: Mapping[str, Mapping[int, Path]],
    decoding: str,
    seeds: Mapping[tuple[str, str], Seeds],
    baseline: str,
    coverage: Mapping[str, Mapping[str, Coverage]],
) -> list[Difference]:
    """Every other method against the baseline; per-seed numbers only where both have the same seeds."""
    if not baseline:
        return []
    result = []
    for method in [name for name in by_method if name != baseline]:
        matched = tuple(by_method[method]) == tuple(by_method[baseline])
        for quantity in QUANTITIES:
            ours, theirs = seeds[method, quantity.name], seeds[baseline, quantity.name]
            result.append(
                Difference(
                    method,
                    baseline,
                    decoding,
                    quantity.name,
                    difference_over_seeds(ours, theirs, quantity.percent),
                    seed_t_interval(ours, theirs) if matched else None,
                    tuple(map(float, ours.per_seed() - theirs.per_seed())) if matched else (),
                    worst([coverage[one][quantity.name] for one in (method, baseline)]),
                )
            )
    return result


def headline(found: Comparison) -> tuple[str, ...]:
    """What the methods differ in: the method that is farthest below the baseline in inconsistency, one sentence per decoding.

    Farthest in the first decoding (temperature 1, as rollouts are sampled in training); the other one is told of the same method.
    A difference is called one only where its 95% interval excludes zero. What could not be measured of all answers is said last. ()
    without a baseline.
    """
    gaps = {decoding: found.measured_differences(decoding, "inconsistency_rate") for decoding in found.estimates}
    first = next((of_method for of_method in gaps.values() if of_method), {})
    told = min(first, key=lambda name: first[name].bootstrap.value, default="")
    sentences = []
    for decoding, by_method in found.estimates.items():
        best = gaps[decoding].get(told)
        if best is None:
            continue
        accuracy = found.difference(best.method, decoding, "accuracy")
        ours, theirs = by_method[best.method], by_method[found.baseline]
        where = "Sampled at temperature 1" if decoding == "T1" else "Decoded greedily"
        text = f"{where}, {100 * ours['inconsistency_rate'].value:.1f}% of the answers of {best.method} contradict their own reasoning"
        text += f", against {100 * theirs['inconsistency_rate'].value:.1f}% of {found.baseline}"
        text += "" if best.bootstrap.excludes_zero else " (no measurable difference)"
        if accuracy is not None and not math.isnan(accuracy.bootstrap.value):
            values = f"{100 * ours['accuracy'].value:.1f}% against {100 * theirs['accuracy'].value:.1f}%"
            text += f"; accuracy is {values}" + ("" if accuracy.bootstrap.excludes_zero else ", no measurable difference")
        sentences.append(f"{text}.")
    lacking = [
        f"{name} of {method}, {DECODING_LABELS[decoding]}: {covered[key].text}"
        for decoding, methods in found.coverage.items()
        for method, covered in methods.items()
        for key, name in (("accuracy", "accuracy"), ("inconsistency_rate", "IR"))
        if covered[key].partial
    ]
    if lacking and sentences:
        sentences.append(f"Partial, because some answers could not be judged: {'; '.join(lacking)}.")
    return tuple(sentences)


def markdown(comparison: Comparison) -> str:
    """The tables for the README, one per decoding, then differences to GRPO, then how the intervals are made."""
    chosen = [quantity for name in COLUMNS for quantity in QUANTITIES if quantity.name == name]
    lines: list[str] = []
    for decoding, by_method in comparison.estimates.items():
        lines += [f"**{DECODING_LABELS[decoding]}**", "", _header(chosen), "|---|" + "---:|" * len(chosen)]
        for method in comparison.methods:
            covered = comparison.coverage[decoding][method]
            cells = [cell(by_method[method][q.name], q.percent, coverage=covered[q.name]) for q in chosen]
            lines.append(f"| {escaped(method)} | {' | '.join(cells)} |")
        lines.append("")
    if comparison.differences:
        lines += _difference_lines(comparison, chosen)
    excludes = "; * the interval excludes zero" if comparison.differences else ""
    counts = sorted({len(seeds) for seeds in comparison.seeds.values()})
    seeds_differ = f" {comparison.seed_note}" if comparison.seed_note else ""
    lines += [
        f"Seeds per method: {', '.join(map(str, counts))}; held-out questions: {comparison.questions}; "
        f"steps: {', '.join(map(str, comparison.steps))}. Mean over seeds [95% interval]: two-way bootstrap over seeds and questions "
        f"({RESAMPLES} resamples, percentile){excludes}.{seeds_differ} "
        "IR is over all answers, R_S and R_G over traces where they could be measured; right for a false reason: right "
        "answers whose trace holds a sentence that is false of the image. "
        "In round brackets on how many questions a number is, where it is not on all; of several seeds the one that lacks most.",
    ]
    return "\n".join(lines) + "\n"


def _header(chosen: Sequence[Quantity]) -> str:
    return "| method | " + " | ".join(f"{quantity.heading}{' %' if quantity.percent else ''}" for quantity in chosen) + " |"


def _difference_lines(comparison: Comparison, chosen: Sequence[Quantity]) -> list[str]:
    lines = [
        f"**Difference to {escaped(comparison.baseline)}**, in points, with each seed's own difference below",
        "",
        _header(chosen).replace(" %", ""),
    ]
    lines.append("|---|" + "---:|" * len(chosen))
    found = {(d.method, d.decoding, d.quantity): d for d in comparison.differences}
    for method, decoding in dict.fromkeys((d.method, d.decoding) for d in comparison.differences):
        row = [found[method, decoding, quantity.name] for quantity in chosen]
        cells = [
            cell(d.bootstrap, q.percent, signed=True) + star(d.bootstrap) + (f" ({d.coverage.text})" if d.coverage.partial else "")
            for d, q in zip(row, chosen, strict=True)
        ]
        lines.append(f"| {escaped(method)}, {DECODING_LABELS[decoding]} | {' | '.join(cells)} |")
        if any(d.per_seed for d in row):
            each = [
                ", ".join(f"{(100 if q.percent else 1) * value:+.{1 if q.percent else 2}f}" for value in d.per_seed)
                for d, q in zip(row, chosen, strict=True)
            ]
            lines.append(f"| seed by seed | {' | '.join(each)} |")
    return [*lines, ""]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything of the comparison as JSON values; numbers that were not measured are null."""
    value = {
        **asdict(comparison),
        "interval": {
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "over_seeds": "two-way percentile bootstrap over seeds and questions",
        },
    }
    result: dict[str, Any] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
