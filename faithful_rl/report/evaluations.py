"""Evaluations on benchmarks beside each other: what each method's figures are, on how many questions, and what tests between them find.

Reads what `python -m faithful_rl.evaluate` wrote. Several evaluations under one name are seeds of one method. Tests between methods
are `faithful_rl.evaluation.comparison`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faithful_rl.config import ConfigError
from faithful_rl.evaluation.alike import refuse_twins
from faithful_rl.evaluation.comparison import Evaluated, cautions, compare, power_words, read_evaluation, stacked
from faithful_rl.evaluation.figures import APPLIES, BY_NAME
from faithful_rl.evaluation.rows import Row
from faithful_rl.heldout_statistics import CONFIDENCE, NOTHING, RESAMPLES, SEED, Coverage, Estimate, over_seeds, together, worst
from faithful_rl.report.viewer import evaluation_name
from faithful_rl.run_directory import EVALUATION, read_json

NOT_PINNED = "not the pinned benchmark"  # how the note of an evaluation begins that was made of other files
POWER = ("accuracy", "inconsistency_rate", "semantic_grounding")  # figures of which is said what a comparison could not have found


@dataclass(frozen=True)
class Named:
    """An evaluation directory and the method it is of."""

    method: str
    directory: Path


@dataclass(frozen=True)
class Evaluations:
    """Methods in order with their evaluations (seeds), `estimates[method][benchmark][metric]`, `coverage` likewise, and what tests found.

    `tests[method][benchmark, metric]` is the entry of the comparison with the baseline; `untested` says why there are none, and
    `cautions` what was not measured alike, each one sentence.
    """

    methods: Mapping[str, tuple[Evaluated, ...]]
    benchmarks: tuple[str, ...]
    baseline: str
    estimates: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    coverage: Mapping[str, Mapping[str, Mapping[str, Coverage]]]
    tests: Mapping[str, Mapping[tuple[str, str], Mapping[str, Any]]]
    untested: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    def estimate(self, method: str, benchmark: str, metric: str) -> Estimate:
        """NaN where it was not measured."""
        return self.estimates[method][benchmark].get(metric, NOTHING)

    def measured(self, method: str, benchmark: str, metric: str) -> bool:
        return not math.isnan(self.estimate(method, benchmark, metric).value)

    def entries(self, benchmark: str) -> list[tuple[str, Mapping[str, Any]]]:
        """(method, entry of its summary) of every evaluation of a benchmark."""
        return [
            (method, run.summary["benchmarks"][benchmark])
            for method, runs in self.methods.items()
            for run in runs
            if benchmark in run.summary["benchmarks"]
        ]

    def pinned(self, method: str, benchmark: str) -> bool:
        """Whether no evaluation of the method was made of other files than the benchmark's own."""
        return not any(other_files(entry) for name, entry in self.entries(benchmark) if name == method)

    def whole(self, method: str, benchmark: str, metric: str) -> bool:
        """Whether a figure is of everything that it is about, and of the benchmark that it is called by."""
        return not self.coverage[method][benchmark][metric].partial and self.pinned(method, benchmark)


def other_files(entry: Mapping[str, Any]) -> str:
    """What an evaluation notes about files that are not the pinned benchmark's; "" where they are, or nothing is pinned."""
    told = [str(note).removeprefix(NOT_PINNED).removeprefix(" (pins=note)").lstrip(": ") for note in entry.get("notes") or ()
            if str(note).startswith(NOT_PINNED)]  # fmt: skip
    return "; ".join(told) or ("other files" if entry.get("pinned") is False else "")


def read(named: Sequence[Named], baseline: str | None = None) -> Evaluations:
    """Read evaluation directories and test each method against the baseline (None: the first method).

    Raises:
        ConfigError: a directory holds no finished evaluation, no evaluation is of the baseline, or one is given as two seeds.
    """
    methods: dict[str, list[Evaluated]] = {}
    for one in named:
        methods.setdefault(one.method, []).append(read_evaluation(one.directory))
    for runs in methods.values():
        refuse_twins([run.directory for run in runs], [run.rows for run in runs])
    against = baseline if baseline in methods else next(iter(methods))
    if baseline is not None and baseline not in methods:
        raise ConfigError("baseline", repr(baseline), f"one of {', '.join(methods)}", "Give an evaluation of it, or another baseline.")
    benchmarks = tuple(dict.fromkeys(name for runs in methods.values() for run in runs for name in run.summary["benchmarks"]))
    tests: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    untested, unlike = [], []
    for method in [name for name in methods if name != against]:
        try:
            entries = compare(methods[against], methods[method], (against, method))
        except ConfigError as error:
            untested.append(f"{method} is not tested against {against}: {error}")
            continue
        tests[method] = {(entry["benchmark"], entry["metric"]): entry for entry in entries}
        unlike += [f"{method} against {against}: {told}" for told in cautions(entries)]
    return Evaluations(
        methods={name: tuple(runs) for name, runs in methods.items()},
        benchmarks=benchmarks,
        baseline=against,
        estimates={method: {name: _estimates(runs, name) for name in benchmarks} for method, runs in methods.items()},
        coverage={method: {name: _coverage(runs, name) for name in benchmarks} for method, runs in methods.items()},
        tests=tests,
        untested=tuple(untested),
        cautions=tuple(unlike),
    )


def methods_of(directories: Sequence[tuple[Path, str]]) -> list[Named]:
    """(directory, name) with a method for each: the name where one is given, else its model's.

    Only a name that somebody gave makes several evaluations seeds of one method: `outputs/grpo/hf` and `outputs/fgrpo/hf` are two models,
    and are told apart by their evaluations' directories.
    """
    found: list[Named] = []
    own = {directory: evaluation_name(read_json(directory / EVALUATION), directory) for directory, name in directories if not name}
    given = {name for _, name in directories if name}
    for directory, name in directories:
        label = name or own[directory]
        twins = [other for other, theirs in own.items() if theirs == label and other != directory]
        if not name and (twins or label in given):
            alone = all(other.name != directory.name for other in twins)
            label = f"{label} ({directory.name if alone else directory})"
        found.append(Named(label, directory))
    return found


def _shared(runs: Sequence[Evaluated], benchmark: str) -> tuple[list[list[Row]], int]:
    """(the rows of each evaluation that has the benchmark, on the questions that all answered; questions of the benchmark)."""
    having = [run for run in runs if benchmark in run.summary["benchmarks"]]
    if not having:
        return [], 0
    shared = sorted(set.intersection(*(set(run.rows[benchmark]) for run in having)))
    questions = max(int(run.summary["benchmarks"][benchmark]["questions"]) for run in having)
    return [[run.rows[benchmark][uid] for uid in shared] for run in having], questions


def _estimates(runs: Sequence[Evaluated], benchmark: str) -> dict[str, Estimate]:
    """One evaluation's own figures; of several the mean over seeds on the questions that all answered."""
    having = [run for run in runs if benchmark in run.summary["benchmarks"]]
    if len(having) == 1:
        metrics = having[0].summary["benchmarks"][benchmark]["metrics"]
        return {name: _estimate(found) for name, found in metrics.items()}
    seeds, _ = _shared(runs, benchmark)
    return {name: over_seeds(stacked(seeds, quantity)) if seeds[0] else NOTHING for name, quantity in BY_NAME.items()} if seeds else {}


def _coverage(runs: Sequence[Evaluated], benchmark: str) -> dict[str, Coverage]:
    """Of every figure, on the same questions as `_estimates`; of several seeds the worst."""
    seeds, questions = _shared(runs, benchmark)
    if not seeds:
        return dict.fromkeys(BY_NAME, Coverage(0, 0, 0))

    def one(name: str, rows: Sequence[Row]) -> Coverage:
        counted = BY_NAME[name].coverage(rows).counted
        return Coverage(counted, sum(map(APPLIES.get(name, bool), rows)) + questions - len(rows), questions)

    return {name: worst([one(name, rows) for rows in seeds]) for name in BY_NAME}


def _estimate(found: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if found.get(key) is None else float(found[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, int(found.get("n") or 0))


def over_benchmarks(found: Evaluations, method: str, benchmarks: Sequence[str], metric: str) -> tuple[Estimate, Coverage]:
    """The plain mean of a figure over benchmarks with its bootstrap interval, each benchmark resampled on its own, and its coverage.

    NaN where the method has no figure on one of them: a mean over others could not be compared.
    """
    covered = together([found.coverage[method][name][metric] for name in benchmarks])
    if len(benchmarks) == 1:
        return found.estimate(method, benchmarks[0], metric), covered
    if not benchmarks or not all(found.measured(method, name, metric) for name in benchmarks):
        return NOTHING, covered
    samples = []
    for index, name in enumerate(benchmarks):
        seeds = stacked(_shared(found.methods[method], name)[0], BY_NAME[metric])
        generator = np.random.default_rng([SEED, index])
        questions = seeds.values.shape[1]
        draws = generator.multinomial(questions, np.full(questions, 1 / questions), size=RESAMPLES).astype(float)
        samples.append(seeds.resampled(draws, generator))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(np.mean(samples, axis=0), [tail, 100 - tail])
    value = float(np.mean([found.estimate(method, name, metric).value for name in benchmarks]))
    return Estimate(value, float(low), float(high), covered.counted), covered


def warnings(found: Evaluations) -> tuple[str, ...]:
    """Evaluations that are not whole, or not of the benchmark that they are called by, one sentence each."""
    told = []
    for name in found.benchmarks:
        for method, entry in found.entries(name):
            if other := other_files(entry):
                told.append(f"{method}, {spoken(name)}: not the pinned benchmark ({other}).")
            if float(entry.get("coverage", 1.0)) < 1.0:
                scored, asked = int(entry.get("scored") or 0), int(entry["questions"])
                told.append(f"{method}, {spoken(name)}: partial, {scored:,} of {asked:,} questions scored.")
    return tuple(dict.fromkeys(told))


def power(found: Evaluations) -> tuple[str, ...]:
    """Where no difference was found: how large one would have had to be, one sentence for each method and figure."""
    lines = []
    for method, tests in found.tests.items():
        for metric in POWER:
            parts = [f"{spoken(name)}: {told}" for name in found.benchmarks
                     if (name, metric) in tests and (told := power_words(tests[name, metric]))]  # fmt: skip
            if parts:
                lines.append(f"{method} against {found.baseline}, {spoken(metric)}, no difference found. {'; '.join(parts)}.")
    return tuple(lines)


def spoken(name: str) -> str:
    """A benchmark's or figure's name in words."""
    return name.replace("_", " ")
