"""The search in one tree: select, ask the teacher what follows, let it write on from each new step, back up.

The tree changes only after every reply of a simulation is there, so that a saved tree is always one between two simulations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.mcts.step import Step
from data_prep.mcts.teacher import Reply, Teacher, request_seed, reward
from data_prep.mcts.tree import Child, Rollout, Tree
from data_prep.record import Record
from faithful_rl.config import ConfigError


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """The paper's numbers (arXiv 2604.08476, data section) as defaults.

    Raises:
        ConfigError: a value out of its range.
    """

    simulations: int = 8  # per tree, >= 1
    branching: int = 3  # draws of the next step at a node, >= 1; equal draws are one child
    rollouts: int = 2  # continuations to the end from each new node, >= 1
    depth: int = 10  # steps of a chain, >= 1; a chain without an answer by then is wrong
    c_puct: float = 2.0  # > 0
    seed: int = 0  # of the teacher's draws, >= 0

    def __post_init__(self) -> None:
        for name, low in (("simulations", 1), ("branching", 1), ("rollouts", 1), ("depth", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ConfigError(name, getattr(self, name), f"a whole number >= {low}", f"Change {name}.")
        if not 0 < self.c_puct < 1000:
            raise ConfigError("c_puct", self.c_puct, "a number in (0, 1000)", "Change c_puct; the paper has 2.0.")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def requests(self) -> int:
        """The most requests that one tree can make."""
        return self.simulations * self.branching * (1 + self.rollouts)


async def grow_tree(tree: Tree, record: Record, teacher: Teacher, settings: SearchSettings, save: Callable[[Tree], None]) -> None:
    """Bring a tree to `settings.simulations`; `save(tree)` after each. A tree that has them is left alone.

    Raises:
        TeacherFailure, BudgetSpent: the tree is then as it was after its last whole simulation.
    """
    while tree.simulations < settings.simulations:
        await _simulate(tree, record, teacher, settings)
        tree.simulations += 1
        save(tree)


async def _simulate(tree: Tree, record: Record, teacher: Teacher, settings: SearchSettings) -> None:
    leaf = tree.select()
    node = tree.nodes[leaf]
    if node.reward is not None:
        tree.back_up(leaf, [node.reward] * settings.rollouts)
        return
    before = tree.steps_to(leaf)

    def seed(*place: object) -> int:
        return request_seed(settings.seed, record.uid, tree.simulations, *place)

    draws = await _together([teacher.next_step(record, before, seed=seed("step", draw)) for draw in range(settings.branching)])
    spent = sum(reply.tokens for reply in draws)
    steps = [reply.steps[0] for reply in draws if reply.steps]
    faults = len(draws) - len(steps)
    priors: dict[Step, float] = {}
    for step in steps:
        priors[step] = priors.get(step, 0.0) + 1 / len(steps)
    # A step that ends the chain, or stands at the greatest depth, is judged as it is; the teacher writes on from the others.
    open_steps = [step for step in priors if step.answer is None and len(before) + 1 < settings.depth]
    wanted = [(step, number) for step in open_steps for number in range(settings.rollouts)]
    replies = await _together(
        [teacher.rest(record, (*before, step), seed=seed("rest", list(priors).index(step), number)) for step, number in wanted]
    )
    rollouts: dict[Step, list[Rollout]] = {step: [] for step in open_steps}
    for (step, _), reply in zip(wanted, replies, strict=True):
        spent += reply.tokens
        faults += not reply.steps
        rest = reply.steps[: settings.depth - len(before) - 1]
        rollouts[step].append(Rollout(rest, reward(record, rest)))
    children = [
        Child(step, prior, None if step in rollouts else reward(record, [step]), tuple(rollouts.get(step, ())))
        for step, prior in priors.items()
    ]
    tree.grow(leaf, children)
    tree.tokens += spent
    tree.faults += faults


async def _together(requests: Sequence[Any]) -> list[Reply]:
    """All replies in order. The first failure ends the others, so that nothing runs on unseen."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
