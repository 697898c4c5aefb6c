"""The search against exhaustive enumeration of small games, its budget, and runs that break off."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mcts_scripted import Game, GameTeacher, exact_value, record

from data_prep.mcts.budget import Budget, Metered, estimate
from data_prep.mcts.forest import Forest, grow_forest
from data_prep.mcts.search import SearchSettings, grow_tree
from data_prep.mcts.step import Step
from data_prep.mcts.teacher import BudgetSpent, Reply, TeacherFailure, request_seed, reward
from data_prep.mcts.tree import ROOT, Tree
from data_prep.record import Record
from faithful_rl.config import ConfigError

# From "good" three of four ends are right, from "bad" one of four, from "odd" half.
GAME: Game = {
    "": ("good", "bad", "odd"),
    "good": ("g1", "g2"),
    "bad": ("b1", "b2"),
    "odd": ("!A", "!B"),
    "g1": ("!A", "!A2"),
    "g2": ("!A", "!B"),
    "b1": ("!B", "!B2"),
    "b2": ("!A", "!B"),
}


def searched(settings: SearchSettings, uid: str = "q", game: Game = GAME) -> Tree:
    tree = Tree(uid, settings.c_puct)
    asyncio.run(grow_tree(tree, record(uid), GameTeacher(game), settings, lambda tree: None))
    return tree


def test_the_papers_numbers_are_the_defaults() -> None:
    settings = SearchSettings()
    found = (settings.c_puct, settings.branching, settings.simulations, settings.rollouts, settings.depth)
    assert found == (2.0, 3, 8, 2, 10)
    assert settings.requests == 8 * 3 * 3


def test_value_estimates_are_those_of_exhaustive_search() -> None:
    """The mean over many trees of a fresh node's value is its exact value under the teacher's draws (unbiased rollouts)."""
    assert (exact_value(GAME, "good"), exact_value(GAME, "bad"), exact_value(GAME, "odd")) == (0.75, 0.25, 0.5)
    settings = SearchSettings(simulations=1, branching=3, rollouts=4)
    values: dict[str, list[float]] = {"good": [], "bad": [], "odd": []}
    for number in range(600):
        tree = searched(settings, uid=f"q{number}")
        for index in tree.nodes[ROOT].children:
            node = tree.nodes[index]
            assert node.step is not None
            values[node.step.text].append(node.value)
    for text, seen in values.items():
        # Standard error: below 0.25 / sqrt(400) = 0.0125 for four rollouts a node.
        assert sum(seen) / len(seen) == pytest.approx(exact_value(GAME, text), abs=0.05), text


def test_a_long_search_settles_on_the_best_branch() -> None:
    """Every line of the game is known by then: the root's most visited child leads only to right ends, as exhaustive search finds."""
    game: Game = {"": ("x", "y"), "x": ("x1", "x2"), "y": ("y1",), "x1": ("!A",), "x2": ("!B",), "y1": ("!B",)}
    tree = searched(SearchSettings(simulations=200, branching=6, rollouts=1, c_puct=0.5), game=game)
    index = ROOT
    line = []
    while tree.nodes[index].children:
        index = max(tree.nodes[index].children, key=lambda child: tree.nodes[child].visits)
        step = tree.nodes[index].step
        assert step is not None
        line.append(step.text)
    assert line == ["x", "x1", "So it is A."]
    assert tree.nodes[index].reward == 1.0
    assert tree.nodes[ROOT].value > 0.9


def test_visits_and_totals_add_up_everywhere() -> None:
    tree = searched(SearchSettings(simulations=20))
    for index, node in enumerate(tree.nodes):
        below = [tree.nodes[child] for child in node.children]
        own = node.visits - sum(child.visits for child in below)
        # An own visit is a rollout from here; the root has none, an end has all its visits for itself.
        assert own == (0 if index == ROOT else len(node.rollouts) if node.reward is None else node.visits)
        assert 0 <= node.value <= 1
        assert sum(child.prior for child in below) == pytest.approx(1.0 if below else 0.0)


def test_equal_draws_are_one_child() -> None:
    tree = searched(SearchSettings(simulations=1, branching=5), game={"": ("x",), "x": ("!A",)})
    assert len(tree.nodes) == 2
    assert tree.nodes[1].prior == pytest.approx(1.0)


def test_a_chain_ends_at_the_greatest_depth() -> None:
    game: Game = {"": ("x",), "x": ("y",), "y": ("z",), "z": ("!A",)}
    tree = searched(SearchSettings(simulations=6, depth=3), game=game)
    assert max(node.depth for node in tree.nodes) == 3
    assert tree.nodes[ROOT].value == 0.0  # the answer would be the fourth step
    assert searched(SearchSettings(simulations=6, depth=4), game=game).nodes[ROOT].value == 1.0


def test_reward_is_exact_match() -> None:
    question = record()
    assert reward(question, [Step("s", answer="(a)")]) == 1.0
    assert reward(question, [Step("s", answer="one.")]) == 1.0
    assert reward(question, [Step("s", answer="A or B")]) == 0.0
    assert reward(question, [Step("s")]) == 0.0
    assert reward(question, []) == 0.0


def test_the_same_request_has_the_same_seed() -> None:
    assert request_seed(0, "q", 3, "rest", 1) == request_seed(0, "q", 3, "rest", 1)
    assert len({request_seed(0, "q", place) for place in range(1000)}) == 1000
    assert all(0 <= request_seed(0, "q", place) < 2**31 for place in range(100))


class SilentTeacher(GameTeacher):
    async def next_step(self, record: Record, steps: Sequence[Step], *, seed: int) -> Reply:
        return Reply((), 7)


def test_a_teacher_without_a_usable_word_costs_tokens_and_leaves_a_dead_end() -> None:
    tree = Tree("q")
    asyncio.run(grow_tree(tree, record(), SilentTeacher({}), SearchSettings(simulations=2), lambda tree: None))
    assert tree.nodes[ROOT].terminal
    assert (len(tree.nodes), tree.tokens, tree.faults) == (1, 21, 3)


@pytest.mark.parametrize("fail_at", [0, 4, 30, 55])
def test_a_run_that_breaks_off_continues_to_the_same_tree(tmp_path: Path, fail_at: int) -> None:
    settings = SearchSettings()
    records = [record(f"q{number}") for number in range(4)]
    whole = Forest(tmp_path / "whole", settings.c_puct)
    asyncio.run(grow_forest(records, whole, GameTeacher(GAME), settings, concurrent=2))

    broken = Forest(tmp_path / "broken", settings.c_puct)

    class PowerCut(Exception):
        pass

    with pytest.raises(PowerCut):
        asyncio.run(grow_forest(records, broken, GameTeacher(GAME, fail_at, PowerCut()), settings, concurrent=2))
    asyncio.run(grow_forest(records, broken, GameTeacher(GAME), settings, concurrent=3))
    for one in records:
        assert broken.path(one.uid).read_bytes() == whole.path(one.uid).read_bytes()


def test_one_trees_failure_leaves_the_others_alone(tmp_path: Path) -> None:
    settings = SearchSettings(simulations=2)
    forest = Forest(tmp_path, settings.c_puct)
    teacher = GameTeacher(GAME, fail_at=1, failure=TeacherFailure("no answer"))
    outcome = asyncio.run(grow_forest([record(f"q{n}") for n in range(3)], forest, teacher, settings, concurrent=1))
    assert (outcome.grown, list(outcome.failed), outcome.budget) == (2, ["q0"], "")


def test_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    settings = SearchSettings()
    forest = Forest(tmp_path, settings.c_puct)
    budget = Budget(limit=1500)
    teacher = GameTeacher(GAME)
    records = [record(f"q{n}") for n in range(10)]
    outcome = asyncio.run(grow_forest(records, forest, Metered(teacher, budget), settings, concurrent=4))
    assert outcome.budget
    assert budget.spent <= 1500
    assert budget.reserved == 0
    assert forest.spent() <= budget.spent
    assert teacher.requests < 10 * settings.requests
    # What was saved counts when the run continues with more.
    more = Budget(limit=10**6, spent=forest.spent())
    outcome = asyncio.run(grow_forest(records, forest, Metered(teacher, more), settings, concurrent=4))
    assert (outcome.grown, outcome.budget) == (10, "")


def test_budget_by_hand() -> None:
    budget = Budget(limit=100, spent=20)
    budget.reserve(50)
    with pytest.raises(BudgetSpent, match="20 of 100"):
        budget.reserve(31)
    budget.settle(50, 10)
    assert (budget.spent, budget.reserved) == (30, 0)
    Budget().reserve(10**12)  # no limit


def test_the_estimate_is_an_upper_bound() -> None:
    settings = SearchSettings()
    teacher = GameTeacher(GAME)
    guess = estimate([record()], 5, teacher, settings)
    assert (guess.requests, guess.tokens) == (5 * 72, 5 * 72 * 50)
    tree = searched(settings)
    assert tree.tokens * 5 < guess.tokens
    assert guess.lines(9000, 0)[1] == "budget 9,000 tokens, 0 spent before: enough for about 2 of them"


def test_a_damaged_tree_file_is_named(tmp_path: Path) -> None:
    forest = Forest(tmp_path, 2.0)
    forest.path("q").write_text("{")
    with pytest.raises(ConfigError, match="no tree"):
        forest.tree("q")
    with pytest.raises(ConfigError, match=r"no tree .*Remove the file"):
        forest.spent()
    forest.path("q").write_text(json.dumps(Tree("other").as_dict()))
    with pytest.raises(ConfigError, match="the tree of other"):
        forest.tree("q")


def test_file_names_are_safe_and_distinct(tmp_path: Path) -> None:
    forest = Forest(tmp_path, 2.0)
    uids = ["../../etc/passwd", "a/b", "a_b", "x" * 500, "é", ""]
    paths = [forest.path(uid) for uid in uids]
    assert len(set(paths)) == len(uids)
    assert all(path.parent == tmp_path and len(path.name) < 120 for path in paths)


@pytest.mark.parametrize("change", [{"simulations": 0}, {"branching": 0}, {"c_puct": 0.0}, {"depth": 0}, {"seed": -1}])
def test_settings_out_of_range_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        SearchSettings(**change)
