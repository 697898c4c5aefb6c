"""From trees to chains, worked by hand; and the whole way from scenes to an SFT file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mcts_scripted import record

from data_prep.mcts import command
from data_prep.mcts.chains import BACKTRACK, Chain, ChainSettings, clipped, linearise, paths, with_chains, write_step
from data_prep.mcts.page import write_page
from data_prep.mcts.step import Step
from data_prep.mcts.tree import ROOT, Child, Rollout, Tree
from data_prep.scenes.dataset import SceneDataSettings, write_scenes
from faithful_rl.config import ConfigError
from faithful_rl.judges.request import JudgeRequest
from faithful_rl.judges.scene import SceneJudge
from faithful_rl.response import parse
from faithful_rl.rewards.sentences import split
from faithful_rl.types import Verdict

LOOK = Step("The cup is left.", (1.0, 2.0, 30.5, 40.0))
GOOD, BAD = Step("It is near."), Step("It is far away.")
RIGHT, WRONG = Step("So it is one.", answer="A"), Step("So it is two.", answer="B")


def tree() -> Tree:
    """question -> LOOK -> GOOD (right) | BAD (wrong)"""
    grown = Tree("q")
    grown.grow(ROOT, [Child(LOOK, 1.0, None, (Rollout((GOOD, RIGHT), 1.0), Rollout((BAD, WRONG), 0.0)))])
    grown.grow(1, [Child(GOOD, 0.5, None, (Rollout((RIGHT,), 1.0),)), Child(BAD, 0.5, None, (Rollout((WRONG,), 0.0),))])
    return grown


def test_paths_are_complete_chains_once_each() -> None:
    found = paths(tree())
    assert [(path.steps, path.reward) for path in found] == [((LOOK, GOOD, RIGHT), 1.0), ((LOOK, BAD, WRONG), 0.0)]


def test_direct_and_corrected_chains_by_hand() -> None:
    direct, corrected = linearise(tree(), ChainSettings())
    assert direct.text() == ("<think>The cup is left <bbox>[1,2,30.5,40]</bbox>. It is near. So it is one.</think><answer>A</answer>")
    assert corrected.text() == (
        "<think>The cup is left <bbox>[1,2,30.5,40]</bbox>. It is far away. "
        f"{BACKTRACK} It is near. So it is one.</think><answer>A</answer>"
    )
    assert corrected.wrong == (1, 2)
    assert all(parse(chain.text()).well_formed for chain in (direct, corrected))


def test_a_wrong_turn_keeps_no_answer() -> None:
    grown = Tree("q")
    grown.grow(ROOT, [Child(WRONG, 0.5, 0.0, ()), Child(RIGHT, 0.5, 1.0, ())])
    corrected = linearise(grown, ChainSettings(direct=0))
    assert [chain.text() for chain in corrected] == [f"<think>So it is two. {BACKTRACK} So it is one.</think><answer>A</answer>"]


def test_numbers_of_chains_are_kept_and_shortest_come_first() -> None:
    grown = Tree("q")
    ends = [Child(Step("So " * number + "one.", answer="A"), 0.1, 1.0, ()) for number in range(1, 13)]
    grown.grow(ROOT, [*reversed(ends), *(Child(Step(f"no{number}", answer="B"), 0.1, 0.0, ()) for number in range(5))])
    chains = linearise(grown, ChainSettings())
    assert [chain.kind for chain in chains] == ["direct"] * 8 + ["corrected"] * 2
    assert [len(chain.steps[0].text.split()) for chain in chains[:8]] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert chains[8].steps[0] != chains[9].steps[0]  # two different wrong turns


def test_corrected_chains_are_the_shortest_too() -> None:
    """Three wrong turns below the question: the tree is surest of the longest one, and trusts the shortest (two of three right)."""
    long, short, trusted = Step("A long and winding false step."), Step("A false step."), Step("Perhaps.")
    one_right = Rollout((), 1.0)  # counts in a value and gives no chain
    grown = Tree("q")
    grown.grow(
        ROOT,
        [
            Child(RIGHT, 0.25, 1.0, ()),
            Child(long, 0.25, None, (Rollout((WRONG,), 0.0),) * 2),
            Child(short, 0.25, None, (Rollout((WRONG,), 0.0), one_right)),
            Child(trusted, 0.25, None, (Rollout((WRONG,), 0.0), one_right, one_right)),
        ],
    )
    chains = linearise(grown, ChainSettings(direct=0, corrected=3))
    assert [chain.steps[0] for chain in chains] == [short, long, trusted]
    assert [chain.steps[-1] for chain in chains] == [RIGHT] * 3


def test_of_equally_long_chains_the_more_trusted_comes_first() -> None:
    """A false step from which the right answer was reached once in two rollouts stands behind a true one."""
    end = Step("So it is one.", answer="A")
    grown = Tree("q")
    false, true = Step("A false step."), Step("A true step.")
    grown.grow(
        ROOT, [Child(false, 0.5, None, (Rollout((end,), 1.0), Rollout((WRONG,), 0.0))), Child(true, 0.5, None, (Rollout((end,), 1.0),) * 2)]
    )
    assert [chain.steps[0] for chain in linearise(grown, ChainSettings(corrected=0))] == [true, false]


def test_a_tree_without_a_right_answer_gives_nothing() -> None:
    grown = Tree("q")
    grown.grow(ROOT, [Child(WRONG, 1.0, 0.0, ())])
    assert linearise(grown, ChainSettings()) == []
    assert with_chains(record(), grown, ChainSettings()) == []


def test_the_back_tracking_sentence_gives_a_judge_nothing_to_check() -> None:
    sentences = split(f"The cup is left. {BACKTRACK} The cup is right.")
    assert [sentence.trivial for sentence in sentences] == [False, True, False]


def test_boxes_stand_before_the_full_stop() -> None:
    assert write_step(Step("A cup", (0, 0, 2, 2))) == "A cup <bbox>[0,0,2,2]</bbox>."
    assert write_step(Step("A cup!", (0, 0, 2.126, 2))) == "A cup <bbox>[0,0,2.13,2]</bbox>!"
    assert write_step(Step("A cup.")) == "A cup."


def test_boxes_are_clipped_to_the_image() -> None:
    assert clipped((-5, 3, 70, 60), (64, 48)) == (0, 3, 64, 48)
    assert clipped((30, 30, 10, 10), (64, 48)) == (10, 10, 30, 30)
    assert clipped((70, 0, 90, 10), (64, 48)) is None


def test_records_of_chains_name_their_question() -> None:
    made = with_chains(record("u"), tree(), ChainSettings())
    assert [(one.uid, one.metadata["question_uid"], one.metadata["chain"]) for one in made] == [
        ("u-direct0", "u", "direct"),
        ("u-corrected1", "u", "corrected"),
    ]


def test_a_page_escapes_what_others_wrote(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>"
    grown = Tree("q")
    grown.grow(ROOT, [Child(Step(nasty, (1, 2, 3, 4), answer="A"), 1.0, 1.0, (Rollout((Step(nasty, answer=nasty),), 0.0),))])
    question = replace(record(), question=nasty, options=(nasty, "two"), gold_text=nasty)
    write_page(tmp_path / "page.html", grown, question, ChainSettings())
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert "http://" not in page
    assert "https://" not in page


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(directory, SceneDataSettings(train=12, val=1, test=1))
    return directory


def run(scenes: Path, out: Path, *more: str) -> int:
    return command.main([f"in={scenes}", f"out={out}", "teacher=scene", *more])


def test_scenes_become_chains_that_the_exact_judge_accepts(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scenes, tmp_path / "out", "quarter=0") == 0
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    questions = {row["extra_info"]["uid"]: row for row in pq.read_table(scenes / "train.parquet").to_pylist()}
    assert manifest["counts"]["questions"] == 12
    assert manifest["sources"]["questions"]["manifest"]["dataset"] == "scenes"
    assert (manifest["settings"]["frame"]["chain"], manifest["settings"]["frame"]["max_pixels"]) == ("verl", 12_544)
    assert len(rows) == manifest["counts"]["chains_direct"] + manifest["counts"]["chains_corrected"]
    judge = SceneJudge()
    for row in rows:
        question = questions[json.loads(row["meta_json"])["question_uid"]]
        extra = question["extra_info"]
        assert row["messages"][:-1] == question["prompt"]
        parsed = parse(row["messages"][-1]["content"])
        assert parsed.well_formed
        assert parsed.answer == question["reward_model"]["ground_truth"]
        request = JudgeRequest(
            row["uid"], extra["question"], tuple(extra["options"]), parsed.reasoning, parsed.answer, scene_json=extra["scene_json"]
        )
        verdicts = [verdict.verdict for verdict in judge.grounding(request)]
        if json.loads(row["meta_json"])["chain"] == "direct":
            assert set(verdicts) == {Verdict.CORRECT}
            assert judge.consistency(request).value == 1.0
            assert [box.as_list() for box in parsed.boxes] == extra["gt_boxes"]
        else:
            assert Verdict.INCORRECT in verdicts  # the wrong turn
    assert len(list((tmp_path / "out" / "html").glob("*.html"))) == 3
    assert "chains direct" in capsys.readouterr().out


def test_the_same_command_gives_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(scenes, tmp_path / name, "limit=4", "simulations=3") == 0
    for file in ("train.parquet", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert run(scenes, tmp_path / "one", "limit=4", "simulations=3") == 0  # again: nothing to do, the same files
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()


def test_the_bar_of_a_repeated_run_counts_tokens_once(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Bar(command.Progress):  # type: ignore[misc]
        def update(self, task_id: Any, **fields: Any) -> None:
            seen.append(fields["tokens"])
            super().update(task_id, **fields)

    monkeypatch.setattr(command, "Progress", Bar)
    for _ in range(2):
        assert run(scenes, tmp_path / "out", "limit=3", "simulations=2", "concurrent=1") == 0
    spent = json.loads((tmp_path / "out" / "manifest.json").read_text())["run"]["tokens"]
    assert seen[:3] == seen[3:]
    assert seen[2] == spent


def test_shards_share_a_directory(scenes: Path, tmp_path: Path) -> None:
    assert run(scenes, tmp_path / "whole", "limit=6", "simulations=2") == 0
    assert run(scenes, tmp_path / "parts", "limit=6", "simulations=2", "shard=0/2") == 1  # the other part's trees are missing
    assert not (tmp_path / "parts" / "manifest.json").exists()
    assert run(scenes, tmp_path / "parts", "limit=6", "simulations=2", "shard=1/2") == 0
    assert (tmp_path / "parts" / "train.parquet").read_bytes() == (tmp_path / "whole" / "train.parquet").read_bytes()


def test_a_spent_budget_stops_and_can_be_raised(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scenes, tmp_path / "out", "limit=4", "budget_tokens=4000", "concurrent=1") == 3
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert "accept_budget=true" in capsys.readouterr().out
    assert run(scenes, tmp_path / "out", "limit=4", "budget_tokens=4_000", "accept_budget=true") == 0
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert 0 < counts["dropped_unfinished_tree"] < 4
    assert run(scenes, tmp_path / "out", "limit=4") == 0
    assert "dropped_unfinished_tree" not in json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in=nowhere", "out=x", "teacher=scene"], "in: found nowhere"),
        (["out=x", "teacher=scene"], "in: found nothing"),
        (["in=a", "out=x", "teacher=scene", "simulation=3"], "found 'simulation=3'"),
        (["in=a", "out=x", "teacher=scene", "simulations=many"], "simulations: found 'many'"),
        (["in=a", "in=b"], "in: found two values"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_directory_with_other_settings_is_refused(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scenes, tmp_path / "out", "limit=2", "simulations=1") == 0
    assert run(scenes, tmp_path / "out", "limit=2", "simulations=2") == 2
    assert "other settings (search)" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    assert run(scenes, tmp_path / "mine") == 2
    assert run(scenes, tmp_path / "mine" / "thesis.txt") == 2
    assert "thesis.txt, expected a directory" in capsys.readouterr().err


def test_a_start_that_was_refused_costs_no_directory(scenes: Path, tmp_path: Path) -> None:
    assert run(scenes, tmp_path / "out", "limit=2", "budget_tokens=1") == 3  # not one tree is grown
    assert run(scenes, tmp_path / "out", "limit=2", "simulations=1") == 0


def test_data_that_differs_from_its_manifest_is_refused(scenes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    write_scenes(copy, SceneDataSettings(train=3, val=1, test=1))
    (copy / "train.parquet").write_bytes((scenes / "train.parquet").read_bytes())
    with pytest.raises(ConfigError, match="differs from its manifest"):
        command.open_source(copy)


def test_a_chain_knows_its_length() -> None:
    assert Chain("direct", (GOOD, RIGHT)).words() == 7
