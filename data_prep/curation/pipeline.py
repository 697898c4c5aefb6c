"""From pools to the chosen rows of a mixture: duplicates, contamination, difficulty, amounts. Every row left out has a reason."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from data_prep.curation.clusters import embed, read_embeddings, sample
from data_prep.curation.difficulty import Answers, measure, selected
from data_prep.curation.hashes import Row, table, without_images
from data_prep.curation.overlap import BENCHMARK_QUESTION, BENCHMARK_STEM, BenchmarkIndex, duplicates
from data_prep.curation.settings import Contamination, Curation, Difficulty, Representative, benchmark_file, read_settings
from data_prep.manifest import sha256
from data_prep.mixture import NOT_DRAWN, Selection, pool_file
from data_prep.recipe import Recipe
from data_prep.sampling import Sampler, endpoint_sampler
from data_prep.writers.parquet import read_rows
from faithful_rl.config import ConfigError

FOLDER = "curation"
EXAMPLES = 10  # of matches with a benchmark, in the report

UNREADABLE, NO_ROLLOUTS, NOT_TRIED, TOO_EASY_OR_HARD = ("image_unreadable", "no_rollouts", "not_a_candidate", "too_easy_or_too_hard")


class _Pool:
    """A pool on its way through the steps: the rows that are left, and why the others are not."""

    def __init__(self, name: str, path: Path, amount: int, rows: list[Row]) -> None:
        self.name, self.path, self.amount, self.rows = name, path, amount, rows
        self.left = list(range(len(rows)))
        self.reasons: dict[int, str] = {}
        self.more: dict[str, Any] = {}

    def drop(self, reasons: Mapping[int, str]) -> None:
        self.reasons.update((number, reasons[number]) for number in self.left if number in reasons)
        self.left = [number for number in self.left if number not in reasons]

    def keep(self, numbers: Sequence[int], reason: str) -> None:
        kept = frozenset(numbers)
        self.drop({number: reason for number in self.left if number not in kept})

    @property
    def dropped(self) -> dict[str, int]:
        """Rows left out, by reason."""
        return dict(sorted(Counter(self.reasons.values()).items()))

    def require(self, amount: int) -> None:
        """Raises ConfigError when fewer rows than `amount` are left."""
        if len(self.left) >= amount:
            return
        why = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none dropped"
        found = f"{amount}, with {len(self.left)} of {len(self.rows)} rows of the pool left ({why})"
        raise ConfigError(
            f"{self.name}.amount", found, f"at most {len(self.left)}", f"Raise {self.name}.pool= or lower {self.name}.amount=."
        )

    def report(self) -> dict[str, Any]:
        return {"pool": len(self.rows), "kept": len(self.left), "dropped": self.dropped, **self.more}


def run(
    recipe: Recipe,
    pools: Mapping[str, Path],
    out: Path,
    *,
    sampler: Sampler | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Selection:
    """Choose `amount` rows of each pool by the steps in `recipe.curation`.

    What costs time (hashes, rollouts) is kept in `out/curation`, so that an interrupted run continues and a repeated one is quick.

    Args:
        pools: name -> directory of a pool's RL parquet file.
        sampler: who makes the rollouts; None: the endpoint of the settings.
        progress: (pool, rows asked, rows to ask) of the difficulty step.

    Raises:
        ConfigError: wrong settings, fewer rows left than an amount (with the counts), too many rows without rollouts.
    """
    settings = read_settings(recipe.curation)
    work = out / FOLDER
    states = [
        _Pool(name, pool_file(path), recipe.sources[name].amount, table(pool_file(path), work / f"{name}.hashes.parquet"))
        for name, path in pools.items()
    ]
    for state in states:
        gone = frozenset(without_images(iter(state.rows)))
        state.drop({number: UNREADABLE for number, row in enumerate(state.rows) if row.uid in gone})
    if settings.duplicates:
        doubles = duplicates({state.name: state.rows for state in states})
        for state in states:
            state.drop(doubles[state.name])
    if settings.contamination:
        _decontaminate(states, settings.contamination, work)
    for state in states:
        if not recipe.quick:
            state.require(state.amount)
        if settings.difficulty:
            _measure(state, settings, settings.difficulty, recipe.seed, work, sampler, progress)
            if not recipe.quick:
                state.require(state.amount)
        state.keep(_drawn(state, state.amount, settings.representative, recipe.seed, "amount"), NOT_DRAWN)
    chosen, reasons = {state.name: state.left for state in states}, {state.name: state.reasons for state in states}
    return Selection(chosen, reasons, _report(settings, states))


def _decontaminate(states: Sequence[_Pool], settings: Contamination, work: Path) -> None:
    index = BenchmarkIndex(
        {
            name: table(benchmark_file(name, location), work / f"benchmark-{name}.hashes.parquet")
            for name, location in settings.benchmarks.items()
        }
    )
    for state in states:
        matches = index.matches(state.rows, settings.distance)
        left = frozenset(state.left)
        matches = {number: match for number, match in matches.items() if number in left}
        alone = Counter(match.reason for match in matches.values() if match.text_alone)
        first = sorted(matches.items(), key=lambda one: (one[1].text_alone, one[0]))
        state.more["contamination"] = {
            "same_question_other_image": alone[BENCHMARK_QUESTION],
            "same_stem_other_image": alone[BENCHMARK_STEM],
            "examples": [{"uid": state.rows[number].uid, **asdict(match)} for number, match in first[:EXAMPLES]],
        }
        drop_text = settings.questions == "drop"
        state.drop({number: match.reason for number, match in matches.items() if drop_text or not match.text_alone})


def _measure(
    state: _Pool,
    settings: Curation,
    difficulty: Difficulty,
    seed: int,
    work: Path,
    sampler: Sampler | None,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    if difficulty.candidates:
        wanted = min(len(state.left), round(difficulty.candidates * state.amount))
        state.keep(_drawn(state, wanted, settings.representative, seed, "candidates"), NOT_TRIED)
    asked = {"pool": sha256(state.path), "seed": seed, **difficulty.deciding()}
    answers = Answers(work / f"{state.name}.answers.jsonl", {**asked, "model": sampler.model if sampler else difficulty.model})
    left = frozenset(state.left)
    rows = ((number, row) for number, row in enumerate(read_rows(state.path)) if number in left)
    asker = sampler or endpoint_sampler(
        difficulty.base_url, difficulty.model, difficulty.api_key_env, difficulty.temperature, difficulty.concurrency
    )
    show = None if progress is None else (lambda done: progress(state.name, done, len(left)))
    try:
        failed = asyncio.run(measure(rows, answers, asker, difficulty, seed, show))
    finally:
        answers.close()
    if len(failed) > difficulty.max_failed * len(left):
        uid, problem = next(iter(failed.items()))
        found = f"{len(failed)} of {len(left)} rows of {state.name} without rollouts ({uid}: {problem})"
        fix = "See to the endpoint and run the same command again: answered rows are kept."
        raise ConfigError("curation.difficulty", found, f"at most {difficulty.max_failed:.1%}", fix)
    known = {number: answered for number, answered in answers.rows.items() if number in left}
    state.keep(list(known), NO_ROLLOUTS)
    kept, counts = selected(known, difficulty.keep_rest, seed)
    state.keep(kept, TOO_EASY_OR_HARD)
    mean = sum(answered.mean for answered in known.values()) / len(known) if known else 0.0
    state.more["difficulty"] = {**counts, "mean_accuracy": round(mean, 6)}


def _drawn(state: _Pool, amount: int, settings: Representative | None, seed: int, purpose: str) -> list[int]:
    """`amount` of the rows left: over clusters where the settings say so, else at random by the seed."""
    if amount >= len(state.left):
        return state.left
    if settings is None:
        return Random(f"curation/{seed}/{state.name}/{purpose}").sample(state.left, amount)
    path = settings.embeddings.get(state.name)
    if path is None:
        vectors = embed([state.rows[number].question for number in state.left], seed)
    else:
        vectors = read_embeddings(path, len(state.rows), f"curation.representative.embeddings.{state.name}")[state.left]
    return [state.left[place] for place in sample(vectors, amount, settings.clusters, seed)]


def _report(settings: Curation, states: Sequence[_Pool]) -> dict[str, Any]:
    """For the manifest: the settings without addresses, and counts of every pool."""
    steps: dict[str, Any] = {"duplicates": settings.duplicates}
    if settings.contamination:
        steps["contamination"] = {**asdict(settings.contamination), "benchmarks": sorted(settings.contamination.benchmarks)}
    if settings.difficulty:
        steps["difficulty"] = {**settings.difficulty.deciding(), "keep_rest": settings.difficulty.keep_rest}
    if settings.representative:
        steps["representative"] = {"clusters": settings.representative.clusters}
    return {"steps": steps, "pools": {state.name: state.report() for state in states}}
