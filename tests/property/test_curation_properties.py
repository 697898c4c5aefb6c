"""Shares, clusters and trees under arbitrary input."""

import asyncio
import json
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.curation.clusters import embed, sample, shares
from data_prep.mcts.chains import ChainSettings, linearise
from data_prep.mcts.search import SearchSettings, grow_tree
from data_prep.mcts.step import Step
from data_prep.mcts.teacher import Reply
from data_prep.mcts.tree import ROOT, Tree
from data_prep.record import Image, Record
from faithful_rl.response import parse

QUESTION = Record("q", "made", "train", "Which?", ("one", "two"), 0, "one", (Image(b"x", None, 8, 8),))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.data())
def test_shares_add_up_and_are_as_even_as_sizes_allow(sizes: list[int], data: st.DataObject) -> None:
    amount = data.draw(st.integers(0, sum(sizes)))
    taken = shares(sizes, amount)
    assert sum(taken) == amount
    assert all(0 <= number <= size for number, size in zip(taken, sizes, strict=True))
    open_ones = [number for number, size in zip(taken, sizes, strict=True) if number < size]
    if open_ones:  # who is not exhausted has as much as anybody, but for the remainder
        assert min(open_ones) >= max(taken) - 1


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 3), st.data())
def test_a_sample_is_distinct_ascending_and_repeatable(rows: int, clusters: int, seed: int, data: st.DataObject) -> None:
    amount = data.draw(st.integers(0, rows))
    vectors = np.random.default_rng(rows).normal(size=(rows, 3)).round(1)
    chosen = sample(vectors, amount, clusters, seed)
    assert len(chosen) == amount
    assert chosen == sorted(set(chosen))
    assert all(0 <= number < rows for number in chosen)
    assert sample(vectors, amount, clusters, seed) == chosen


def test_rare_kinds_of_questions_are_represented() -> None:
    questions = [f"How many chairs are in room {number}?" for number in range(90)] + [
        "Which bird has a yellow beak?",
        "Where does the train stop?",
    ] * 3
    chosen = sample(embed(questions, 0), 9, 3, 0)
    kinds = {questions[number].split()[0] for number in chosen}
    assert kinds == {"How", "Which", "Where"}
    assert len(chosen) == 9


def test_questions_without_words_are_no_reason_to_fail() -> None:
    assert len(sample(embed(["?", "!", "?"], 0), 2, 2, 0)) == 2
    with pytest.raises(ValueError, match="5 of 3"):
        sample(embed(["a b", "c d", "e f"], 0), 5, 2, 0)


class RandomTeacher:
    """Steps out of a small alphabet, sometimes with a box or an answer, sometimes nothing."""

    async def next_step(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        return Reply(tuple(self._draw(Random(seed))), 5)

    async def rest(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        rng = Random(seed)
        return Reply(tuple(step for _ in range(rng.randint(0, 4)) for step in self._draw(rng)), 9)

    def _draw(self, rng: Random) -> list[Step]:
        if rng.random() < 0.15:
            return []
        box = (1.0, 2.0, 3.0, 4.0) if rng.random() < 0.3 else None
        return [Step(f"Step {rng.choice('abc')}.", box, rng.choice((None, None, "A", "B")))]

    def step_tokens(self, record: Record, steps: Sequence[Step]) -> int:
        return 9

    async def start(self) -> None: ...

    async def close(self) -> None: ...


@settings(max_examples=60)
@given(
    st.integers(0, 2**31 - 1),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 6),
    st.floats(0.1, 5, allow_nan=False),
)
def test_any_tree_keeps_its_books_and_survives_the_disk(
    seed: int, simulations: int, branching: int, rollouts: int, depth: int, c: float
) -> None:
    chosen = SearchSettings(simulations, branching, rollouts, depth, c, seed)
    tree = Tree("q", c)
    saved: list[str] = []
    asyncio.run(grow_tree(tree, QUESTION, RandomTeacher(), chosen, lambda one: saved.append(json.dumps(one.as_dict()))))
    assert len(saved) == simulations
    for index, node in enumerate(tree.nodes):
        assert 0 <= node.total <= node.visits
        assert node.depth <= depth
        if index:
            assert tree.nodes[node.parent].depth == node.depth - 1
        if node.children:
            assert node.visits == sum(tree.nodes[child].visits for child in node.children) + len(node.rollouts)
    assert tree.nodes[ROOT].visits >= simulations
    # A tree taken from the disk after any simulation grows to the same end.
    for text in saved[:: max(simulations // 3, 1)]:
        again = Tree.from_dict(json.loads(text))
        asyncio.run(grow_tree(again, QUESTION, RandomTeacher(), chosen, lambda one: None))
        assert again.as_dict() == tree.as_dict()
    for chain in linearise(tree, ChainSettings()):
        parsed = parse(chain.text())
        assert parsed.well_formed
        assert parsed.answer == "A"
        assert parsed.invalid_boxes == 0
