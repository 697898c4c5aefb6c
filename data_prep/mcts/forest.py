"""Thousands of trees at a time: one file for each, written after every simulation, so that a killed run continues where it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.manifest import write_text
from data_prep.mcts.search import SearchSettings, grow_tree
from data_prep.mcts.teacher import BudgetSpent, Teacher, TeacherFailure
from data_prep.mcts.tree import Tree
from data_prep.record import Record
from faithful_rl.config import ConfigError

logger = logging.getLogger(__name__)

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class Forest:
    """The trees of one run, one JSON file each."""

    def __init__(self, directory: Path, c_puct: float) -> None:
        self.directory, self._c_puct = directory, c_puct
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, uid: str) -> Path:
        """A file name that every file system takes, and that no other uid has."""
        return self.directory / f"{_UNSAFE.sub('_', uid)[:80]}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}.json"

    def tree(self, uid: str) -> Tree:
        """The saved tree, or a new one.

        Raises:
            ConfigError: a file that is no tree of this question.
        """
        path = self.path(uid)
        if not path.is_file():
            return Tree(uid, self._c_puct)
        try:
            tree = Tree.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, OSError) as error:
            raise ConfigError(
                str(path), f"no tree ({error})", "a tree that this command wrote", "Remove the file; its tree is grown anew."
            ) from error
        if tree.uid != uid:
            raise ConfigError(str(path), f"the tree of {tree.uid}", f"that of {uid}", "Remove the file; its tree is grown anew.")
        return tree

    def save(self, tree: Tree) -> None:
        write_text(self.path(tree.uid), json.dumps(tree.as_dict(), ensure_ascii=False))

    def spent(self, uids: Iterable[str] | None = None) -> int:
        """Tokens of the saved trees of these questions, of all for None. Raises ConfigError for a damaged file."""
        total = 0
        for path in sorted(self.directory.glob("*.json")) if uids is None else [self.path(uid) for uid in uids]:
            if not path.is_file():
                continue
            try:
                total += int(json.loads(path.read_text(encoding="utf-8"))["tokens"])
            except (ValueError, KeyError, TypeError) as error:
                fix = "Remove the file; its tree is grown anew."
                raise ConfigError(str(path), f"no tree ({error})", "a tree that this command wrote", fix) from error
        return total


@dataclass(slots=True)
class Outcome:
    """How a run of the forest ended. `failed`: uid -> what the teacher did; `budget` says why it stopped early, "" if it did not."""

    grown: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    budget: str = ""


async def grow_forest(
    records: Iterable[Record],
    forest: Forest,
    teacher: Teacher,
    settings: SearchSettings,
    concurrent: int = 64,
    progress: Callable[[Tree], None] | None = None,
) -> Outcome:
    """Grow the tree of every record; `progress(tree)` when one is finished.

    At most `concurrent` trees are open at a time, and records are read when their turn comes. A teacher's failure ends one tree for now
    and leaves the others alone; a spent budget ends the run.

    Raises:
        ConfigError: a damaged tree file, or a record that the teacher cannot serve.
    """
    outcome = Outcome()
    waiting: Iterator[Record] = iter(records)

    async def worker() -> None:
        for record in waiting:
            if outcome.budget:
                return
            tree = forest.tree(record.uid)
            try:
                await grow_tree(tree, record, teacher, settings, forest.save)
            except TeacherFailure as failure:
                outcome.failed[record.uid] = str(failure)
                logger.warning("tree left for a later run: %s", failure)
            except BudgetSpent as spent:
                outcome.budget = outcome.budget or str(spent)
                return
            else:
                outcome.grown += 1
                if progress is not None:
                    progress(tree)

    workers = [asyncio.ensure_future(worker()) for _ in range(concurrent)]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return outcome
