"""From RL questions to an SFT data set: grow the trees, write their chains, and the manifest last."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep import manifest
from data_prep.mcts.budget import Budget, Estimate, Metered, estimate
from data_prep.mcts.chains import BACKTRACK, ChainSettings, with_chains
from data_prep.mcts.forest import Forest, Outcome, grow_forest
from data_prep.mcts.page import write_page
from data_prep.mcts.questions import Question, Source
from data_prep.mcts.search import SearchSettings
from data_prep.mcts.teacher import Teacher
from data_prep.mcts.tree import Tree
from data_prep.writers.parquet import write_rows
from data_prep.writers.sft import SCHEMA, sft_row
from faithful_rl.config import ConfigError

TREES, TRAIN, PAGES, SETTINGS = "trees", "train.parquet", "html", "settings.json"
LOST = "lost-{}-of-{}.json"  # of one part of the questions: tokens that stand in no tree
ESTIMATE_FROM = 64  # rows
FINISHED, UNFINISHED, OUT_OF_BUDGET = "finished", "unfinished", "budget spent"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Everything about a run besides its source and its teacher's address.

    Raises:
        ConfigError: a value out of its range.
    """

    search: SearchSettings = field(default_factory=SearchSettings)
    chains: ChainSettings = field(default_factory=ChainSettings)
    limit: int = 0  # questions, 0: all
    concurrent: int = 64  # trees open at a time, >= 1
    budget_tokens: int = 0  # 0: no limit
    max_unfinished: float = 0.01  # share of the questions whose tree may be left unfinished, in [0, 1]
    accept_budget: bool = False  # a spent budget still gives a data set, from the finished trees
    pages: int = 3  # trees also written as HTML
    shard: tuple[int, int] = (0, 1)  # this process's part of the questions; parts share the directory, one of them writes the chains

    def __post_init__(self) -> None:
        for name, low in (("limit", 0), ("concurrent", 1), ("budget_tokens", 0), ("pages", 0)):
            if getattr(self, name) < low:
                raise ConfigError(name, getattr(self, name), f"a whole number >= {low}", f"Change {name}.")
        if not 0 <= self.max_unfinished <= 1:
            raise ConfigError("max_unfinished", self.max_unfinished, "a share in [0, 1]", "Change max_unfinished.")
        if not 0 <= self.shard[0] < self.shard[1]:
            raise ConfigError("shard", f"{self.shard[0]}/{self.shard[1]}", "a part such as 0/4", "Count parts from 0.")

    def deciding(self) -> dict[str, Any]:
        """What decides the bytes of the data set; a directory holds one such set of values."""
        return {"search": self.search.as_dict(), "chains": asdict(self.chains), "limit": self.limit, "backtrack": BACKTRACK}


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `counts` is empty unless the data set was written."""

    status: str
    outcome: Outcome
    spent: int
    counts: dict[str, int] = field(default_factory=dict)


def prepare(source: Source, out: Path, settings: RunSettings, teacher_settings: dict[str, Any]) -> Forest:
    """Make the directory, or recognise an earlier start of the same run there.

    Raises:
        ConfigError: the directory holds something else, or a run with other settings.
    """
    deciding = {"source": source.sha256, "teacher": teacher_settings, **settings.deciding()}
    path = out / SETTINGS
    if out.exists() and not out.is_dir():
        raise ConfigError("out", f"the file {out}", "a directory", "Choose another out=.")
    begun = any((out / TREES).glob("*.json"))  # without a tree an earlier start was refused itself, and nothing can be mixed
    if path.is_file() and begun:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(str(path), f"no JSON ({error})", "settings of a run", "Choose another out=.") from error
        different = sorted(key for key in deciding if found.get(key) != json.loads(json.dumps(deciding[key])))
        if different:
            fix = "Choose another out=, or repeat the settings in that file to continue."
            raise ConfigError(
                "out", f"{out} with a run of other settings ({', '.join(different)})", "a new directory or the same settings", fix
            )
    elif begun or (out.is_dir() and any(entry.name not in (SETTINGS, TREES) for entry in out.iterdir() if not entry.match("lost-*.json"))):
        raise ConfigError("out", f"{out}, which is not empty", "a new directory, or one with an unfinished run", "Choose another out=.")
    out.mkdir(parents=True, exist_ok=True)
    if not begun:
        manifest.write_text(path, json.dumps(deciding, indent=2, sort_keys=True) + "\n")
    return Forest(out / TREES, settings.search.c_puct)


def expected(source: Source, teacher: Teacher, settings: RunSettings) -> Estimate:
    """The most that the run can ask for, from the first rows."""
    rows = min(source.rows, settings.limit or source.rows)
    mine = len(range(settings.shard[0], rows, settings.shard[1]))
    sample = (question.record for question in islice(source.questions(settings.limit, settings.shard), ESTIMATE_FROM))
    return estimate(sample, mine, teacher, settings.search)


def run(
    source: Source,
    out: Path,
    teacher: Teacher,
    settings: RunSettings,
    teacher_settings: dict[str, Any],
    progress: Callable[[Tree], None] | None = None,
) -> Result:
    """Grow what is not grown yet and, when enough trees are finished, write `train.parquet`, pages and the manifest.

    The same questions, settings and replies give the same bytes, however often the run was interrupted. With several shards each
    process grows its own part; the one that finds all trees finished writes the data set.

    Raises:
        ConfigError: see `prepare`; a damaged tree; a teacher that does not start.
    """
    forest = prepare(source, out, settings, teacher_settings)
    budget = Budget(settings.budget_tokens, spent_before(source, out, forest, settings))
    try:
        outcome = asyncio.run(_grow(source, forest, Metered(teacher, budget), settings, progress))
    finally:
        _keep_lost(source, out, forest, settings, budget.spent)
    missing = _missing(source, forest, settings)
    total = min(source.rows, settings.limit or source.rows)
    if outcome.budget and not settings.accept_budget:
        return Result(OUT_OF_BUDGET, outcome, budget.spent)
    if not outcome.budget and missing > settings.max_unfinished * total:
        return Result(UNFINISHED, outcome, budget.spent)
    frames: list[dict[str, Any]] = []
    counts = _write(source, out, forest, settings, frames)
    described = {"budget_spent": bool(outcome.budget), "tokens": forest.spent(), "teacher": teacher_settings}
    # Every image says its own limits; where all agree the manifest says them too, as that of any other data set does.
    decided = {**settings.deciding(), **({"frame": frames[0]} if len(frames) == 1 else {"frames": frames})}
    built = manifest.build("sft", decided, {"questions": source.as_dict()}, {TRAIN: out / TRAIN}, counts=counts, run=described)
    manifest.write(out, built)
    return Result(FINISHED, outcome, budget.spent, counts)


def spent_before(source: Source, out: Path, forest: Forest, settings: RunSettings) -> int:
    """Tokens that earlier starts spent on this part of the questions: those of its trees, and those that stand in no tree (of failed
    attempts and of simulations that did not come to their end; a killed process could not write its own down)."""
    return _in_trees(source, forest, settings) + sum(_read_lost(path) for path in _lost_files(out, settings))


def _in_trees(source: Source, forest: Forest, settings: RunSettings) -> int:
    return forest.spent(question.record.uid for question in source.questions(settings.limit, settings.shard))


def _lost_files(out: Path, settings: RunSettings) -> list[Path]:
    """The part's own; the whole counts those of its parts too."""
    return sorted(out.glob("lost-*.json")) if settings.shard[1] == 1 else [out / LOST.format(*settings.shard)]


def _read_lost(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["tokens"]) if path.is_file() else 0
    except (ValueError, KeyError, TypeError) as error:
        fix = "Remove the file; its tokens are forgotten."
        raise ConfigError(str(path), f"no count of tokens ({error})", "a file that this command wrote", fix) from error


def _keep_lost(source: Source, out: Path, forest: Forest, settings: RunSettings, spent: int) -> None:
    own = out / LOST.format(*settings.shard)
    others = sum(_read_lost(path) for path in _lost_files(out, settings) if path != own)
    lost = spent - _in_trees(source, forest, settings) - others
    if lost > 0:
        manifest.write_text(own, json.dumps({"tokens": lost}) + "\n")


async def _grow(
    source: Source, forest: Forest, teacher: Teacher, settings: RunSettings, progress: Callable[[Tree], None] | None
) -> Outcome:
    await teacher.start()
    try:
        records = (question.record for question in source.questions(settings.limit, settings.shard))
        return await grow_forest(records, forest, teacher, settings.search, settings.concurrent, progress)
    finally:
        await teacher.close()


def _missing(source: Source, forest: Forest, settings: RunSettings) -> int:
    """Questions of all shards whose tree is not finished."""
    uids = (question.record.uid for question in source.questions(settings.limit))
    return sum(not forest.path(uid).is_file() or forest.tree(uid).simulations < settings.search.simulations for uid in uids)


def _write(source: Source, out: Path, forest: Forest, settings: RunSettings, frames: list[dict[str, Any]]) -> dict[str, int]:
    """Write the chains and pages; returns the counts and adds the frames of the questions, each once, to `frames`."""
    counts: Counter[str] = Counter()
    pages = out / PAGES

    def rows() -> Iterator[dict[str, Any]]:
        for question in source.questions(settings.limit):
            tree = forest.tree(question.record.uid) if forest.path(question.record.uid).is_file() else None
            if question.frame.as_dict() not in frames:
                frames.append(question.frame.as_dict())
            yield from _rows(question, tree, settings, counts)
            if tree is not None and counts["pages"] < settings.pages:
                write_page(pages / f"{forest.path(tree.uid).stem}.html", tree, question.record, settings.chains)
                counts["pages"] += 1

    write_rows(rows(), out / TRAIN, SCHEMA)
    return dict(sorted(counts.items()))


def _rows(question: Question, tree: Tree | None, settings: RunSettings, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    counts["questions"] += 1
    if tree is None or tree.simulations < settings.search.simulations:
        counts["dropped_unfinished_tree"] += 1
        return
    counts["nodes"] += len(tree.nodes) - 1
    counts["teacher_faults"] += tree.faults
    chains = with_chains(question.record, tree, settings.chains)
    counts["questions_with_chains" if chains else "dropped_no_right_chain"] += 1
    for record in chains:
        counts[f"chains_{record.metadata['chain']}"] += 1
        kept = replace(record, metadata={key: value for key, value in record.metadata.items() if key != "scene_json"})
        yield sft_row(kept, question.system, question.frame)
