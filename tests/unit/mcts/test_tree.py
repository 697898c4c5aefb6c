"""The tree's arithmetic on numbers worked by hand, and its form on disk."""

import json
import math

import pytest

from data_prep.mcts.step import Step, last_box, read_step
from data_prep.mcts.tree import ROOT, Child, Rollout, Tree, TreeError

A, B, C = Step("a"), Step("b"), Step("c")
RIGHT, WRONG = Step("so A", answer="A"), Step("so B", answer="B")


def rollouts(*rewards: float) -> tuple[Rollout, ...]:
    return tuple(Rollout((RIGHT if reward else WRONG,), reward) for reward in rewards)


def grown() -> Tree:
    tree = Tree("q")
    tree.grow(ROOT, [Child(A, 2 / 3, None, rollouts(1, 0)), Child(B, 1 / 3, None, rollouts(1, 1))])
    return tree


def test_rollouts_are_backed_up_to_the_root() -> None:
    tree = grown()
    assert [(node.visits, node.value) for node in tree.nodes] == [(4, 0.75), (2, 0.5), (2, 1.0)]


def test_puct_by_hand() -> None:
    """Q + c P sqrt(N) / (1 + n) with c = 2, N = 4, n = 2: a has 0.5 + 2 * 2/3 * 2/3 = 1.389, b has 1 + 2 * 1/3 * 2/3 = 1.444."""
    tree = grown()
    assert tree._score(1, 4) == pytest.approx(0.5 + 8 / 9)
    assert tree._score(2, 4) == pytest.approx(1 + 4 / 9)
    assert tree.select() == 2


def test_selection_explores_what_is_seldom_visited() -> None:
    tree = grown()
    tree.back_up(2, [1.0] * 30)  # b: 1 + 2/3 * sqrt(34) / 33 = 1.118; a: 0.5 + 4/3 * sqrt(34) / 3 = 3.09
    assert tree.select() == 1


def test_equal_scores_go_to_the_first_draw() -> None:
    tree = Tree("q")
    tree.grow(ROOT, [Child(A, 0.5, None, rollouts(1)), Child(B, 0.5, None, rollouts(1))])
    assert tree.select() == 1


def test_a_step_that_answers_weighs_as_much_as_its_siblings_rollouts() -> None:
    tree = Tree("q")
    tree.grow(ROOT, [Child(RIGHT, 0.5, 1.0, ()), Child(B, 0.5, None, rollouts(0, 0))])
    assert [(node.visits, node.total) for node in tree.nodes] == [(4, 2.0), (2, 2.0), (2, 0.0)]
    assert tree.select() == 1  # and may be selected again


def test_a_node_that_nothing_follows_is_a_dead_end() -> None:
    tree = grown()
    tree.grow(2, [])
    assert tree.nodes[2].terminal
    assert (tree.nodes[2].visits, tree.nodes[2].total) == (3, 2.0)
    with pytest.raises(TreeError, match="ends a chain"):
        tree.grow(2, [Child(C, 1.0, None, rollouts(1))])


def test_a_node_grows_once() -> None:
    tree = grown()
    tree.grow(1, [Child(C, 1.0, None, rollouts(1))])
    assert tree.steps_to(3) == (A, C)
    with pytest.raises(TreeError, match="is expanded"):
        tree.grow(1, [Child(B, 1.0, None, rollouts(1))])


def test_json_and_back_is_the_same_tree() -> None:
    tree = grown()
    tree.grow(1, [Child(Step("c", (1.5, 2.0, 3.0, 4.0)), 1.0, None, rollouts(0, 1)), Child(RIGHT, 1.0, 1.0, ())])
    tree.simulations, tree.tokens, tree.faults = 2, 345, 1
    again = Tree.from_dict(json.loads(json.dumps(tree.as_dict())))
    assert again.as_dict() == tree.as_dict()
    assert again.nodes == tree.nodes
    assert again.select() == tree.select()


@pytest.mark.parametrize(
    "change",
    [{"format_version": 2}, {"nodes": []}, {"nodes": None}, {"uid": None, "c_puct": "x"}, {"tokens": None}],
)
def test_a_file_that_is_no_tree_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((TreeError, ValueError)):
        Tree.from_dict({**grown().as_dict(), **change})


def test_a_parent_that_comes_later_is_refused() -> None:
    value = grown().as_dict()
    value["nodes"][1]["parent"] = 2
    with pytest.raises(TreeError, match="has parent 2"):
        Tree.from_dict(value)


def test_steps_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="has text"):
        Step("  ")
    with pytest.raises(ValueError, match="four finite"):
        Step("a", (0, 0, math.nan, 1))
    with pytest.raises(ValueError, match="four finite"):
        read_step({"text": "a", "box": [1, 2]})
    assert last_box([Step("a", (1, 2, 3, 4)), Step("b")]) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="c_puct"):
        Tree("q", 0.0)
