r"""The tree of one question: selection, growth, back-up and its form on disk. No teacher, no clock, no randomness.

A node is a step; the root is the question. Every rollout's reward (0 or 1) is added to each node from the rollout's start up to the
root, so that a node's value is the mean reward of all rollouts at or below it. A child is selected by

$$\mathrm{PUCT}(c) = Q(c) + c_{puct} P(c) \frac{\sqrt{\sum_b N(b)}}{1 + N(c)}$$

(AlphaZero's rule, Silver et al. 2018; c_puct 2.0 is the FGRPO paper's). A text model gives no probability for a whole step, so the
prior P(c) is the share of the teacher's draws that said the same: equal draws are one child.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_prep.mcts.step import Step, read_step

FORMAT_VERSION = 1
ROOT = 0


class TreeError(ValueError):
    """What a file holds is no tree, or a tree is used against its rules."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A continuation that the teacher wrote from a node to an answer (or to nowhere) and its reward in [0, 1]."""

    steps: tuple[Step, ...]
    reward: float


@dataclass(slots=True)
class Node:
    """One step in the tree.

    Attributes:
        step: None for the root only.
        parent: index of the parent, -1 for the root.
        depth: 0 for the root.
        prior: share of the parent's draws that gave this step, in (0, 1].
        children: indices, in the order of the draws.
        expanded: whether the teacher was asked what follows.
        reward: exact reward of a node that ends the chain; None for others.
        visits, total: number and sum of the rewards backed up through this node.
        rollouts: what the teacher wrote from here to the end.
    """

    step: Step | None
    parent: int
    depth: int
    prior: float = 1.0
    children: list[int] = field(default_factory=list)
    expanded: bool = False
    reward: float | None = None
    visits: int = 0
    total: float = 0.0
    rollouts: list[Rollout] = field(default_factory=list)

    @property
    def value(self) -> float:
        """Mean reward at or below, 0 before the first visit."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def terminal(self) -> bool:
        return self.reward is not None


@dataclass(frozen=True, slots=True)
class Child:
    """A new node before it is hung into the tree: its step, prior, exact reward (None: none) and rollouts."""

    step: Step
    prior: float
    reward: float | None
    rollouts: tuple[Rollout, ...]


class Tree:
    """The search tree of one question.

    Attributes:
        uid: of the question.
        nodes: by index; nodes[0] is the root and a parent stands before its children.
        simulations: finished ones.
        tokens: prompt and completion tokens spent on it, also on draws that came to nothing.
        faults: teacher's answers that could not be used.
    """

    def __init__(self, uid: str, c_puct: float = 2.0) -> None:
        if not c_puct > 0 or not math.isfinite(c_puct):
            raise ValueError(f"c_puct must be a finite number > 0, got {c_puct!r}")
        self.uid = uid
        self.c_puct = c_puct
        self.nodes = [Node(None, -1, 0)]
        self.simulations = 0
        self.tokens = 0
        self.faults = 0

    def select(self) -> int:
        """Index of the node that the next simulation works on: down from the root by PUCT to one that is not expanded or ends a chain.

        Equal scores go to the child that was drawn first.
        """
        index = ROOT
        while self.nodes[index].children and not self.nodes[index].terminal:
            children = self.nodes[index].children
            total = sum(self.nodes[child].visits for child in children)
            index = max(children, key=lambda child: (self._score(child, total), -child))
        return index

    def _score(self, index: int, visits_of_all: int) -> float:
        node = self.nodes[index]
        return node.value + self.c_puct * node.prior * math.sqrt(visits_of_all) / (1 + node.visits)

    def grow(self, index: int, children: Sequence[Child]) -> list[int]:
        """Hang `children` below a node and back up their rewards; returns their indices.

        A child that ends the chain counts as often as the others' rollouts do, at least once; without children the node itself is a
        dead end of reward 0.

        Raises:
            TreeError: the node is expanded already, or ends a chain.
        """
        node = self.nodes[index]
        if node.expanded or node.terminal:
            raise TreeError(f"node {index} of {self.uid} cannot grow: it {'ends a chain' if node.terminal else 'is expanded'}")
        node.expanded = True
        if not children:
            node.reward = 0.0
            self.back_up(index, [0.0])
            return []
        weight = max([len(child.rollouts) for child in children] + [1])
        grown = []
        for child in children:
            self.nodes.append(Node(child.step, index, node.depth + 1, child.prior, reward=child.reward, rollouts=list(child.rollouts)))
            new = len(self.nodes) - 1
            node.children.append(new)
            grown.append(new)
            rewards = [rollout.reward for rollout in child.rollouts] if child.reward is None else [child.reward] * weight
            self.back_up(new, rewards)
        return grown

    def back_up(self, index: int, rewards: Sequence[float]) -> None:
        """Add rewards to a node and to every node above it."""
        while index >= 0:
            node = self.nodes[index]
            node.visits += len(rewards)
            node.total += sum(rewards)
            index = node.parent

    def steps_to(self, index: int) -> tuple[Step, ...]:
        """The chain from the root to a node, this one included."""
        steps: list[Step] = []
        while index > ROOT:
            node = self.nodes[index]
            if node.step is not None:
                steps.append(node.step)
            index = node.parent
        return tuple(reversed(steps))

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON: `from_dict` of it is an equal tree."""
        return {
            "format_version": FORMAT_VERSION,
            "uid": self.uid,
            "c_puct": self.c_puct,
            "simulations": self.simulations,
            "tokens": self.tokens,
            "faults": self.faults,
            "nodes": [_node_dict(node) for node in self.nodes],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Tree:
        """Raises TreeError for anything that `as_dict` does not write."""
        try:
            if value["format_version"] != FORMAT_VERSION:
                raise TreeError(f"a tree of format {value['format_version']!r}, expected {FORMAT_VERSION}")
            tree = cls(str(value["uid"]), float(value["c_puct"]))
            tree.simulations, tree.tokens, tree.faults = int(value["simulations"]), int(value["tokens"]), int(value["faults"])
            tree.nodes = [_read_node(node) for node in value["nodes"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise TreeError(f"no tree ({type(error).__name__}: {error})") from error
        for index, node in enumerate(tree.nodes):
            if (index == ROOT) != (node.parent < 0) or node.parent >= index or (node.step is None) != (index == ROOT):
                raise TreeError(f"node {index} of {tree.uid} has parent {node.parent}")
            if index:
                tree.nodes[node.parent].children.append(index)
        if not tree.nodes:
            raise TreeError("a tree without a root")
        return tree


def _node_dict(node: Node) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "parent": node.parent,
        "depth": node.depth,
        "prior": node.prior,
        "expanded": node.expanded,
        "reward": node.reward,
        "visits": node.visits,
        "total": node.total,
        "rollouts": [{"steps": [step.as_dict() for step in one.steps], "reward": one.reward} for one in node.rollouts],
    }
    return {"step": None if node.step is None else node.step.as_dict(), **fields}


def _read_node(value: Mapping[str, Any]) -> Node:
    return Node(
        step=None if value["step"] is None else read_step(value["step"]),
        parent=int(value["parent"]),
        depth=int(value["depth"]),
        prior=float(value["prior"]),
        expanded=bool(value["expanded"]),
        reward=None if value["reward"] is None else float(value["reward"]),
        visits=int(value["visits"]),
        total=float(value["total"]),
        rollouts=[Rollout(tuple(read_step(step) for step in one["steps"]), float(one["reward"])) for one in value["rollouts"]],
    )
